"""What every test shares: bounded threads, Hypothesis without a stopwatch, and a report of what did not run."""

import contextlib
import fcntl
import itertools
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Before torch or numpy start their thread pools: two workers with a pool each per core are slower than with one.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import hypothesis
import pytest

MARKERS = ("hardware", "gpu", "ros", "slow", "devices")

# Tests assert no wall-clock time, and a shared machine is slow when it likes.
hypothesis.settings.register_profile("robot_rl", deadline=None, print_blob=True)
hypothesis.settings.load_profile("robot_rl")

_NOT_RUN = pytest.StashKey[Counter[str]]()


@contextlib.contextmanager
def _turn(exclusive):
    """A test against the clock runs alone on the machine: its robot would take a starved client for a dead one.

    Whoever comes holds the door while waiting, so that nobody slips in before.
    """
    place = Path(tempfile.gettempdir()) / f"robot-rl-tests-{os.getuid()}"
    with place.with_suffix(".door").open("w") as door, place.with_suffix(".room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    with _turn(exclusive=item.get_closest_marker("realtime") is not None):
        return (yield)


def pytest_configure(config):
    config.stash[_NOT_RUN] = Counter()


def pytest_deselected(items):
    for item in items:
        names = [name for name in MARKERS if item.get_closest_marker(name)]
        item.config.stash[_NOT_RUN].update(names or ["other"])


def pytest_sessionfinish(session):
    # On a worker of pytest-xdist: every worker collects all tests, so any one's count is the whole.
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = dict(session.config.stash[_NOT_RUN])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    node.config.stash[_NOT_RUN] = Counter(getattr(node, "workeroutput", {}).get("not_run", {}))


def pytest_terminal_summary(terminalreporter, config):
    not_run = config.stash[_NOT_RUN]
    if not_run:
        what = ", ".join(f"{count} {name}" for name, count in sorted(not_run.items()))
        names = [name for name in MARKERS if name in not_run]
        how = f" Run them with: pytest -m '{' or '.join(names)}'" if names else ""
        terminalreporter.write_line(f"Not run (deselected): {what}.{how}", yellow=True)


class EmulatorProcess:
    """`robot-rl emulate` in a process of its own, at an address of its own."""

    def __init__(self, host, arguments):
        self.host = host
        command = [sys.executable, "-m", "robot_rl.cli", "emulate", *arguments, "--host", host]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if "listens" not in line:
            raise RuntimeError(f"{' '.join(command)} said {line!r} and ended with {self.process.wait()}")

    def stage(self):
        """What arranges its props and makes it fail."""
        from drivers.emulators.stage import Stage

        return Stage(self.host)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()


_addresses = itertools.count(1)


@pytest.fixture(scope="module")
def emulate():
    """Starts emulators: `emulate("fr3", task="reach", lockstep=True)`; they end with the test file."""
    started = []
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))

    def start(arm, **options):
        arguments = [arm]
        for name, value in options.items():
            arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        started.append(EmulatorProcess(f"127.0.{worker + 1}.{next(_addresses)}", arguments))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def cell_file(tmp_path):
    """Writes a cell file; returns its path."""

    def write(text):
        path = tmp_path / "cell.yaml"
        path.write_text(text)
        return str(path)

    return write
