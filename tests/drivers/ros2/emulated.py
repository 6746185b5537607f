"""A process that is a ROS 2 robot: the twin over real DDS on loopback."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def worker():
    """Number of this worker of pytest-xdist, from 1; 0 without."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw-1").removeprefix("gw")) + 1


def address(last):
    """An address on loopback that no other worker has."""
    return f"127.0.{worker()}.{last}"


def apart(domain):
    """Environment of processes that see each other alone, whatever other workers do."""
    domain += 7 * (worker() % 10)
    assert domain <= 101  # beyond, its ports are among those that Linux gives to anybody
    keep = {k: v for k, v in os.environ.items() if k not in ("CYCLONEDDS_URI", "ROS_LOCALHOST_ONLY")}
    return keep | {
        "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROBOT_RL_ROS_TRANSPORT": "dds",
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


@contextlib.contextmanager
def emulated(task, domain, host):
    """`robot-rl emulate ros2`, up and running; the environment of this process is that of its domain meanwhile."""
    environment = apart(domain)
    process = subprocess.Popen(
        [sys.executable, "-m", "robot_rl.cli", "emulate", "ros2", "--task", task, "--host", host],
        env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in set(os.environ) - set(environment):
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            assert process.stdout is not None
            assert "listens on" in process.stdout.readline()
            yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(30.0)
        process.stdout.close()
