"""One run is one directory; whoever works on the run meets there."""

import importlib.metadata
import json
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from robot_rl.checkpoints import CheckpointFolder
from robot_rl.config import TrainConfig, load_config, preset
from robot_rl.errors import ConfigError, StoreError
from robot_rl.store.files import WriterLock, write_whole
from robot_rl.tensor_files import load_tensors, save_tensors
from robot_rl.vision.config import VisionConfig

__all__ = ["RunDirectory", "load_tensors", "save_tensors"]

VERSIONED = ("robot-rl", "torch", "numpy", "mujoco", "gymnasium")


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run, and what is written there once.

    Attributes:
        path: The directory.
    """

    path: Path

    @classmethod
    def create(cls, config: TrainConfig, path: str | Path | None = None) -> "RunDirectory":
        """Make a run's directory, `runs/<task>/<timestamp>` by default, and write its configuration.

        Raises:
            ConfigError: The directory exists and is not empty; nothing in it was touched.
        """
        path = _free_name(config.task) if path is None else Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(
                f"{path} exists and is not empty; nothing in it was touched. "
                f"Continue that run with: robot-rl train --resume {path}. Or choose another --run.",
                path=path,
            )
        run = cls(path)
        try:
            run.write_config(config)
            for folder in ("policy", "checkpoints", "videos", "plots"):
                (path / folder).mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"Cannot make the run directory {path}: {error.strerror}.", path=path) from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> tuple["RunDirectory", TrainConfig]:
        """An existing run and its configuration.

        Raises:
            ConfigError: There is no run, or its configuration does not fit this version.
        """
        run = cls(Path(path))
        if not run.config.is_file():
            raise ConfigError(
                f"{path} is no run directory: it has no config.yaml. Runs lie in runs/<task>/<timestamp>."
            )
        before = replace(preset("serl", ""), vision=VisionConfig(keypoints=0))  # what older runs did not say
        return run, load_config(run.config, before)

    def write_config(self, config: TrainConfig) -> None:
        """Write every setting, with the versions that are installed; replaced atomically.

        Raises:
            StoreError: The disk failed or is full.
        """
        versions = {name: _version(name) for name in VERSIONED} | {"python": platform.python_version()}
        text = config.to_yaml() + yaml.safe_dump({"versions": versions}, sort_keys=False)
        try:
            write_whole(self.config, text.encode(), sync=True)
        except OSError as error:
            raise StoreError(f"Cannot write {self.config}: {error.strerror}.", path=self.config) from error

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def episodes(self) -> Path:
        return self.path / "episodes"

    @property
    def demonstrations(self) -> Path:
        return self.path / "demonstrations"

    @property
    def policy(self) -> Path:
        return self.path / "policy" / "policy.safetensors"

    @property
    def checkpoints(self) -> CheckpointFolder:
        return CheckpointFolder(self.path / "checkpoints")

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def seen(self) -> Path:
        return self.path / "seen"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @contextmanager
    def learning(self) -> Generator[None]:
        """While this is open, nobody else learns in this run.

        Raises:
            StoreError: Somebody does, or the disk refuses.
        """
        folder = self.path / "checkpoints"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = WriterLock(folder / "learner.lock")
        except OSError as error:
            raise StoreError(f"Cannot lock {folder}: {error.strerror}.", path=folder) from error
        try:
            yield
        finally:
            lock.release()

    def event(self, kind: str, **fields: Any) -> None:
        """Append a line to events.jsonl: what happened and when."""
        line = json.dumps({"time": time.time(), "event": kind, **fields}) + "\n"
        try:
            with (self.path / "events.jsonl").open("a") as file:
                file.write(line)
        except OSError as error:
            raise StoreError(f"Cannot write to {self.path / 'events.jsonl'}: {error.strerror}.") from error


def _free_name(task: str) -> Path:
    path = Path("runs") / task.rsplit(":", maxsplit=1)[-1].replace("/", "_") / time.strftime("%Y%m%d-%H%M%S")
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:  # another run began in the same second
            path = path.with_name(path.name + "b")
        except OSError as error:
            raise StoreError(f"Cannot make the run directory {path}: {error.strerror}.", path=path) from error
        else:
            return path


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
