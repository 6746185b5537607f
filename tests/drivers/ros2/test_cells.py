"""`--cell ros:...`: which devices a cell has behind ROS 2's nodes."""

import pytest

from drivers.cell import cell_file as read_cell
from drivers.cell import open_cell
from drivers.cell_file import CellFile, load_cell_file
from drivers.ros2.cells import over_ros
from drivers.ros2.nodes.camera_node import CameraNode
from robot_rl.errors import ConfigError
from tests.drivers.ros2.inprocess import Bus

FRANKA = """
arm: {driver: franka, host: 172.16.0.2, home: [0, -0.8, 0, -2.4, 0, 1.6, 0.8], max_state_age_s: 0.2, options: {a: 1}}
gripper: {driver: franka_hand}
cameras:
  front: {driver: realsense, serial: "123", crop: [80, 0, 480, 480], max_age_s: 0.4}
  wrist: {driver: opencv, source: /dev/video0, width: 320, height: 240, intrinsics: [300, 300, 160, 120]}
  side: {driver: ros2, source: /side/image, options: {transport: dds}}
limits: {position_low: [0.3, -0.2, 0.0], position_high: [0.6, 0.2, 0.4]}
tracker: {driver: tags, camera: front, camera_pose_base: [1, 0, 0, 0, 0, 0, 1], objects: {cube: [{id: 1, size_m: 0.1}]}}
faults_in_a_row: 5
"""


def test_the_twin_as_sim_node_presents_it():
    cell = read_cell("ros:twin")
    assert (cell.arm.driver, cell.gripper.driver, cell.tracker.driver) == ("ros2", "ros2", "ros2")
    sources = {name: (camera.driver, camera.source) for name, camera in cell.cameras.items()}
    assert sources == {"front": ("ros2", "/front/image_raw"), "wrist": ("ros2", "/wrist/image_raw")}


def test_a_cell_file_as_arm_node_and_camera_node_present_it(cell_file):
    path = cell_file(FRANKA)
    cell, before = read_cell(f"ros:{path}"), load_cell_file(path)
    assert (cell.arm.driver, cell.arm.host, cell.arm.options) == ("ros2", "", {})
    assert cell.arm.home == (0, -0.8, 0, -2.4, 0, 1.6, 0.8)
    assert cell.arm.max_state_age_s == 0.2
    assert cell.gripper.driver == "ros2"
    front, wrist = cell.cameras["front"], cell.cameras["wrist"]
    assert (front.driver, front.source, front.serial) == ("ros2", "/front/image_raw", "")
    assert (front.crop, front.max_age_s) == ((80, 0, 480, 480), 0.4)
    assert (wrist.source, wrist.width, wrist.intrinsics) == ("/wrist/image_raw", 320, (300, 300, 160, 120))
    assert cell.cameras["side"] == before.cameras["side"]
    assert (cell.limits, cell.tracker, cell.faults_in_a_row) == (before.limits, before.tracker, 5)
    assert CellFile.model_validate(cell.model_dump()) == cell


def test_a_cell_without_a_gripper_has_none(cell_file):
    cell = over_ros(cell_file("arm: {driver: ur, host: 10.0.0.1}"))
    assert (cell.arm.driver, cell.gripper.driver, cell.cameras) == ("ros2", "none", {})


def test_a_cell_in_ros_stays_as_it_is(cell_file):
    path = cell_file("arm: {driver: ros2, options: {namespace: /left}}\ngripper: {driver: robotiq, host: 10.0.0.1}")
    assert over_ros(path) == load_cell_file(path)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("ros:cells/nowhere.yaml", "no cell file cells/nowhere.yaml"),
        ("ros:", "no cell file"),
        ("ross:twin", "Unknown cell 'ross:twin': twin, the path of a cell file .*ros:twin"),
    ],
)
def test_a_cell_that_is_none_is_said(cell, said):
    with pytest.raises(ConfigError, match=said):
        open_cell(cell)


def test_a_mistake_in_the_file_is_said(cell_file):
    with pytest.raises(ConfigError, match=r"arm\.hots: there is no such key"):
        open_cell(f"ros:{cell_file('arm: {driver: franka, hots: 1}')}")


def test_camera_node_presents_what_is_looked_at_over_ros(cell_file):
    """The topics of one are the sources of the other."""
    path = cell_file(FRANKA)
    bus = Bus()
    names = [
        one.name for one in CameraNode(bus.node(), {"cell": path, "camera": "", "rehearse": "", "fps": 5.0}).publishers
    ]
    wanted = {name: camera.source for name, camera in over_ros(path).cameras.items() if name != "side"}
    assert names == list(wanted)
    assert set(wanted.values()) <= set(bus.senders)
