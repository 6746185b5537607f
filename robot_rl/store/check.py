"""Reading everything in a store to see whether it is as the format says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from robot_rl.errors import StoreError
from robot_rl.store.chunks import checksummed, damaged_chunks, read_rows
from robot_rl.store.files import WholeFileStore
from robot_rl.store.labels import label_names
from robot_rl.store.layout import SOURCES, TABLE
from robot_rl.store.raw import RawStore, partials

OnProgress = Callable[[int, int], None]
"""Called with what is done and the whole, in rows of arrays."""


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it should be.

    Attributes:
        what: What is wrong, in one line.
        rows: Rows it touches, (first, one past the last); None when it touches no particular rows.
        episodes: First and last episode it touches, or None.
        advice: What to do.
        file: File it lies in, or None.
        harmless: Nothing that counts is affected.
    """

    what: str
    rows: tuple[int, int] | None = None
    episodes: tuple[int, int] | None = None
    advice: str = ""
    file: Path | None = None
    harmless: bool = False

    def __str__(self) -> str:
        parts = [self.what]
        if self.rows is not None:
            parts.append(_span("row", self.rows[0], self.rows[1] - 1))
        if self.episodes is not None:
            parts.append(_span("episode", *self.episodes))
        return ", ".join(parts) + (f". {self.advice}" if self.advice else "")


@dataclass
class StoreReport:
    """What `check_store` found.

    Attributes:
        path: The store.
        rows: Committed rows.
        episodes: Episodes with committed rows.
        unprotected: Arrays without checksums: written before there were any.
        problems: What is wrong.
        whole: Whole and sound episodes, (first row, one past the last), oldest first; an open one is among them.
    """

    path: Path
    rows: int = 0
    episodes: int = 0
    unprotected: list[str] = field(default_factory=list[str])
    problems: list[Problem] = field(default_factory=list[Problem])
    whole: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @property
    def ok(self) -> bool:
        return all(problem.harmless for problem in self.problems)


def check_store(path: Path, on_progress: OnProgress | None = None) -> StoreReport:
    """Read everything committed and see whether it is sound. Allowed while another process appends.

    Verified: checksums, missing files, finite numbers, flags and indices within their ranges, that episodes are
    numbered without gaps and end as the format says, that commit.json agrees with the rows, instructions and labels.
    """
    report = StoreReport(path)
    try:
        store = RawStore(path)
    except StoreError as error:
        report.problems.append(Problem(str(error), file=cast("Path", error.fields.get("path"))))
        return report
    rows = report.rows = store.commit["rows"]
    report.episodes = store.commit["episodes"]
    report.unprotected = [name for name, array in store.arrays.items() if not checksummed(array)]
    labels = label_names(path)
    total, done = rows * (len(store.arrays) + len(labels)), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    table = np.full((rows, store.layout.width), np.nan)  # NaN: not readable
    bad = np.zeros(rows, np.bool_)
    problems: list[Problem] = []
    for name in store.arrays:
        bad |= _read_array(store, name, table, problems, advance)
    for kind, wrong in _wrong_values(store, table).items():
        _tell(problems, kind, wrong & ~bad)
        bad |= wrong
    report.whole = _structure(store, table, bad, problems)
    for name in labels:
        _check_label(path, name, rows, problems)
        advance(rows)
    repair = f"Repair: robot-rl store repair {path}"
    episode = table[:, store.layout.columns["episode"].start]
    report.problems = [_complete(problem, episode, repair) for problem in problems]
    report.problems += [
        Problem(f"{file.relative_to(path)} was left half written by a killed process", file=file, harmless=True)
        for file in partials(path)
    ]
    return report


def _span(noun: str, first: int, last: int) -> str:
    return f"{noun} {first}" if first == last else f"{noun}s {first} to {last}"


def _read_array(
    store: RawStore, name: str, table: NDArray[np.float64], problems: list[Problem], advance: Callable[[int], None]
) -> NDArray[np.bool_]:
    """Read an array, the table into `table`; say which rows of it are damaged."""
    rows = store.commit["rows"]
    bad = np.zeros(rows, np.bool_)
    infinite = np.zeros(rows, np.bool_)
    for first, last in store.blocks(name, 0, rows + store.provisional):
        for start, read in _pieces(store, name, first, last, bad, problems):
            values = read[: max(0, rows - start)]
            where = slice(start, start + len(values))
            if name == TABLE:
                table[where] = values
            if values.dtype.kind == "f":
                infinite[where] = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        advance(min(last, rows) - min(first, rows))
    _tell(problems, f"{name} is not finite", infinite)
    return bad | infinite


def _pieces(
    store: RawStore, name: str, first: int, last: int, bad: NDArray[np.bool_], problems: list[Problem]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, rows) of what can be read of a block, and mark the rest as bad."""
    try:
        values = store.read(name, first, last)
    except StoreError as error:
        damaged = damaged_chunks(error)
    else:
        yield first, values
        return
    chunk = int(store.arrays[name].chunks[0])
    for damage in damaged:
        bad[damage.start : damage.stop] = True
        stop = min(damage.stop, store.commit["rows"])
        span = (damage.start, stop) if stop > damage.start else None
        problems.append(Problem(f"{damage.file.relative_to(store.path)}: {damage.reason}", span, file=damage.file))
    broken = {damage.start for damage in damaged}
    for start in range(first // chunk * chunk, last, chunk):
        if start not in broken:
            start, stop = max(first, start), min(last, start + chunk)  # noqa: PLW2901
            yield start, store.read(name, start, stop)


def _tell(problems: list[Problem], what: str, wrong: NDArray[np.bool_]) -> None:
    """Add one problem for each run of wrong rows."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wrong, [False]]).astype(np.int8)))
    problems.extend(Problem(what, (int(start), int(stop))) for start, stop in edges.reshape(-1, 2))


