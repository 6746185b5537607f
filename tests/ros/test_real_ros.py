"""Our nodes beside ROS 2's own programs. Run them with `pytest -m ros tests/ros`, in a shell where ROS 2 is sourced.

`ros2 pkg prefix robot_rl` must find this package: pip or colcon has installed it, and its prefix is in
AMENT_PREFIX_PATH, its bin/ first in PATH. The transports are compared where this Python can import rclpy;
services pass between them with RMW_IMPLEMENTATION=rmw_cyclonedds_cpp only. No other twin may run on the machine.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from drivers.ros2 import messages as ros
from drivers.ros2.node import DEFAULT, LATCHED, SENSOR_DATA
from drivers.ros2.opening import open_node

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[2]
STRING, TRIGGER = "std_msgs/msg/String", "std_srvs/srv/Trigger"
TOPICS = {  # the field's names and kinds: CRISP's controllers, image_transport, ros2_control's grippers
    "/current_pose": "geometry_msgs/msg/PoseStamped",
    "/current_twist": "geometry_msgs/msg/TwistStamped",
    "/wrench": "geometry_msgs/msg/WrenchStamped",
    "/joint_states": "sensor_msgs/msg/JointState",
    "/target_pose": "geometry_msgs/msg/PoseStamped",
    "/gripper/joint_states": "sensor_msgs/msg/JointState",
    "/gripper/command": "std_msgs/msg/Float64MultiArray",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
    **{f"/{camera}/image_raw": "sensor_msgs/msg/Image" for camera in ("front", "wrist")},
    **{f"/{camera}/image_raw/compressed": "sensor_msgs/msg/CompressedImage" for camera in ("front", "wrist")},
    **{f"/{camera}/camera_info": "sensor_msgs/msg/CameraInfo" for camera in ("front", "wrist")},
}


@pytest.fixture(scope="module", autouse=True)
def a_domain_of_our_own():
    """Nobody else's nodes; and the daemon that `ros2` leaves behind there ends."""
    assert shutil.which("ros2"), "no ROS 2 is sourced: . /opt/ros/jazzy/setup.bash"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ROS_DOMAIN_ID", os.environ.get("ROS_DOMAIN_ID", "90"))
        patched.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield
        subprocess.run(["ros2", "daemon", "stop"], capture_output=True, timeout=60, check=False)


def ros2(*words, code=0):
    ended = subprocess.run(["ros2", *words], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode == 0) == (code == 0), f"ros2 {' '.join(words)}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def typed(listing):
    """Of `ros2 topic list -t` and the like."""
    return dict(re.findall(r"^(\S+) \[(\S+)\]$", listing, re.MULTILINE))


class Program:
    """Something of `ros2`, started as a terminal does: a process group that SIGINT goes to."""

    def __init__(self, log, *words):
        self.log = log
        with log.open("w") as out:
            # A shell that runs this in the background has SIGINT ignored; `env` takes that back.
            self.process = subprocess.Popen(
                ["env", "--default-signal=INT", "ros2", *words], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def until(self, there, what):
        end = time.monotonic() + 120.0
        while not there():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"no {what} after 120 s\n{self.log.read_text()}"
            time.sleep(0.2)

    def interrupt(self):
        """Ctrl-C; the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(120.0)

    def left(self):
        """Whether anything of it still runs."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self):
        if self.left():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10.0)


@pytest.fixture(scope="module")
def sim(a_domain_of_our_own, tmp_path_factory):
    program = Program(tmp_path_factory.mktemp("sim") / "log.txt", "launch", "robot_rl", "sim.launch.py", "task:=reach")
    try:
        program.until(lambda: "/current_pose" in ros2("topic", "list"), "robot")
        yield program
    finally:
        program.kill()


def test_ros2_pkg_finds_every_program():
    names = sorted(path.name for path in (ROOT / "scripts" / "ros2").iterdir() if path.is_file())
    assert ros2("pkg", "executables", "robot_rl").split("\n")[:-1] == [f"robot_rl {name}" for name in names]


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "launch").glob("*.launch.py")))
def test_ros2_launch_shows_the_arguments(file):
    said = ros2("launch", "robot_rl", file, "--show-args")
    assert "'task':" in said
    assert "no description given" not in said


def test_node_and_topics(sim):
    assert ros2("node", "list").split() == ["/sim_node"]
    seen = typed(ros2("topic", "list", "-t"))
    assert {name: seen.get(name) for name in TOPICS} == TOPICS


def test_pose_comes_at_200_hz_in_base(sim):
    """By its stamps, which a busy machine does not bend."""
    stamps, frames, enough = [], set(), threading.Event()

    def take(content):
        stamps.append(ros.seconds(content.header.stamp))
        frames.add(content.header.frame_id)
        if len(stamps) >= 600:
            enough.set()

    node = open_node("listener")
    try:
        node.subscribe("current_pose", TOPICS["/current_pose"], take, SENSOR_DATA)
        assert enough.wait(60.0), f"{len(stamps)} poses came"
    finally:
        node.close()
    assert frames == {"base"}
    np.testing.assert_allclose(np.median(np.diff(stamps[:600])), 0.005, rtol=0.1)


def test_stop_is_a_service_of_the_node(sim):
    assert typed(ros2("service", "list", "-t"))["/sim_node/stop"] == TRIGGER
    assert "success=True" in ros2("service", "call", "/sim_node/stop", TRIGGER)


