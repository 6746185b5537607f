"""What a store holds, or is getting, in Rerun: pictures, state, action and reward on the store's own clock.

    entity                  what
    cameras/<name>          the picture
    state/<part>            curves of a part of the state, as the layout names them
    action, reward          curves
    source, instruction     a line of text where they change

Timeline `time`: the steps' own times, UNIX. Live, it goes to the viewer that listens on this machine's port 9876 (for
example the far end of `ssh -R 9876:127.0.0.1:9876`), or to one that is started; logging never waits for it.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from robot_rl.errors import ConfigError
from robot_rl.observation import ROOT, ObservationLayout, leaf_values
from robot_rl.store import EpisodeStore
from robot_rl.store.layout import SOURCES
from robot_rl.store.records import row_times

__all__ = ["RerunLog", "log_store"]

PORT = 9876  # Rerun's own
START_S = 20.0  # a viewer may take so long to open


class RerunLog:
    """A recording that Rerun shows or saves; a context manager.

    Args:
        name: Of the recording.
        file: Write it here in place of showing it.
        port: Where a viewer listens, on loopback.

    Attributes:
        parts: State's part -> [start, stop), as a store's metadata says; the state as a whole while empty.

    Raises:
        ConfigError: `rerun-sdk` is not installed, no viewer opens, or the file is there already or cannot be written.
    """

    def __init__(self, name: str, *, file: Path | None = None, port: int = PORT) -> None:
        try:
            import rerun
        except ImportError as error:
            raise ConfigError("Rerun is not installed: pip install 'robot-rl[log]'") from error
        self._rerun: Any = rerun
        self.parts: Mapping[str, Any] = {}
        self._said: dict[str, str] = {}
        self._stream: Any = rerun.RecordingStream("robot_rl")
        self._stream.send_recording_name(name)
        if file is None:
            _open_viewer(port)
            self._stream.connect_grpc(f"rerun+http://127.0.0.1:{port}/proxy")
            return
        if file.exists():
            raise ConfigError(f"{file} is there already; nothing in it was touched.")
        try:
            self._stream.save(file)
        except RuntimeError as error:
            raise ConfigError(f"Cannot write {file}: {error}") from error

    def step(
        self,
        time_s: float,
        observation: object,
        step: Mapping[str, Any] | None = None,
        pictures: Mapping[str, Any] | None = None,
    ) -> None:
        """One row of a store.

        Args:
            time_s: When, UNIX seconds.
            observation: What was seen.
            step: What was done there: of action, reward, source and instruction those there are.
            pictures: Cameras that are not part of the observation, by name, uint8 (H, W, 3).
        """
        rerun, step = self._rerun, step or {}
        self._stream.set_time("time", timestamp=time_s)
        for camera, picture in (pictures or {}).items():
            self._stream.log(f"cameras/{camera}", rerun.Image(picture))
        for name, value in leaf_values(observation):
            values = np.asarray(value)
            if values.ndim > 1:
                self._stream.log(f"cameras/{name.rsplit('/', 1)[-1]}", rerun.Image(values))
            elif name == f"{ROOT}/state" and self.parts:
                for part, (start, stop) in self.parts.items():
                    self._curves(f"state/{part}", values[start:stop])
            else:
                self._curves(name, values)
        for name in ("action", "reward"):
            if name in step:
                self._curves(name, step[name])
        for name in ("source", "instruction"):
            if step.get(name) and self._said.get(name) != step[name]:
                self._said[name] = step[name]
                self._stream.log(name, rerun.TextLog(step[name]))

    def _curves(self, name: str, values: Any) -> None:
        self._stream.log(name, self._rerun.Scalars(np.asarray(values, np.float64).reshape(-1)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the viewer was closed
            self._stream.flush(timeout_sec=10.0)
        self._stream.disconnect()


def log_store(log: RerunLog, store: EpisodeStore) -> None:
    """Log every row of a store, oldest first.

    Raises:
        StoreError: Its files are damaged.
    """
    layout = ObservationLayout(store.observation_space)
    log.parts = store.metadata.get("state_layout", {})
    for record in store.episode_table():
        rows = store.read(record.start, record.stop)
        for i, time_s in enumerate(row_times(rows["time"], record.length)):
            leaves = {name: rows[name][i] for name in layout.leaves}
            observation = leaves.get(ROOT, {name.removeprefix(f"{ROOT}/"): value for name, value in leaves.items()})
            done = {
                "action": rows["action"][i], "reward": rows["reward"][i], "source": SOURCES[int(rows["source"][i])],
                "instruction": store.instructions[int(rows["instruction"][i])],
            }  # fmt: skip
            log.step(time_s, observation, done if i < record.length else None)


def _open_viewer(port: int) -> None:
    """Start a viewer, on loopback, unless one listens already."""
    if _listens(port):
        return
    hint = f"Open one that listens on port {port} of this machine (rerun), or save with --rerun-file OUT.rrd."
    beside = str(Path(sys.executable).parent)  # of a virtual environment that is not activated
    program = shutil.which("rerun", path=beside) or shutil.which("rerun")
    if program is None:
        raise ConfigError(f"Rerun's viewer is not installed. {hint}")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise ConfigError(f"There is no screen here to show Rerun's viewer on (no DISPLAY). {hint}")
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--hide-welcome-screen"]
    quiet = subprocess.DEVNULL
    viewer = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
    end = time.monotonic() + START_S
    while not _listens(port):
        if viewer.poll() is not None or time.monotonic() > end:
            raise ConfigError(f"Rerun's viewer did not open ({' '.join(command)}). {hint}")
        time.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
