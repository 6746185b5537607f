"""sim_node: a task's scene as a robot in ROS 2, with its cameras, and a stage beside it."""

import socket
import threading

import pytest

from drivers.emulators.stage import PORT, Stage
from drivers.ros2.arguments import checked
from drivers.ros2.images import IMAGE, decode_image
from drivers.ros2.node import SENSOR_DATA
from robot_rl.errors import ConfigError, DeviceConnectionError
from tasks import task_class
from tasks.ros2.sim_node import PARAMETERS, SimNode
from tests.drivers.ros2.inprocess import Bus

HOST = "127.0.240.1"  # its own: other emulators may run


def make(bus, **values):
    return SimNode(bus.node("arm"), checked(PARAMETERS, {"stage": HOST, "cameras": [""], **values}))


def test_what_there_is_not_is_said():
    with pytest.raises(ConfigError, match="fly"):
        make(Bus(), task="fly")
    with pytest.raises(ConfigError, match=r"The scene has no camera side: .*front.* wrist"):
        make(Bus(), cameras=["front", "side"])


def test_an_address_that_is_taken_is_said():
    with socket.create_server((HOST, PORT)), pytest.raises(DeviceConnectionError, match=f"{HOST}:{PORT}"):
        make(Bus())


@pytest.mark.realtime
@pytest.mark.parametrize("values", [{}, {"task": "pick_cube", "tags": True, "model": "ur5e", "cameras": ["front"]}])
def test_it_is_a_robot_until_it_is_ended(values):
    bus, ended, came = Bus(), threading.Event(), []
    viewer = bus.node("viewer")
    sim = make(bus, **values)
    viewer.subscribe("front/image_raw", IMAGE, came.append, SENSOR_DATA)
    thread = threading.Thread(target=sim.run, args=(ended,))
    thread.start()
    try:
        pause = threading.Event()
        while not bus.heard["/joint_states"] or (values and not came):
            assert thread.is_alive()
            pause.wait(0.01)
        with Stage(HOST) as stage:
            facts = stage.facts()
    finally:
        ended.set()
        viewer.close()
        thread.join(60.0)
    assert not thread.is_alive()
    joints = bus.heard["/joint_states"][0].name
    objects = {link.child_frame_id for link in bus.heard["/tf"][0].transforms} - {"tcp"}
    task = values.get("task", "reach")
    assert (facts["arm"], facts["task"], facts["tags"]) == ("ros2", task, bool(values))
    assert objects == set(task_class(task).spec.objects)
    assert joints[0] == ("shoulder_pan_joint" if values else "fr3_joint1")
    if values:
        assert decode_image(came[0]).shape == (480, 640, 3)
    with socket.create_server((HOST, PORT)):
        pass  # the address is free again