def test_parameters_are_described_with_their_ranges(sim):
    said = ros2("param", "describe", "/sim_node", "rate_hz")
    known = r"Type: double\s+Description: \S.*\s+Constraints:\s+Read only: true\s+Min value: 1.0\s+Max value: 1000.0"
    assert re.search(known, said)
    assert "fr3, ur5e" in ros2("param", "describe", "/sim_node", "model")
    assert ros2("param", "get", "/sim_node", "task").strip() == "String value is: reach"


def test_both_actions_are_there_and_the_gripper_grips(sim):
    assert typed(ros2("action", "list", "-t")) == {
        "/gripper/gripper_cmd": "control_msgs/action/GripperCommand",
        "/joint_trajectory_controller/follow_joint_trajectory": "control_msgs/action/FollowJointTrajectory",
    }
    kind = "control_msgs/action/GripperCommand"
    said = ros2("action", "send_goal", "/gripper/gripper_cmd", kind, "{command: {position: 0.02}}")
    assert "Goal finished with status: SUCCEEDED" in said
    assert float(re.search(r"Result:\s+position: (\S+)", said)[1]) == pytest.approx(0.02, abs=0.004)


def test_controllers_as_ros2_control_lists_them(sim):
    said = ros2(
        "service", "call", "/controller_manager/list_controllers", "controller_manager_msgs/srv/ListControllers"
    )
    assert dict(re.findall(r"ControllerState\(name='(\w+)', state='(\w+)'", said)) == {
        "cartesian_impedance_controller": "active",
        "joint_trajectory_controller": "inactive",
    }


def test_ctrl_c_ends_it_while_somebody_looks(sim, tmp_path):
    """The last test of `sim`. The twin draws its pictures for whoever looks; that must not keep it from ending."""
    viewers = [Program(tmp_path / name, "topic", "hz", f"/{name}/image_raw") for name in ("front", "wrist")]
    try:
        for viewer in viewers:
            viewer.until(lambda log=viewer.log: "average rate" in log.read_text(), "picture")
        assert sim.interrupt() == 0
    finally:
        for viewer in viewers:
            viewer.kill()
    assert not sim.left()
    assert "process has finished cleanly" in sim.log.read_text()
    assert "Traceback" not in sim.log.read_text()
    assert "escalating" not in sim.log.read_text()


def test_the_life_of_training(tmp_path):
    words = ("autostart:=false", "task:=reach", "cell:=twin", f"run:={tmp_path / 'run'}")
    given = [word for pair in words for word in ("-p", pair)]
    node = Program(tmp_path / "log.txt", "run", "robot_rl", "training_node", "--ros-args", *given)
    try:
        node.until(lambda: "/training_node" in ros2("lifecycle", "nodes").split(), "node")

        def state():
            return ros2("lifecycle", "get", "/training_node").strip()

        assert state() == "unconfigured [1]"
        ros2("lifecycle", "set", "/training_node", "activate", code=1)
        assert state() == "unconfigured [1]"
        listed = ros2("lifecycle", "list", "/training_node")
        assert re.findall(r"^- (\w+) \[(\d)\]", listed, re.MULTILINE) == [("configure", "1"), ("shutdown", "5")]
        for transition, after in (
            ("configure", "inactive [2]"), ("cleanup", "unconfigured [1]"), ("configure", "inactive [2]"),
            ("activate", "active [3]"), ("deactivate", "inactive [2]"), ("shutdown", "finalized [4]"),
        ):  # fmt: skip
            assert "successful" in ros2("lifecycle", "set", "/training_node", transition)
            assert state() == after
        assert node.interrupt() == 0
        assert not node.left()
    finally:
        node.kill()


@pytest.mark.parametrize(("ours", "theirs"), [("rclpy", "dds"), ("dds", "rclpy")])
def test_both_transports_understand_each_other(ours, theirs):
    """Topics and services, each both ways, and what was said before one came."""
    pytest.importorskip("rclpy", reason="ROS 2 is sourced for another Python than this")
    talker = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("talker.py")), theirs], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    node = None
    try:
        assert talker.stdout.readline() == "ready\n"
        node = open_node("listener", transport=ours)
        heard, kept, came = [], [], threading.Event()
        response = ros.message(f"{TRIGGER}_Response", success=True, message=f"over {ours}")
        node.serve("listener_says", TRIGGER, lambda _: response)
        node.subscribe("back", STRING, lambda said: (heard.append(said.data), came.set()), DEFAULT)
        node.subscribe("kept", STRING, lambda said: kept.append(said.data), LATCHED)
        forth = node.publisher("forth", STRING, DEFAULT)
        end = time.monotonic() + 30.0
        while not came.wait(0.2):  # what is sent before they have found each other is lost, as in ROS
            assert time.monotonic() < end, "nothing came back"
            forth.publish(ros.message(STRING, data="Grüße"))
        assert set(heard) == {"Grüße, heard"}
        assert kept == ["from before you came"]
        answer = node.call("talker_says", TRIGGER, ros.message(f"{TRIGGER}_Request"), 20.0)
        assert (answer.success, answer.message) == (True, f"over {ours}, says the listener")
        assert [end.kind for end in node.publishers("kept")] == [STRING]
        assert node.publishers("kept")[0].node == "/talker"
    finally:
        if node is not None:
            node.close()
        talker.kill()
        talker.wait(10.0)
        talker.stdout.close()
