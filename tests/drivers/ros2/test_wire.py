"""What goes over the wire: bytes that rosbags' codec for Jazzy made (golden.json), both ways, in two codecs."""

import dataclasses
import json

import numpy as np
import pytest
from cyclonedds.idl import IdlStruct

from drivers.ros2 import messages as ros
from drivers.ros2.wire import dds_name, structure, wire_class
from robot_rl.errors import ConfigError, LinkError
from tests.drivers.ros2.samples import GOLDEN, KINDS, filled

BYTES = {kind: bytes.fromhex(text) for kind, text in json.loads(GOLDEN.read_text()).items()}


def same(a, b):
    if dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a) if not field.name.startswith("__")]
        return all(same(getattr(a, name), getattr(b, name)) for name in names)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)


def as_structure(kind, content):
    """The same content in cyclonedds's own classes."""
    made = structure(kind)
    return made(**{name: plain(made, name, getattr(content, name)) for name, _ in ros.fields_of(kind)})


def plain(made, name, value):
    if dataclasses.is_dataclass(value):
        return as_structure(value.__msgtype__, value)
    if isinstance(value, list):
        return [plain(made, name, each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_every_kind_that_is_used_has_golden_bytes():
    assert set(KINDS) == set(BYTES)


@pytest.mark.parametrize("kind", KINDS)
def test_our_bytes_are_the_golden_ones(kind):
    content = filled(ros._store(), kind)
    assert ros.encode(kind, content) == BYTES[kind]
    assert wire_class(kind)(content).serialize() == BYTES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_golden_bytes_are_read_as_what_they_were(kind):
    content = filled(ros._store(), kind)
    assert same(ros.decode(kind, BYTES[kind]), content)
    assert same(wire_class(kind).deserialize(BYTES[kind]).content, content)


@pytest.mark.parametrize("kind", KINDS)
def test_cyclonedds_own_codec_makes_and_reads_the_same_bytes(kind):
    """The structure that is announced to others has the fields that the bytes have."""
    content = as_structure(kind, filled(ros._store(), kind))
    made = content.serialize()
    assert made[: len(BYTES[kind])] == BYTES[kind]
    assert not any(made[len(BYTES[kind]) :])  # padding
    assert isinstance(structure(kind).deserialize(BYTES[kind]), IdlStruct)
    assert structure(kind).deserialize(BYTES[kind]).serialize() == made


def test_a_request_carries_who_asked_in_front():
    """rmw_cyclonedds's scheme: a client's id and a number, 8 bytes each, then the request."""
    kind, origin = "lifecycle_msgs/srv/ChangeState_Request", bytes(range(16))
    content = filled(ros._store(), kind)
    raw = wire_class(kind, service=True)(content, origin).serialize()
    assert raw == BYTES[kind][:4] + origin + BYTES[kind][4:]
    back = wire_class(kind, service=True).deserialize(raw)
    assert back.origin == origin
    assert same(back.content, content)


def test_names_on_dds_are_ros_names():
    assert dds_name("geometry_msgs/msg/PoseStamped") == "geometry_msgs::msg::dds_::PoseStamped_"
    assert dds_name("std_srvs/srv/Trigger_Request") == "std_srvs::srv::dds_::Trigger_Request_"


def test_a_pose_by_hand():
    """Header 00 01 00 00; stamp 1 s, 250,000,000 ns; frame of 5 bytes with its zero; 3 bytes of padding; 7 doubles."""
    content = ros.message(
        "geometry_msgs/msg/PoseStamped", header=ros.header(1.25, "base"), pose=ros.pose(np.arange(7.0))
    )
    raw = ros.encode("geometry_msgs/msg/PoseStamped", content)
    assert raw[:4] == b"\x00\x01\x00\x00"
    assert np.frombuffer(raw[4:16], "<u4").tolist() == [1, 250_000_000, 5]
    assert raw[16:21] == b"base\0"
    assert np.frombuffer(raw[-56:], "<f8").tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert len(raw) == 4 + 24 + 56


def test_type_hash_of_a_pose_is_the_published_one():
    """As `ros2 topic info --verbose` of Jazzy shows it."""
    assert ros.type_hash("geometry_msgs/msg/PoseStamped") == (
        "RIHS01_10f3786d7d40fd2b54367835614bff85d4ad3b5dab62bf8bca0cc232d73b4cd8"
    )


def test_an_empty_request_has_one_byte_as_in_ros():
    assert ros.encode("std_srvs/srv/Trigger_Request", ros.message("std_srvs/srv/Trigger_Request")) == b"\0\1\0\0\0"


def test_what_is_not_named_is_empty():
    image = ros.message("sensor_msgs/msg/Image")
    assert (image.height, image.encoding, len(image.data)) == (0, "", 0)
    assert ros.message("sensor_msgs/msg/CameraInfo").k.tolist() == [0.0] * 9


@pytest.mark.parametrize("stamp", [0.0, 0.999999999, 1795302226.662054400, -0.25])
def test_a_stamp_survives(stamp):
    back = ros.time(stamp)
    assert 0 <= back.nanosec < 1_000_000_000
    assert ros.seconds(back) == pytest.approx(stamp, abs=1e-6)


def test_errors_name_what_is_wrong():
    with pytest.raises(ConfigError, match="Unknown ROS 2 message 'geometry_msgs/Pose'"):
        ros.message("geometry_msgs/Pose")
    with pytest.raises(ConfigError, match="position, orientation; not place"):
        ros.message("geometry_msgs/msg/Pose", place=1)
    with pytest.raises(ConfigError, match="This is no std_msgs/msg/String"):
        ros.encode("std_msgs/msg/String", ros.message("std_msgs/msg/String", data=3))
    with pytest.raises(LinkError, match="another version"):
        ros.decode("geometry_msgs/msg/PoseStamped", b"\0\1\0\0abc")
    with pytest.raises(LinkError, match="another version"):
        ros.decode("std_msgs/msg/Bool", BYTES["sensor_msgs/msg/JointState"])
