"""arm_node: which cells it takes, within which limits, and that those are set before it obeys anybody."""

import threading

import numpy as np
import pytest

from drivers.cell import Cell, NoTracker
from drivers.cell_file import LimitsFile
from drivers.ros2 import messages as ros
from drivers.ros2.arguments import checked
from drivers.ros2.node import NEWEST
from drivers.ros2.nodes import arm_node
from drivers.ros2.nodes.arm_node import PARAMETERS, ArmNode, limits_of, options_of
from drivers.ros2.robot import RobotOptions
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinArm, TwinClock, TwinGripper
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError, DeviceConnectionError
from tests.drivers.ros2.inprocess import Bus

POSE = "geometry_msgs/msg/PoseStamped"
BOX = LimitsFile(position_low=(0.3, -0.2, 0.05), position_high=(0.6, 0.2, 0.5))
CELL = """
arm: {driver: franka, host: 127.0.0.1}
gripper: {driver: franka_hand}
cameras: {front: {driver: realsense, serial: "1"}}
tracker: {driver: 'somebody:Else'}
limits: {position_low: [0.3, -0.2, 0.05], position_high: [0.6, 0.2, 0.5], max_speed: [0.1, 0.5]}
"""


def test_the_limits_are_the_cells_own():
    limits = limits_of("lab.yaml", BOX)
    assert (limits.position_low, limits.position_high) == ((0.3, -0.2, 0.05), (0.6, 0.2, 0.5))
    assert min(limits.rotation_limit) > np.pi  # every rotation


def test_a_cell_may_be_as_fast_as_it_says_and_stricter():
    limits = limits_of("lab.yaml", BOX.model_copy(update={"max_speed": (0.4, 1.5), "max_wrench": (20.0, 5.0),
                                                          "joint_margin": 0.2, "outside": "refuse"}))  # fmt: skip
    assert limits.max_speed == (0.4, 1.5)
    assert limits.max_wrench == (20.0, 5.0)
    assert (limits.joint_margin, limits.outside) == (0.2, "refuse")


@pytest.mark.parametrize("missing", ["position_low", "position_high"])
def test_without_a_box_nobody_may_send_targets(missing):
    with pytest.raises(ConfigError, match=r"lab.yaml: limits.position_low and position_high are missing"):
        limits_of("lab.yaml", BOX.model_copy(update={missing: None}))


def test_parameters_say_how_the_arm_presents_itself():
    values = checked(PARAMETERS, {"base_frame": "link0", "tcp_frame": "tool", "rate_hz": 50.0})
    assert options_of(values) == RobotOptions(base_frame="link0", tcp_frame="tool", rate_hz=50.0)
    assert options_of(checked(PARAMETERS, {})) == RobotOptions()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arm: {driver: twin}", "arm.driver is twin.*sim_node"),
        ("arm: {driver: ros2}", "arm.driver is ros2.*needs no arm_node"),
        ("arm: {driver: franka, host: 127.0.0.1}", "position_high are missing"),
        ("arm: {driver: franka}", "arm.host is missing"),
    ],
)
def test_a_cell_that_is_no_robot_here_is_said(cell_file, text, said):
    with pytest.raises(ConfigError, match=said):
        ArmNode(Bus().node(), checked(PARAMETERS, {"cell": cell_file(text)}))


@pytest.mark.parametrize("cell", ["", "twin", "/no/such.yaml"])
def test_without_a_cell_file_it_is_said(cell):
    with pytest.raises(ConfigError, match="cell file"):
        ArmNode(Bus().node(), checked(PARAMETERS, {"cell": cell}))


class SpyArm(TwinArm):
    """The twin's arm, and the order in which it was spoken to."""

    def __init__(self, twin, bus):
        super().__init__(twin)
        self.calls, self.bus, self.connects = [], bus, True

    def connect(self):
        self.calls.append("connect")
        if not self.connects:
            raise DeviceConnectionError("no answer")

    def set_limits(self, limits):
        self.calls.append("set_limits")
        assert not self.bus.listeners["/target_pose"], "somebody could be obeyed already"
        self.limits = limits
        super().set_limits(limits)

    def stop(self):
        self.calls.append("stop")
        super().stop()

    def close(self):
        self.calls.append("close")


