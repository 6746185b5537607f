"""A run that is interrupted, killed or out of disk, as a process: what it says, and how it goes on."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from robot_rl import cli
from robot_rl.errors import StoreError
from robot_rl.metrics import read_metrics
from robot_rl.run_directory import RunDirectory
from robot_rl.store import EpisodeStore
from tests.robot_rl import toy

YAML = """
agent: {hidden_sizes: [32, 32], critics: 2}
batch_size: 32
bc_updates: 20
demos: 2
eval_episodes: 0
utd_ratio: 1
steps: 100000
checkpoint_every_s: 0.3
"""


def command(*arguments, **options):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "robot_rl.cli", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


def steps_on_disk(path):
    try:
        return sum(r.length for r in EpisodeStore.open(path / "episodes").episode_table())
    except StoreError:
        return 0


def wait_for_steps(process, path, steps):
    deadline = time.monotonic() + 120
    while steps_on_disk(path) < steps:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def yaml_file(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(YAML)
    return file


def test_ctrl_c_saves_says_how_to_go_on_and_exits(tmp_path, yaml_file):
    path = tmp_path / "run"
    process = command("train", "reach", "--config", yaml_file, "--run", path)
    wait_for_steps(process, path, 60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert f"robot-rl train --resume {path}" in out
    assert "Traceback" not in err
    stopped = int(re.search(r"ended at step (\d+)", out)[1])
    assert steps_on_disk(path) == stopped
    process = command("train", "--resume", path, "--steps", stopped + 20)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"ended at step {stopped + 20}" in out


def test_killed_it_goes_on_and_no_committed_step_is_lost(tmp_path, yaml_file):
    """Fault 7 of SERL: what a restarted actor does is not dropped. Fault 8: a kill at any moment leaves a run."""
    path = tmp_path / "run"
    process = command("train", "reach", "--config", yaml_file, "--run", path)
    wait_for_steps(process, path, 80)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = EpisodeStore.open(path / "episodes")
    kept, steps = before.read(), steps_on_disk(path)
    process = command("train", "--resume", path, "--steps", steps + 30)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 0, err
    after = EpisodeStore.open(path / "episodes")
    for name, column in after.read(0, before.rows).items():
        np.testing.assert_array_equal(column, kept[name], err_msg=name)
    assert steps_on_disk(path) == steps + 30
    facts = RunDirectory(path).checkpoints.load()[1]
    assert facts["step"] == steps + 30
    steps_logged = [row["step"] for row in read_metrics(path / "metrics.jsonl")]
    assert steps_logged == sorted(set(steps_logged))


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the store's lock: the process would end
def test_a_second_ctrl_c_ends_it_at_once_and_the_run_stands(tmp_path, monkeypatch, capsys):
    """In this process, so that the second one comes while the first is still being obeyed."""
    toy.register()

    def step(self, action, real=toy.Point.step):
        if self.total >= 25:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return real(self, action)

    monkeypatch.setattr(toy.Point, "step", step)
    path = tmp_path / "run"
    arguments = [
        "train",
        "toy/Point-v0",
        "--preset",
        "serl",
        "--run",
        str(path),
        "--steps",
        "60",
        "--no-evaluate",
        "--demos",
        "none",
        "--set",
        "agent.hidden_sizes=[32,32]",
        "batch_size=16",
        "checkpoint_every_s=0",
    ]
    handler = signal.getsignal(signal.SIGINT)
    assert cli.main(arguments) == 130
    assert f"--resume {path}" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    assert cli.main(["train", "--resume", str(path), "--no-evaluate"]) == 0
    assert steps_on_disk(path) == 60


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_pauses_training_until_there_is_room(small_disk, yaml_file):
    path = small_disk / "run"
    process = command("train", "reach", "--config", yaml_file, "--run", path)
    wait_for_steps(process, path, 60)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    for line in process.stderr:
        if "Training pauses" in line:
            break
    assert "the arm holds" in line
    steps = steps_on_disk(path)
    assert steps >= 60
    time.sleep(0.5)
    assert process.poll() is None
    assert steps_on_disk(path) == steps
    ballast.unlink()
    wait_for_steps(process, path, steps + 60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "There is room on the disk again" in err
