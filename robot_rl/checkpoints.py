"""The checkpoints of a run: the newest few and the best, each whole or absent, each checked when it is loaded.

checkpoints/
  step_000000123.safetensors    tensors and facts, with a checksum over every byte
  index.json                    names, newest first, and which one is the best; replaced atomically

A checkpoint counts from the moment its own file is there; the index only orders them, keeps the best from being
pruned, and is made anew where it is lost.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from robot_rl.errors import ConfigError, StoreError
from robot_rl.store.files import disk_full, remove_partials, sync_directory, to_json, write_whole
from robot_rl.tensor_files import load_tensors, save_tensors

__all__ = ["BestCheckpoint", "CheckpointFolder"]

INDEX = "index.json"
_NAME = re.compile(r"step_(\d+)\.safetensors")
_BEFORE = "latest.safetensors"
"""The one checkpoint of runs made before there were several; the last to be tried."""


@dataclass(frozen=True)
class BestCheckpoint:
    """The checkpoint with the highest score.

    Attributes:
        file: Where it lies.
        score: What `mark_best` was given, for example an evaluated success rate.
    """

    file: Path
    score: float


class CheckpointFolder:
    """Checkpoints in a directory. One process saves; any may load.

    Attributes:
        path: The directory; made by the first `save`.
        keep: How many of the newest are kept; the best is kept besides.
        skipped: What the last `load` passed over and why, one line each.
    """

    def __init__(self, path: str | Path, keep: int = 3) -> None:
        """Name the directory; nothing is read yet.

        Raises:
            ConfigError: `keep` is below 1.
        """
        if keep < 1:
            raise ConfigError(f"keep is {keep}; at least one checkpoint is kept.", keep=keep)
        self.path, self.keep = Path(path), keep
        self.skipped: list[str] = []
        self._newest: str | None = None  # the file that mark_best is about: what was saved or loaded last

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
        """Add a checkpoint, then remove those that are neither among the newest `keep` nor the best.

        Args:
            tensors: By name.
            facts: JSON values; `step`, the environment step, is required and names the file. Saved again at the same
                step, the old one is replaced.

        Returns:
            The file.

        Raises:
            ConfigError: `facts` has no step.
            StoreError: The disk failed or is full; every older checkpoint is still there.
        """
        step = facts.get("step")
        if not isinstance(step, int) or step < 0:
            raise ConfigError(f"The facts of a checkpoint need 'step', the environment step; it is {step!r}.")
        file = self.path / f"step_{step:09d}.safetensors"
        save_tensors(file, tensors, facts)
        order = [file.name, *(name for name in self._order() if name != file.name)]
        best = self._index().get("best")
        if best is not None and best["file"] == file.name and self._newest != file.name:
            best = None  # the one of an earlier life of this run was replaced
        kept = order[: self.keep]
        if best is not None and best["file"] in order and best["file"] not in kept:
            kept.append(best["file"])
        remove_partials([self.path])
        for name in order:  # before the index forgets them: a file it does not list passes for the newest
            if name not in kept:
                (self.path / name).unlink(missing_ok=True)
        self._write_index(kept, best)
        self._newest = file.name
        return file

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and facts of the newest checkpoint that is intact; `skipped` says what was passed over.

        Raises:
            StoreError: There is none; the message names each damaged one.
        """
        self.skipped = []
        for name in self._order():
            try:
                loaded = load_tensors(self.path / name)
            except StoreError as error:
                reason = str(error).removesuffix(" Is this a run that has begun training?")
                self.skipped.append(reason)
                continue
            self._newest = name
            return loaded
        found = f" Damaged: {' '.join(self.skipped)}" if self.skipped else ""
        raise StoreError(
            f"{self.path} holds no intact checkpoint.{found} The episodes are not affected; a new run can learn from "
            f"them: robot-rl train ... --demos {self.path.parent / 'episodes'}",
            path=self.path,
            skipped=self.skipped,
        )

    @property
    def exists(self) -> bool:
        """Whether there is a checkpoint, intact or not."""
        return bool(self._order())

    def mark_best(self, score: float) -> bool:
        """Say how good the checkpoint is that was saved or loaded last.

        Args:
            score: Higher is better, for example an evaluated success rate.

        Returns:
            Whether it is the best now; equal scores go to the newer one.

        Raises:
            StoreError: Nothing was saved or loaded yet, or the disk failed.
        """
        if self._newest is None:
            raise StoreError(f"No checkpoint of {self.path} was saved or loaded yet. Call save before mark_best.")
        best = self.best
        if best is not None and score < best.score:
            return False
        self._write_index(self._order(), {"file": self._newest, "score": float(score)})
        return True

    @property
    def best(self) -> BestCheckpoint | None:
        """The best checkpoint, or None when none was marked or its file is gone."""
        best = self._index().get("best")
        if best is None or not (self.path / best["file"]).is_file():
            return None
        return BestCheckpoint(self.path / best["file"], best["score"])

    def load_best(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and facts of the best checkpoint.

        Raises:
            StoreError: None was marked, or it is damaged.
        """
        best = self.best
        if best is None:
            raise StoreError(f"No checkpoint of {self.path} was marked as the best.", path=self.path)
        return load_tensors(best.file)

    def _order(self) -> list[str]:
        """Return the checkpoints there are, newest first. One that the index lacks was saved last of all."""
        there = [entry.name for entry in self.path.glob("step_*.safetensors") if _NAME.fullmatch(entry.name)]
        there.sort(key=lambda name: int(name[5:].split(".")[0]), reverse=True)
        listed = [name for name in self._index()["newest_first"] if name in there]
        order = [*(name for name in there if name not in listed), *listed]
        return [*order, _BEFORE] if (self.path / _BEFORE).is_file() else order

    def _index(self) -> dict[str, Any]:
        try:
            index = json.loads((self.path / INDEX).read_bytes())
            best = index["best"]
            if not all(isinstance(name, str) for name in index["newest_first"]):
                raise ValueError
            if best is not None and not (_NAME.fullmatch(best["file"]) and isinstance(best["score"], float)):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):  # lost or damaged: the names order them nearly as well
            return {"newest_first": [], "best": None}
        return cast("dict[str, Any]", index)

    def _write_index(self, names: list[str], best: dict[str, Any] | None) -> None:
        listed = [name for name in names if name != _BEFORE]
        try:
            write_whole(self.path / INDEX, to_json({"newest_first": listed, "best": best}), sync=True)
            sync_directory(self.path)
        except OSError as error:
            raise StoreError(
                f"Cannot write {self.path / INDEX}: {error.strerror}. Every checkpoint is still there.",
                path=self.path / INDEX,
                errno=error.errno,
                disk_full=disk_full(error),
            ) from error
