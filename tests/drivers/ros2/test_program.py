"""A node as a program: its help, one message and exit code 2 where something is wrong, and an end by a signal."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drivers.ros2.arguments import Parameter
from drivers.ros2.nodes import arm_node, camera_node, teleop_node
from drivers.ros2.program import run_node
from robot_rl.errors import DeviceConnectionError, LinkError
from tasks.ros2 import reward_node, sim_node, training_node
from tests.drivers.ros2.inprocess import Bus

PARAMETERS = (
    Parameter("rate_hz", 200.0, "how often", 1.0, 1000.0),
    Parameter("frame", "base", "which", choices=("base", "tcp")),
)
NODES = (arm_node, camera_node, teleop_node, reward_node, sim_node, training_node)


@pytest.fixture
def bus(monkeypatch):
    """Programs in this process open their nodes on it; what they set is put back."""
    bus, logger = Bus(), logging.getLogger("robot_rl")
    bus.opened = []

    def open_node(name, arguments):
        bus.opened.append(bus.node(arguments.name or name, arguments))
        return bus.opened[-1]

    monkeypatch.setattr("drivers.ros2.program.open_node", open_node)
    level = logger.level
    yield bus
    logger.setLevel(level)


class Job:
    """What a node does in these tests; `do` is called with `ended`."""

    def __init__(self, do=lambda _ended: None):
        self.do, self.node, self.values = do, None, None

    def build(self, node, values):
        self.node, self.values = node, values
        return self

    def run(self, ended):
        self.do(ended)

    def start(self, *words):
        return run_node("worker", "It works.", PARAMETERS, self.build, words)


def test_it_runs_on_its_parameters_and_lets_go_of_the_node(bus):
    job = Job()
    assert job.start("--ros-args", "-p", "rate_hz:=50", "-r", "__node:=busy") == 0
    assert job.values == {"rate_hz": 50.0, "frame": "base"}
    assert (job.node.name, job.node.closed) == ("busy", True)


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_tells_every_parameter(bus, capsys, word):
    assert Job().start(word) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "It works."
    assert any(line.split()[:1] == ["rate_hz"] and "[1 to 1000] (default: 200.0)" in line for line in lines)
    assert any(line.split()[:1] == ["frame"] and "[base | tcp] (default: 'base')" in line for line in lines)
    assert not bus.opened


@pytest.mark.parametrize("module", NODES)
def test_every_node_helps(capsys, monkeypatch, module):
    monkeypatch.setattr(sys, "argv", ["node", "--help"])
    assert module.main() == 0
    out = capsys.readouterr().out
    assert all(f"  {one.name} " in out for one in module.PARAMETERS)


@pytest.mark.parametrize("module", NODES)
def test_every_nodes_wrapper_is_there(module):
    """`ros2 run robot_rl NAME` starts scripts/ros2/NAME, which must be executable."""
    name = module.__name__.rsplit(".", 1)[-1]
    script = Path(__file__).parents[3] / "scripts" / "ros2" / name
    assert script.stat().st_mode & 0o111
    assert f"from {module.__name__} import main" in script.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ros-args", "-p", "rate_hz:=0"], "[worker] ConfigError: The parameter rate_hz is 0.0"),
        (["rate_hz:=5"], "[worker] ConfigError: 'rate_hz:=5' is not understood"),
    ],
)
def test_what_is_wrong_at_the_start_is_one_message(bus, capsys, words, said):
    assert Job().start(*words) == 2
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert "Traceback" not in err
    assert all(node.closed for node in bus.opened)


def test_what_goes_wrong_later_is_one_message(bus, capsys):
    def fail(_):
        raise LinkError("it broke")

    job = Job(fail)
    assert job.start() == 2
    assert capsys.readouterr().err == "[worker] LinkError: it broke\n"
    assert job.node.closed


def test_a_node_that_cannot_be_is_said(monkeypatch, capsys):
    def nowhere(_name, _arguments):
        raise DeviceConnectionError("no network")

    monkeypatch.setattr("drivers.ros2.program.open_node", nowhere)
    assert Job().start() == 2
    assert capsys.readouterr().err == "[worker] DeviceConnectionError: no network\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(bus, number):
    before = signal.getsignal(number)

    def work(ended):
        assert not ended.is_set()
        signal.raise_signal(number)
        assert ended.is_set()

    job = Job(work)
    assert job.start() == 0
    assert job.node.closed
    assert signal.getsignal(number) is before


PROGRAM = """
import sys
import drivers.ros2.program as program
from tests.drivers.ros2.inprocess import Bus

class Waiting:
    def run(self, ended):
        print("ready", flush=True)
        ended.wait()

program.open_node = lambda name, arguments: Bus().node(name, arguments)
sys.exit(program.run_node("worker", "It waits.", (), lambda node, values: Waiting(), []))
"""


@pytest.mark.realtime
def test_a_process_that_waits_ends_by_sigterm():
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
