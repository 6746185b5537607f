"""`robot-rl store`: check, repair, measure and merge episode stores."""

import json as json_format
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg, subcommand

__all__ = ["store"]

_Store = Annotated[Positional[Path], arg(metavar="STORE", help="An episode store, or a run directory with episodes/")]
_SHOWN = 20


@dataclass(frozen=True)
class Check:
    """Read everything: checksums, rows, episodes, labels. Exit code 1 when something is wrong; changes nothing."""

    path: _Store


@dataclass(frozen=True)
class Repair:
    """Make a damaged store whole again, keep what was damaged aside, and say exactly what is lost."""

    path: _Store
    out: Annotated[Path | None, arg(metavar="COPY", help="Repair a copy made here and leave the store as it is")] = None


@dataclass(frozen=True)
class Stats:
    """Episodes, steps, success, lengths, sources, instructions, bytes."""

    path: _Store
    json: Annotated[bool, arg(help="Print it all as JSON")] = False


@dataclass(frozen=True)
class Merge:
    """Write the episodes of several stores, or of one, into a new and smaller one; the sources stay as they are."""

    out: Annotated[Positional[Path], arg(metavar="OUT", help="Store to make")]
    stores: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="STORE [STORE ...]", help="Stores or run directories, in this order")
    ]


def store(
    command: Annotated[Check, subcommand("check")]
    | Annotated[Repair, subcommand("repair")]
    | Annotated[Stats, subcommand("stats")]
    | Annotated[Merge, subcommand("merge")],
) -> int:
    """Look after episode stores: check, repair, stats, merge."""
    if isinstance(command, Check):
        return _check(command.path)
    if isinstance(command, Repair):
        return _repair(command.path, command.out)
    if isinstance(command, Stats):
        return _stats(command.path, command.json)
    return _merge(command.out, command.stores)


@contextmanager
def _bar(title: str) -> Generator[Callable[[int, int], None]]:
    """A progress bar on standard error, there only on a terminal; yields a function of (done, whole)."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _check(path: Path) -> int:
    from robot_rl.store.check import check_store
    from robot_rl.store.raw import episodes_directory

    directory = episodes_directory(path)
    with _bar(f"checking {directory}") as progress:
        report = check_store(directory, progress)
    for problem in report.problems:
        print(("note: " if problem.harmless else "PROBLEM: ") + str(problem))
    if report.unprotected:
        print(
            f"note: {', '.join(report.unprotected)} of {directory}: written before checksums, so only what cannot be "
            f"decompressed is noticed. Copy it into a store that has them: robot-rl store merge OUT {directory}"
        )
    wrong = sum(not problem.harmless for problem in report.problems)
    size = f"{report.rows} rows, {report.episodes} episodes"
    if report.ok:
        print(f"{directory} is whole: {size}, all read.")
        return 0
    sound = sum(stop - start for start, stop in report.whole)
    print(
        f"{directory}: {wrong} problem(s). Of {size}, {len(report.whole)} episodes ({sound} rows) are whole. "
        f"Nothing was changed. Next: robot-rl store repair {directory}",
        file=sys.stderr,
    )
    return 1


def _repair(path: Path, out: Path | None) -> int:
    from robot_rl.store.raw import episodes_directory
    from robot_rl.store.repair import repair_store

    directory = episodes_directory(path)
    with _bar(f"repairing {directory}") as progress:
        repair = repair_store(directory, out, progress)
    for line in repair.done:
        print(line)
    for kept in repair.kept_aside:
        print(f"The damaged originals are in {kept}; delete it when you no longer want it.")
    lost = f"{repair.rows_lost} committed rows are lost" if repair.rows_lost else "no committed row is lost"
    print(f"{repair.path} is whole; {lost}." if repair.done else f"{repair.path} is whole; there was nothing to do.")
    return 0


def _stats(path: Path, json: bool) -> int:
    from rich.console import Console
    from rich.table import Table

    from robot_rl.store.raw import episodes_directory
    from robot_rl.store.stats import store_stats

    stats = store_stats(episodes_directory(path))
    if json:
        print(json_format.dumps(stats, indent=2))
        return 0
    table = Table(title=stats["path"], show_header=False, title_justify="left")
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in _lines(stats):
        table.add_row(name, value)
    Console().print(table)
    return 0


def _lines(stats: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The numbers in words, as (name, value)."""
    still_open = "" if stats["open_episode"] is None else f", episode {stats['open_episode']} is open"
    yield "episodes", f"{stats['episodes']}, of them complete {stats['complete_episodes']}{still_open}"
    yield "steps", f"{stats['steps']} ({stats['rows']} rows)"
    if stats["success_rate"] is not None:
        yield "success", f"{stats['success_rate']:.1%} of the closed episodes"
        for name, key in (("length [steps]", "length"), ("return", "episode_return")):
            words = {"mean": "mean", "min": "least", "median": "median", "max": "most"}
            yield name, ", ".join(f"{word} {stats[key][of]:.4g}" for of, word in words.items())
    yield "steps by", ", ".join(f"{name} {count}" for name, count in stats["sources"].items()) or "nobody yet"
    versions = stats["policy_versions"]
    if versions:
        yield "policy versions", f"{versions['count']}, from {versions['first']} to {versions['last']}"
    texts = sorted(stats["instructions"].items(), key=lambda item: -item[1])
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    yield "instructions", "\n".join([*(f"{text!r}: {count} episodes" for text, count in texts[:_SHOWN]), *more])
    yield "labels", ", ".join(f"{name}: {count} rows" for name, count in stats["labels"].items()) or "none"
    period = stats["control_period_s"]
    yield "control period", "unknown" if period is None else f"{period:.4g} s"
    yield "time", f"{stats['robot_time_s'] / 60:.1f} min in episodes, {stats['duration_s'] / 60:.1f} min in all"
    for name, size in stats["bytes"].items():
        ratio = "" if size["ratio"] is None else f", compressed {size['ratio']:.1f}:1"
        yield f"bytes of {name}" if name != "total" else "bytes in all", f"{size['stored']:,}{ratio}"
    if stats["bytes_per_step"] is not None:
        yield "bytes a step", f"{stats['bytes_per_step']:,.0f}"
    yield "checksums", "yes" if stats["checksums"] else "no, written before there were any (robot-rl store merge)"


def _merge(out: Path, stores: tuple[Path, ...]) -> int:
    from robot_rl.store.copy import merge_stores
    from robot_rl.store.raw import RawStore, episodes_directory

    sources = [episodes_directory(path) for path in stores]
    with _bar(f"merging into {out}") as progress:
        commit = merge_stores(out, sources, progress)
    before, after = (sum(_bytes(RawStore(path)) for path in paths) for paths in (sources, [out]))
    print(
        f"{out}: {commit['episodes']} episodes, {commit['rows']} rows from {len(sources)} store(s), read back and "
        f"found whole. {before:,} bytes became {after:,}. The sources are untouched."
    )
    return 0


def _bytes(raw: Any) -> int:
    return sum(file.stat().st_size for name in raw.arrays for file in raw.files(name))
