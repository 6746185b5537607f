"""What every launch file would start, with the real `launch` of ROS 2 and with a stand-in for machines without.

The stand-in (launch_stand_in/) runs by default; `pytest -m ros tests/test_launch_files.py` runs the same tests with the
real one, which needs a sourced ROS 2 that finds this package (`ros2 pkg prefix robot_rl`).
"""

import ast
import importlib
import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from drivers.cell_file import load_cell_file
from drivers.cell_templates import TEMPLATES
from drivers.ros2.arguments import Arguments, checked
from drivers.ros2.robot import LEAVE_S
from robot_rl import cli
from tasks.ros2.training import PATIENCE_S

ROOT = Path(__file__).parents[1]
STAND_IN = ROOT / "tests" / "launch_stand_in"
FILES = sorted(path.name.removesuffix(".launch.py") for path in (ROOT / "launch").glob("*.launch.py"))
CELLS = ["twin", "franka", "franka with cameras", "ros2", "ros2 with a camera of ours"]
DEVICES = {  # by hand: which nodes present a cell
    "twin": ["sim_node"],
    "franka": ["arm_node"],
    "franka with cameras": ["arm_node", "camera_node"],
    "ros2": [],
    "ros2 with a camera of ours": ["camera_node"],
}
WORK = {  # what else a launch file starts, the arguments given that it cannot do without
    "robot": [],
    "sim": [],
    "teleop": ["teleop_node"],
    "train": ["training_node"],
    "record": ["robot-rl record"],
    "evaluate": ["robot-rl eval"],
    "replay": ["robot-rl replay"],
}
OTHER_VALUES = {  # of every argument, none of which is its default
    "task": "peg_insert", "model": "ur5e", "run": "runs/reach/7", "demos": "20", "reward": "human", "preset": "fast",
    "steps": "500", "device": "gamepad", "end_when_done": "false", "rehearse": "127.0.3.1", "frame": "tcp",
    "episodes": "3", "out": "demos/mine", "store": "demos/reach", "episode": "4", "bag": "bags/mine",
}  # fmt: skip


REQUIRED = {"evaluate": {"run": "runs/reach/1"}, "replay": {"store": "demos/first"}}


@dataclass
class Started:
    """A program that a launch file starts."""

    words: list[str]
    action: Any
    sigterm_timeout_s: float

    @property
    def name(self):
        program = Path(self.words[0]).name
        return f"{program} {self.words[1]}" if program == "robot-rl" else program

    @property
    def parameters(self):
        """As the node's own program reads its command line."""
        return Arguments.parse(self.words[1:], "unnamed").parameters


@pytest.fixture(params=["stand-in", pytest.param("ROS", marks=pytest.mark.ros)])
def real_or_not(request, monkeypatch, tmp_path):
    """Makes `launch` importable; the folder of that name in the root of the tree is none."""
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    theirs = {name: module for name, module in sys.modules.items() if re.match(r"launch(_ros)?(\.|$)", name)}
    if request.param == "stand-in":
        monkeypatch.syspath_prepend(STAND_IN)
    else:
        theirs = {} if hasattr(theirs.get("launch"), "LaunchDescription") else theirs
    for name in theirs:
        del sys.modules[name]
    launch = importlib.import_module("launch")
    assert hasattr(launch, "LaunchContext"), "no ROS 2 is sourced"
    assert (STAND_IN in Path(launch.__file__).parents) == (request.param == "stand-in")
    yield request.param
    if request.param == "stand-in":
        for name in [name for name in sys.modules if re.match(r"launch(_ros)?(\.|$)", name)]:
            del sys.modules[name]
        sys.modules.update(theirs)


@pytest.fixture
def describe(real_or_not):
    """Runs a launch file, as `ros2 launch` reads it."""

    def described(file):
        spec = importlib.util.spec_from_file_location("a_launch_file", ROOT / "launch" / f"{file}.launch.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.generate_launch_description()

    return described


@pytest.fixture
def start(describe, monkeypatch):
    """`start("train", steps="5")`: what would run; nothing is started."""
    from launch import LaunchContext
    from launch.actions import ExecuteLocal
    from launch.utilities import perform_substitutions

    started = []

    def take(action, context):
        action.prepare(context)
        timeout_s = float(perform_substitutions(context, action.sigterm_timeout))
        started.append(Started(action.process_details["cmd"], action, timeout_s))

    def visit(entity, context):
        for inner in entity.visit(context) or ():
            visit(inner, context)

    def session(file, **arguments):
        started.clear()
        context = LaunchContext()
        context.launch_configurations.update(REQUIRED.get(file, {}) | arguments)
        visit(describe(file), context)
        return list(started)

    monkeypatch.setattr(ExecuteLocal, "execute", take)
    return session


@pytest.fixture
def cell(tmp_path):
    """Writes a cell file of CELLS, or says twin."""

    def write(kind, name="lab.yaml"):
        if kind == "twin":
            return "twin"
        content = yaml.safe_load(TEMPLATES["franka"].format(path="lab.yaml", driver="franka"))
        if kind.startswith("ros2"):
            content |= {"arm": {"driver": "ros2"}, "gripper": {"driver": "none"}}
            content["cameras"] = {"front": {"driver": "ros2", "source": "/front/image_raw"}}
        if kind == "franka with cameras":
            content["cameras"] = {"front": {"driver": "realsense", "serial": "1"}, "wrist": {"driver": "ros2"}}
            content["cameras"]["wrist"]["source"] = "/wrist/image_raw"
        if kind == "ros2 with a camera of ours":
            content["cameras"]["wrist"] = {"driver": "opencv", "source": "/dev/video0"}
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content))
        load_cell_file(path)
        return str(path)

    return write