class Room:
    """What arm_node opens is the twin."""

    def __init__(self, monkeypatch):
        self.bus, self.twin = Bus(), Twin(load_arm("fr3"))
        self.arm, self.clock = SpyArm(self.twin, self.bus), TwinClock(self.twin)
        monkeypatch.setattr(arm_node, "open_cell", self.open)

    def open(self, file, request, *, rehearse):
        self.asked = (file, request, rehearse)
        return Cell(clock=self.clock, arm=self.arm, gripper=TwinGripper(self.twin), tracker=NoTracker())

    def start(self, path, **values):
        return ArmNode(self.bus.node("arm"), checked(PARAMETERS, {"cell": path, **values}))


@pytest.fixture
def room(monkeypatch):
    return Room(monkeypatch)


def test_the_limits_are_set_before_it_obeys(room, cell_file):
    room.start(cell_file(CELL))
    assert room.arm.calls[:2] == ["connect", "set_limits"]
    assert len(room.bus.listeners["/target_pose"]) == 1
    limits = room.arm.limits
    assert (limits.position_low, limits.position_high) == ((0.3, -0.2, 0.05), (0.6, 0.2, 0.5))
    assert limits.max_speed == (0.1, 0.5)


def test_a_target_outside_the_box_does_not_lead_the_arm_out(room, cell_file):
    """Half a metre beyond it, for a second: the arm goes to where the box ends, give or take a centimetre."""
    robot = room.start(cell_file(CELL)).robot
    room.arm.move_to_pose(np.array([0.58, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0]), 1.0)
    user = room.bus.node("user").publisher("target_pose", POSE, NEWEST)
    seen = []
    for _ in range(200):
        header = ros.header(room.bus.now_s, "base")
        user.publish(ros.message(POSE, header=header, pose=ros.pose(np.array([1.1, 0, 0.3, 1, 0, 0, 0]))))
        room.clock.wait_until(room.clock.now() + 0.005)
        room.bus.now_s += 0.005
        robot.tick()
        seen.append(room.arm.state().tcp_pose[0])
    assert 0.59 < seen[-1] <= max(seen) < 0.61


def test_only_arm_and_gripper_are_opened(room, cell_file):
    room.start(cell_file(CELL), rehearse="127.0.0.9")
    file, _, rehearse = room.asked
    assert (file.arm.driver, file.gripper.driver, rehearse) == ("franka", "franka_hand", "127.0.0.9")
    assert (file.cameras, file.tracker.driver) == ({}, "none")


def test_an_arm_that_does_not_answer_is_let_go_of(room, cell_file):
    room.arm.connects = False
    with pytest.raises(DeviceConnectionError, match="no answer"):
        room.start(cell_file(CELL))
    assert room.arm.calls == ["connect", "close"]


def test_in_the_end_the_arm_holds_and_is_let_go_of(room, cell_file):
    node, ended = room.start(cell_file(CELL)), threading.Event()
    tick = node.robot.tick

    def tick_and_end():
        tick()
        if len(room.bus.heard["/joint_states"]) == 3:
            ended.set()

    node.robot.tick = tick_and_end
    node.run(ended)
    assert room.arm.calls[-2:] == ["stop", "close"]
    names = room.bus.heard["/joint_states"][-1].name
    assert names == [f"joint{i}" for i in range(1, 8)]


def test_what_goes_wrong_while_it_runs_lets_go_of_the_arm(room, cell_file):
    node = room.start(cell_file(CELL))

    def broken():
        raise DeviceConnectionError("gone")

    node.robot.tick = broken
    with pytest.raises(DeviceConnectionError, match="gone"):
        node.run(threading.Event())
    assert room.arm.calls[-1] == "close"
