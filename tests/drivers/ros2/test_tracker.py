"""Where things are by tf: chains of transforms by hand, what is static, what is stale, what is nonsense."""

import numpy as np
import pytest

from drivers import ros2_tracker
from drivers.ros2.messages import message, transform
from drivers.ros2.node import LATCHED
from drivers.ros2_tracker import Ros2Tracker, TransformTree
from robot_rl.errors import ConfigError
from tests.drivers.ros2.inprocess import Bus

TF = "tf2_msgs/msg/TFMessage"
QUARTER_Z = (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))  # 90 degrees about z: x becomes y
NO_TURN = (0.0, 0.0, 0.0, 1.0)


def link(parent, child, position, turn=NO_TURN, stamp_s=0.0):
    return transform(stamp_s, parent, child, np.array([*position, *turn], np.float64))


def told(*links):
    return message(TF, transforms=list(links))


@pytest.fixture
def tree():
    return TransformTree()


def test_a_chain_by_hand(tree):
    """A camera at (1, 0, 0.5), turned by 90 degrees about z, sees a cube at (0.2, 0, 0): it is at (1, 0.2, 0.5)."""
    tree.take(
        told(link("base", "camera", (1, 0, 0.5), QUARTER_Z, 10.0), link("camera", "cube", (0.2, 0, 0), NO_TURN, 8))
    )
    pose, stamp = tree.pose("cube", "base")
    np.testing.assert_allclose(pose, [1.0, 0.2, 0.5, *QUARTER_Z], atol=1e-12)
    assert stamp == 8.0
    assert tree.frames() == ["camera", "cube"]


def test_against_the_arrows(tree):
    """The base as the camera above sees it, by hand: R' = -90 degrees, at -R' (1, 0, 0.5) = (0, 1, -0.5)."""
    tree.take(told(link("base", "camera", (1, 0, 0.5), QUARTER_Z)))
    pose, _ = tree.pose("base", "camera")
    np.testing.assert_allclose(pose[:3], [0.0, 1.0, -0.5], atol=1e-12)
    np.testing.assert_allclose(pose[3:] * np.sign(pose[6]), [0, 0, -np.sqrt(0.5), np.sqrt(0.5)], atol=1e-12)