def _wrong_values(store: RawStore, table: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """Return what can be wrong with a row by itself, and with which rows it is."""
    columns = store.layout.columns

    def column(name: str) -> NDArray[np.float64]:
        return table[:, columns[name].start]

    def outside(name: str, count: int) -> NDArray[np.bool_]:
        return ~np.isin(column(name), np.arange(count))

    final = column("final") == 1
    idle = ["action", "reward", "terminated", "truncated", "success"]
    acted = np.zeros(len(table), np.bool_)
    for name in idle:
        acted |= table[:, columns[name].start : columns[name].stop].any(axis=1)
    wrong = {f"{name} is neither 0 nor 1": outside(name, 2) for name in ("terminated", "truncated", "success", "final")}
    wrong[f"source is none of {', '.join(SOURCES)}"] = outside("source", len(SOURCES))
    wrong["instruction is not in instructions.json"] = outside("instruction", len(store.instructions))
    wrong["episode is not a whole number"] = (column("episode") % 1 != 0) | (column("episode") < 0)
    wrong["a final row, which holds an observation alone, has an action, a reward or a flag"] = final & acted
    return wrong


def _structure(
    store: RawStore, table: NDArray[np.float64], bad: NDArray[np.bool_], problems: list[Problem]
) -> list[tuple[int, int]]:
    """Check how rows follow one another; return the whole episodes. Nothing is said of damaged rows again."""
    columns, rows = store.layout.columns, len(table)
    if rows == 0:
        return []
    episode = table[:, columns["episode"].start]
    final = table[:, columns["final"].start] == 1
    ended = np.any(table[:, columns["terminated"].start : columns["truncated"].stop], axis=1)
    begins = np.concatenate([[True], final[:-1]])
    before = np.concatenate([[-1.0], episode[:-1]])
    known = ~bad & ~np.concatenate([[False], bad[:-1]])  # rows that can be compared with the one before
    wrong: dict[str, NDArray[np.bool_]] = {
        "episode numbers have a gap": known & begins & (episode != before + 1),
        "an episode goes on after its final row, or changes without one": known & ~begins & (episode != before),
        "an episode has no step": known & begins & final,
        "an episode goes on after terminated or truncated": known & ~final & np.concatenate([[False], ended[:-1]]),
    }
    wrong_rows = np.zeros(rows, np.bool_)
    for what, where in wrong.items():
        _tell(problems, what, where)
        if "gap" not in what:  # the episode itself is sound
            wrong_rows |= where
    if not bad[-1]:
        _compare_commit(store, int(episode[-1]), bool(final[-1]), bool(ended[-1]), problems)
    sound = ~bad & ~wrong_rows
    starts = np.flatnonzero(begins & sound & ~np.concatenate([[False], bad[:-1]])).tolist()
    stops = (np.flatnonzero(final) + 1).tolist()
    stops = stops if stops and stops[-1] == rows else [*stops, rows]
    whole: list[tuple[int, int]] = []
    for start in starts:
        stop = stops[int(np.searchsorted(stops, start, side="right"))]
        if sound[start:stop].all():
            whole.append((start, stop))
    return whole


def _compare_commit(store: RawStore, last: int, final: bool, ended: bool, problems: list[Problem]) -> None:
    commit, rows = store.commit, store.commit["rows"]
    if commit["episodes"] != last + 1:
        what = f"commit.json counts {commit['episodes']} episodes; the last row is of episode {last}"
        problems.append(Problem(what, (rows - 1, rows), file=store.path / "commit.json"))
    expected = {None, last + 1} if final else {last}
    if commit["open_episode"] not in expected or (not final and ended):
        what = f"commit.json says that the open episode is {commit['open_episode']}; the last row does not agree"
        problems.append(Problem(what, (rows - 1, rows), file=store.path / "commit.json"))


def _check_label(path: Path, name: str, rows: int, problems: list[Problem]) -> None:
    root = path / "labels" / name
    try:
        array = cast("Any", zarr.open_array(WholeFileStore(root, read_only=True), mode="r"))
        values = read_rows(root, array, 0, min(rows, array.shape[0]))
    except StoreError as error:
        for damage in damaged_chunks(error):
            what = f"label {damage.file.relative_to(path)}: {damage.reason}"
            problems.append(Problem(what, (damage.start, min(damage.stop, rows)), file=damage.file))
    except (FileNotFoundError, KeyError, ValueError, TypeError) as error:
        problems.append(Problem(f"label {name} cannot be read: {error}", file=root))
    else:
        _tell(problems, f"label {name} is infinite", np.isinf(values))


def _complete(problem: Problem, episode: NDArray[np.float64], advice: str) -> Problem:
    """Add the episodes that a problem's rows belong to and what to do. NaN in `episode`: that row is unreadable."""
    if problem.rows is None:
        return replace(problem, advice=advice)
    start, stop = problem.rows
    while start > 0 and np.isnan(episode[start]):
        start -= 1
    while stop < len(episode) and np.isnan(episode[stop - 1]):
        stop += 1
    known = episode[start:stop][np.isfinite(episode[start:stop])]
    episodes = (int(known.min()), int(known.max())) if known.size else None
    return replace(problem, episodes=episodes, advice=advice)
