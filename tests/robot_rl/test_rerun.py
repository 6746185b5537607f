"""Rerun: what its own reader finds in a file, and at a viewer's port, is what the store holds."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robot_rl import cli
from robot_rl.errors import ConfigError
from robot_rl.rerun_log import RerunLog, log_store
from robot_rl.store import EpisodeStore
from tests.rerun_rows import rerun_rows

RERUN = shutil.which("rerun", path=str(Path(sys.executable).parent))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("rerun") / "demos"
    assert cli.main(["demo", "reach", "--episodes", "2", "--out", str(path), "--set", "observations=vision",
                     "image_size=64"]) == 0  # fmt: skip
    return EpisodeStore.open(path)


def assert_whole(file, store):
    rows, logged = store.read(), rerun_rows(file)
    steps = ~rows["final"]
    times_ns, actions = logged["/action"]
    np.testing.assert_allclose(times_ns / 1e9, rows["time"][steps], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(actions, rows["action"][steps])
    np.testing.assert_array_equal(logged["/reward"][1][:, 0], rows["reward"][steps])
    for part, (start, stop) in store.metadata["state_layout"].items():
        np.testing.assert_array_equal(
            logged[f"/state/{part}"][1], rows["observation/state"][:, start:stop], err_msg=part
        )
    for camera in ("front", "wrist"):
        pictures = logged[f"/cameras/{camera}"][1].astype(np.uint8).reshape(-1, 64, 64, 3)
        np.testing.assert_array_equal(pictures, rows[f"observation/images/{camera}"], err_msg=camera)
    assert logged["/source"][1].tolist() == [["script"]]
    assert logged["/instruction"][1].tolist() == [["move the gripper to the marker"]]


def test_a_file_from_the_command_line_holds_the_store(store, tmp_path, capsys):
    file = tmp_path / "demos.rrd"
    assert cli.main(["view", str(store.path), "--rerun-file", str(file)]) == 0
    assert "2 episodes" in capsys.readouterr().out
    assert_whole(file, store)
    assert subprocess.run([RERUN, "rrd", "verify", str(file)], capture_output=True, check=False).returncode == 0
    assert cli.main(["view", str(store.path), "--rerun-file", str(file)]) == 2
    assert "there already" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:RRD file has no footer")  # Rerun writes it so
def test_a_viewer_that_listens_is_logged_to(store, tmp_path):
    """Rerun's own program in a viewer's place, which saves what it receives."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "received.rrd"
    command = [RERUN, "--save", str(file), "--bind", "127.0.0.1", "--port", str(port)]
    viewer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              start_new_session=True)  # fmt: skip
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert viewer.poll() is None
            time.sleep(0.05)
        with RerunLog("demos", port=port) as log:
            log_store(log, store)
        steps = sum(record.length for record in store.episode_table())
        logged = (2 + len(store.metadata["state_layout"])) * store.rows + 2 * steps + 2
        for _ in range(200):  # it writes when it likes
            with contextlib.suppress(OSError, RuntimeError, ValueError, KeyError):
                if sum(len(times) for times, _ in rerun_rows(file).values()) == logged:
                    break
            time.sleep(0.1)
    finally:
        os.killpg(viewer.pid, signal.SIGTERM)  # the program is a script that starts the real one
        viewer.wait()
    assert_whole(file, store)


def test_what_is_missing_is_said(store, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConfigError, match=r"no DISPLAY.*--rerun-file"):
        RerunLog("demos", port=port)
    with pytest.raises(ConfigError, match="Cannot write"):
        RerunLog("demos", file=tmp_path / "no" / "folder.rrd")
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ConfigError, match=r"pip install 'robot-rl\[log\]'"):
        RerunLog("demos", file=tmp_path / "new.rrd")
