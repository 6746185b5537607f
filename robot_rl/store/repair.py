"""Making a damaged store whole again. Nothing is deleted: what is taken out is kept aside and named."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from robot_rl.errors import StoreError
from robot_rl.store.check import OnProgress, Problem, StoreReport, check_store
from robot_rl.store.commit import (
    COMMIT,
    INSTRUCTIONS,
    Commit,
    instructions_checksum,
    read_commit,
    read_instructions,
    write_commit,
    write_instructions,
)
from robot_rl.store.copy import Segment, copy_segments
from robot_rl.store.files import WriterLock, sync_directory, write_whole
from robot_rl.store.layout import TABLE
from robot_rl.store.mend import mend_bit, rebuild_commit
from robot_rl.store.raw import RawStore, partials
from robot_rl.store.writer import LOCK


@dataclass
class Repair:
    """What a repair did.

    Attributes:
        path: The store, whole now.
        done: What was done and what was lost, one line each; empty when nothing was wrong.
        rows_lost: Committed rows that are no longer in the store.
        episodes_lost: Their episodes, by the numbers they had; as far as they are known.
        kept_aside: Directories with what was taken out, untouched.
    """

    path: Path
    done: list[str] = field(default_factory=list[str])
    rows_lost: int = 0
    episodes_lost: int = 0
    kept_aside: list[Path] = field(default_factory=list[Path])


def repair_store(path: Path, out: Path | None = None, on_progress: OnProgress | None = None) -> Repair:
    """Make a store whole again, losing nothing that can still be read in whole episodes.

    In place: files of a commit that was never acknowledged are moved aside; one flipped bit in a file is put right
    from its checksum; a damaged commit.json is rebuilt from the rows; a damaged label file is moved aside, its labels
    are unset. The damaged originals go to `quarantine/<time>/` in the store. Where that is not enough, the whole
    episodes are written to a new store, which is read back and takes the old one's place; the old one stays beside it
    as `<name>.before-repair-<time>`. Later episodes then have lower row numbers.

    Args:
        path: The store. No process may be writing to it.
        out: Repair a copy made here, and leave the store as it is.
        on_progress: Called with rows done and their whole.

    Raises:
        StoreError: A writer has the store, `out` exists, the disk is full, or the store cannot be repaired.
    """
    if out is not None:
        if out.exists():
            raise StoreError(f"{out} exists; nothing in it was touched. Choose another --out.", path=out)
        lock = WriterLock(path / LOCK)
        try:
            shutil.copytree(path, out, ignore=shutil.ignore_patterns(LOCK, "quarantine"))
        except OSError as error:
            raise StoreError(f"Cannot copy {path} to {out}: {error}. {path} is untouched.", path=out) from error
        finally:
            lock.release()
        path = out
    lock = WriterLock(path / LOCK)
    try:
        return _Repairing(path, on_progress).run()
    except OSError as error:
        raise StoreError(
            f"Cannot repair {path}: {error.strerror}. What was moved so far lies in its quarantine/. Free space or fix "
            "the permissions, and run it again.",
            path=path,
            errno=error.errno,
        ) from error
    finally:
        lock.release()


class _Repairing:
    """One repair under way; the caller holds the writer's lock."""

    def __init__(self, path: Path, on_progress: OnProgress | None) -> None:
        self.path = path
        self._on_progress = on_progress
        self._stamp = time.strftime("%Y%m%d-%H%M%S")
        self._aside = path / "quarantine" / self._stamp
        self._result = Repair(path)

    def run(self) -> Repair:
        self._put_aside(partials(self.path), "left half written by a killed process; never acknowledged")
        self._mend_records()
        beyond = RawStore(self.path).beyond()
        self._put_aside(beyond, "beyond the last acknowledged row: written by a commit that was never finished")
        report = check_store(self.path, self._on_progress)
        if any(self._mend_file(problem) for problem in report.problems):
            report = check_store(self.path, self._on_progress)
        if not report.ok:
            self._cut(report)
        if self._aside.is_dir() and self._aside not in self._result.kept_aside:
            self._result.kept_aside.insert(0, self._aside)
        return self._result

    def _say(self, line: str) -> None:
        self._result.done.append(line)

    def _put_aside(self, files: list[Path], why: str) -> None:
        for file in files:
            self._quarantine(file, file.replace)
            self._say(f"moved aside {file.relative_to(self.path)}: {why}")

    def _quarantine(self, file: Path, how: Callable[[Path], object]) -> None:
        target = self._aside / file.relative_to(self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        how(target)

    def _mend_records(self) -> None:
        """Rebuild commit.json and instructions.json where they are damaged."""
        unknown = Commit(rows=0, episodes=0, open_episode=None, instructions=0)
        commit, texts = unknown, list[str]()
        try:
            commit, check = read_commit(self.path)
            texts = read_instructions(self.path, commit, check)
        except StoreError as error:
            damaged = error.fields.get("path")
        else:
            return
        kept = _texts(self.path)
        if damaged == self.path / COMMIT:
            commit = rebuild_commit(RawStore(self.path, unknown, []), len(kept))
            self._say(f"rebuilt {COMMIT} from the rows: {commit['rows']} rows, {commit['episodes']} episodes")
        needed = commit["instructions"]
        texts = [*kept[:needed], *(f"(instruction {i}, lost)" for i in range(len(kept), needed))]
        if damaged != self.path / COMMIT:
            lost = needed - len(kept[:needed])
            self._say(
                f"rewrote {INSTRUCTIONS}: {lost} of {needed} texts are lost; look the others over, one may differ"
            )
        for name in (COMMIT, INSTRUCTIONS):
            if (self.path / name).is_file():
                self._quarantine(self.path / name, lambda target, name=name: shutil.copy2(self.path / name, target))
        write_instructions(self.path, texts, sync=True)
        write_commit(self.path, commit, instructions_checksum(texts), sync=True)

    def _mend_file(self, problem: Problem) -> bool:
        """Put a damaged file right where it can be; say whether it was changed."""
        file = problem.file
        if file is None or problem.harmless or file == self.path / COMMIT or not file.exists():
            return False
        mended = mend_bit(file.read_bytes()) if "checksum" in problem.what else None
        if mended is not None:
            self._quarantine(file, lambda target: shutil.copy2(file, target))
            write_whole(file, mended, sync=True)
            sync_directory(file.parent)
            self._say(f"put one flipped bit right in {file.relative_to(self.path)}; nothing of it is lost")
            return True
        if "labels" in file.relative_to(self.path).parts[:1]:
            self._put_aside([file], f"damaged; its labels are unset now ({problem})")
            return True
        return False

    def _cut(self, report: StoreReport) -> None:
        """Write the whole episodes to a new store and put it in the old one's place."""
        path, store = self.path, RawStore(self.path)
        commit = store.commit
        final = store.layout.columns["final"].start
        segments: list[Segment] = []
        for start, stop in report.whole:
            tail = not store.read(TABLE, stop - 1, stop)[0, final]
            if tail and (commit["open_episode"] is None or not self._can_go_on(store, stop)):
                continue  # an open episode whose last observation is lost: its last step leads nowhere
            if segments and segments[-1].stop == start:
                segments[-1] = Segment(store, segments[-1].start, stop, bool(tail))
            else:
                segments.append(Segment(store, start, stop, bool(tail)))
        for problem in report.problems:
            if not problem.harmless:
                self._say(f"found: {str(problem).split('. Repair:')[0]}")
        kept = sum(segment.stop - segment.start for segment in segments)
        edges = [0, *(edge for s in segments for edge in (s.start, s.stop)), commit["rows"]]
        gaps = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
        history = [*store.header["metadata"].get("repairs", []), {"time": time.time(), "rows_cut": gaps}]
        fresh = path.with_name(f"{path.name}.repaired-{self._stamp}")
        aside = path.with_name(f"{path.name}.before-repair-{self._stamp}")
        metadata = {**store.header["metadata"], "repairs": history}
        whole = segments or [Segment(store, 0, 0)]
        made = copy_segments(fresh, whole, metadata, level=1, close=False, on_progress=self._on_progress)
        path.replace(aside)
        try:
            fresh.replace(path)
        except OSError:
            aside.replace(path)
            raise
        sync_directory(path.resolve().parent)
        self._aside = aside  # its quarantine/ went with it
        self._result.rows_lost = commit["rows"] - kept
        self._result.episodes_lost = commit["episodes"] - made["episodes"]
        self._result.kept_aside.append(aside)
        ranges = ", ".join(f"{a} to {b - 1}" for a, b in gaps) or "none"
        self._say(
            f"lost: {self._result.episodes_lost} of {commit['episodes']} episodes, {self._result.rows_lost} of "
            f"{commit['rows']} rows (rows {ranges}); what can be read of them is still in {aside}"
        )

    def _can_go_on(self, store: RawStore, row: int) -> bool:
        """Say whether the last observation of the open episode, at `row`, can be read."""
        try:
            for name in store.arrays:
                store.read(name, row, row + 1)
        except StoreError:
            return False
        return True


def _texts(path: Path) -> list[str]:
    """Return the instructions as far as they can be read."""
    try:
        texts = json.loads((path / INSTRUCTIONS).read_bytes())
    except (OSError, ValueError):
        return []
    return [text if isinstance(text, str) else f"(instruction {i}, lost)" for i, text in enumerate(texts)]