def program(name):
    """The module behind an executable in lib/robot_rl."""
    wrapper = ROOT / "scripts" / "ros2" / name
    return importlib.import_module(re.search(r"^from (\S+) import main$", wrapper.read_text(), re.MULTILINE)[1])


def one(started, name):
    (found,) = [each for each in started if each.name == name]
    return found


@pytest.mark.parametrize("file", FILES)
def test_launch_files_need_nothing_of_ours(file):
    """They run in ROS's own Python, which need not have robot_rl."""
    tree = ast.parse((ROOT / "launch" / f"{file}.launch.py").read_text())
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots = {name.partition(".")[0] for name in froms | names}
    assert roots - set(sys.stdlib_module_names) <= {"launch", "launch_ros", "yaml"}


def test_every_launch_file_is_among_those_tested():
    assert set(WORK) == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_every_argument_is_described_and_has_a_default_or_must_be_given(describe, file):
    from launch.actions import DeclareLaunchArgument

    declared = [entity for entity in describe(file).entities if isinstance(entity, DeclareLaunchArgument)]
    assert declared
    assert len({each.name for each in declared}) == len(declared)
    for each in declared:
        assert each.description != "no description given"
        assert len(each.description) > 5, each.name
        assert (each.default_value is None) == (each.name in REQUIRED.get(file, {})), each.name
        if each.choices is not None:
            assert OTHER_VALUES[each.name] in each.choices


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("file", [name for name in FILES if name != "sim"])
def test_the_nodes_of_a_cell_and_the_work_on_it(start, cell, file, kind):
    assert [each.name for each in start(file, cell=cell(kind))] == [*DEVICES[kind], *WORK[file]]


def test_sim_is_the_twin_alone(start):
    (sim,) = start("sim", task="peg_insert", model="ur5e")
    assert sim.name == "sim_node"
    assert sim.parameters == {"task": "peg_insert", "model": "ur5e"}


def test_a_device_brings_its_node_into_training(start):
    training = start("train", device="gamepad")
    assert [each.name for each in training] == ["sim_node", "training_node", "teleop_node"]
    assert one(training, "teleop_node").parameters == {"device": "gamepad"}


def test_driving_by_hand_sends_targets(start):
    teleop = one(start("teleop", device="spacemouse", frame="tcp"), "teleop_node")
    assert teleop.parameters == {"device": "spacemouse", "frame": "tcp", "drive": True}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("file", FILES)
def test_every_node_knows_its_parameters(start, cell, file, kind):
    """By name and type: rclpy refuses a whole number for a parameter that is declared as text, and the like."""
    given = {} if file == "sim" else {"cell": cell(kind)}
    given |= {"device": "gamepad"} if file == "train" else {}
    for each in start(file, **given):
        if each.name.startswith("robot-rl "):
            continue
        assert Arguments.parse(each.words[1:], "unnamed").name == each.name
        declared = {parameter.name: parameter for parameter in program(each.name).PARAMETERS}
        for name, value in each.parameters.items():
            assert type(value) is type(declared[name].default), name
        checked(declared.values(), each.parameters)