def test_by_way_of_a_common_frame(tree):
    """The base at (1, 0, 0) of the room looks along the room's y axis: a cube at (1, 2, 0) is 2 m in front of it."""
    base, cube = link("room", "base", (1, 0, 0), QUARTER_Z, 5.0), link("room", "cube", (1, 2, 0), NO_TURN, 7.0)
    tree.take(told(base, cube))
    pose, stamp = tree.pose("cube", "base")
    np.testing.assert_allclose(pose[:3], [2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(pose[3:] * np.sign(pose[6]), [0, 0, -np.sqrt(0.5), np.sqrt(0.5)], atol=1e-12)
    assert stamp == 5.0


def test_a_frame_in_itself_is_where_it_is(tree):
    pose, stamp = tree.pose("base", "base")
    np.testing.assert_array_equal(pose, [0, 0, 0, *NO_TURN])
    assert stamp is None


def test_what_is_static_has_no_age(tree):
    tree.take(told(link("base", "table", (1, 0, 0), stamp_s=3.0)), static=True)
    assert tree.pose("table", "base")[1] is None
    tree.take(told(link("table", "cube", (0, 1, 0), stamp_s=9.0)))
    pose, stamp = tree.pose("cube", "base")
    np.testing.assert_allclose(pose[:3], [1, 1, 0])
    assert stamp == 9.0


def test_what_is_newer_holds_and_slashes_do_not_matter(tree):
    """tf's first version wrote /base."""
    tree.take(told(link("/base", "/cube", (1, 0, 0), stamp_s=1.0)))
    tree.take(told(link("base", "cube", (2, 0, 0), stamp_s=2.0)))
    pose, stamp = tree.pose("cube", "base")
    assert (pose[0], stamp) == (2.0, 2.0)


def test_what_is_not_connected_is_nowhere(tree):
    tree.take(told(link("base", "camera", (1, 0, 0)), link("elsewhere", "cube", (1, 0, 0))))
    assert tree.pose("cube", "base") is None
    assert tree.pose("unheard", "base") is None


def test_a_circle_is_said(tree):
    tree.take(told(link("a", "b", (1, 0, 0)), link("b", "a", (1, 0, 0))))
    with pytest.raises(ConfigError, match="'b' go round in a circle"):
        tree.pose("b", "base")


@pytest.mark.parametrize(
    "bad",
    [
        link("base", "cube", (np.nan, 0, 0)),
        link("base", "cube", (9, 0, 0), (0.0, 0.0, 0.0, 0.0)),
        link("base", "cube", (9, 0, 0), (0.0, 0.0, 1.0, 1.0)),
        link("cube", "cube", (9, 0, 0)),
    ],
    ids=["nan", "no rotation", "too long", "in itself"],
)
def test_what_tf2_ignores_is_ignored(tree, bad):
    """TF_NAN_INPUT, TF_DENORMALIZED_QUATERNION and TF_SELF_TRANSFORM of tf2's BufferCore::setTransform."""
    tree.take(told(link("base", "cube", (1, 0, 0))))
    tree.take(told(bad))
    assert tree.pose("cube", "base")[0][0] == 1.0


class Room:
    """A tracker on a bus, whose clock reads 50 s where ROS's reads 1000 s."""

    def __init__(self, monkeypatch, names=(), **options):
        self.bus = Bus()
        monkeypatch.setattr(ros2_tracker, "open_node", lambda name, transport: self.bus.node(name))
        self.other = self.bus.node("apriltag")
        self.static = self.other.publisher("/tf_static", TF, LATCHED)
        self.static.publish(told(link("base", "camera", (1, 0, 0))))
        self.tracker = Ros2Tracker(names, now=lambda: 50.0, **options)
        self.moving = self.other.publisher("/tf", TF)


def test_poses_on_the_cells_clock(monkeypatch):
    """Seen 0.25 s ago on ROS's clock is seen 0.25 s ago on the cell's: at 49.75 s."""
    room = Room(monkeypatch, ("cube", "bin"), objects={"cube": "tag36h11:4"})
    assert room.tracker.poses() == {}
    room.moving.publish(told(link("camera", "tag36h11:4", (0, 0.5, 0), stamp_s=999.75)))
    poses = room.tracker.poses()
    assert set(poses) == {"cube"}
    assert poses["cube"].time_s == pytest.approx(49.75)
    np.testing.assert_allclose(poses["cube"].pose[:3], [1, 0.5, 0])
    assert room.tracker.report() == "no transform from 'base' to bin; see: ros2 topic echo /tf"


def test_a_stamp_ahead_of_our_clock_is_now(monkeypatch):
    room = Room(monkeypatch, ("cube",))
    room.moving.publish(told(link("camera", "cube", (0, 0.5, 0), stamp_s=1000.5)))
    assert room.tracker.poses()["cube"].time_s == 50.0


def test_a_thing_that_never_moves_is_seen_now(monkeypatch):
    room = Room(monkeypatch, ("camera",))
    assert room.tracker.poses()["camera"].time_s == 50.0


def test_without_names_everything_is_told(monkeypatch):
    room = Room(monkeypatch, base_frame="arm_base")
    assert room.tracker.poses() == {}
    assert "'arm_base' to anything" in room.tracker.report()
    room.moving.publish(told(link("base", "arm_base", (0, 0, 1), stamp_s=1000), link("base", "cube", (0, 0, 3))))
    assert set(room.tracker.poses()) == {"camera", "cube"}
    np.testing.assert_allclose(room.tracker.poses()["cube"].pose[:3], [0, 0, 2])


def test_it_stops_listening(monkeypatch):
    room = Room(monkeypatch)
    room.tracker.close()
    assert room.other.subscribers("/tf") == []