def test_training_takes_every_argument_as_what_it_is(start, cell):
    path = cell("franka")
    names = ("task", "run", "demos", "reward", "preset", "steps", "rehearse", "end_when_done")
    training = one(start("train", cell=path, **{name: OTHER_VALUES[name] for name in names}), "training_node")
    assert training.parameters == {
        "task": "peg_insert", "cell": path, "run": "runs/reach/7", "demos": "20", "reward": "human", "preset": "fast",
        "steps": 500, "rehearse": "127.0.3.1", "end_when_done": False,
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_no_argument_is_without_effect(start, describe, cell, file):
    from launch.actions import DeclareLaunchArgument

    names = [each.name for each in describe(file).entities if isinstance(each, DeclareLaunchArgument)]
    places = [{}] if file == "sim" else [{"cell": "twin"}, {"cell": cell("franka with cameras")}]

    def told(**arguments):
        found = start(file, **arguments)
        return [(each.name, each.parameters if each.name.endswith("_node") else each.words) for each in found]

    for name in set(names) - {"cell"}:
        assert any(told(**place) != told(**place, **{name: OTHER_VALUES[name]}) for place in places), name


@pytest.mark.parametrize("file", FILES)
def test_the_end_of_any_program_ends_the_session(start, cell, file):
    from launch.actions import Shutdown

    given = {} if file == "sim" else {"cell": cell("franka with cameras")}
    given |= {"device": "gamepad"} if file == "train" else {}
    started = start(file, **given)
    assert started
    for each in started:
        on_exit = each.action._ExecuteLocal__on_exit
        assert any(isinstance(end, Shutdown) for end in (on_exit if isinstance(on_exit, list) else [on_exit]))


def test_programs_have_the_time_they_need_to_end(start, cell):
    """An arm's node stays until nobody commands it; training finishes an episode's commit and a checkpoint."""
    training = start("train", cell=cell("franka"))
    assert one(training, "arm_node").sigterm_timeout_s > LEAVE_S
    assert one(training, "training_node").sigterm_timeout_s >= PATIENCE_S
    assert one(start("train"), "sim_node").sigterm_timeout_s > LEAVE_S


@pytest.mark.parametrize("file", [name for name in FILES if name != "sim"])
def test_a_cell_file_that_is_not_there(start, file, tmp_path):
    with pytest.raises(RuntimeError, match=r"There is no cell file /.*nowhere\.yaml\. Write one: robot-rl cells new"):
        start(file, cell=str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize("file", ["sim", "robot"])
def test_an_arm_that_is_none_of_ours(start, file):
    with pytest.raises(RuntimeError, match="not valid"):
        start(file, model="panda")


def cells_of(started):
    """Which cell each program is told."""
    for each in started:
        if each.name.startswith("robot-rl "):
            yield each.words[each.words.index("--cell") + 1].removeprefix("ros:")
        elif each.name != "teleop_node":
            yield each.parameters["cell"]


@pytest.mark.parametrize("file", [name for name in FILES if name != "sim"])
@pytest.mark.parametrize("name", ["lab.yaml", "lab: two, #3.yaml"])
def test_all_programs_mean_the_same_cell_file(start, cell, monkeypatch, file, name):
    """No shell expands the tilde of `cell:=~/lab.yaml`, and programs need not run where the launch file does."""
    path = Path(cell("franka with cameras", name))
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.chdir(path.parent)
    for written in (f"~/{name}", name, str(path)):
        assert set(cells_of(start(file, cell=written))) == {str(path)}


@pytest.fixture
def understood(monkeypatch):
    """What `robot-rl` makes of a command line: its own parser, and no command is run."""

    def parse(words):
        taken = {}
        function = cli.commands()[words[1]]()

        def take(*args, **kwargs):
            taken.update(kwargs)

        take.__wrapped__ = function
        take.__doc__ = function.__doc__
        with monkeypatch.context() as patched:
            patched.setattr(cli, "commands", lambda: {words[1]: lambda: take})
            assert cli.main(words[1:]) == 0, shlex.join(words)
        return taken

    return parse


def test_robot_rl_understands_record(start, understood):
    plain = understood(one(start("record"), "robot-rl record").words)
    wanted = {"task": "reach", "cell": "ros:twin", "episodes": 20, "device": "page", "out": None, "rehearse": True}
    assert {name: plain[name] for name in wanted} == wanted
    words = one(start("record", task="peg_insert", episodes="3", device="ros2", out="demos/mine"), "robot-rl record")
    given = understood(words.words)
    wanted |= {"task": "peg_insert", "episodes": 3, "device": "ros2", "out": Path("demos/mine")}
    assert {name: given[name] for name in wanted} == wanted


def test_robot_rl_understands_evaluate(start, understood, cell):
    path = cell("franka")
    given = understood(one(start("evaluate", run="runs/reach/7", episodes="3", cell=path), "robot-rl eval").words)
    wanted = {"run": Path("runs/reach/7"), "cell": f"ros:{path}", "episodes": 3, "rehearse": False}
    assert {name: given[name] for name in wanted} == wanted
    words = one(start("evaluate", run="r", cell=path, rehearse="127.0.3.1"), "robot-rl eval").words
    assert understood(words)["rehearse"] is True


def test_robot_rl_understands_replay(start, understood):
    given = understood(one(start("replay", store="demos/reach", episode="4"), "robot-rl replay").words)
    wanted = {"store": Path("demos/reach"), "cell": "ros:twin", "episode": 4, "rehearse": True}
    assert {name: given[name] for name in wanted} == wanted


def test_the_parser_would_object(understood):
    with pytest.raises(SystemExit):
        understood(["robot-rl", "record", "reach", "--no-such-flag"])
