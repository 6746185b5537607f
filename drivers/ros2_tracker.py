"""Where named objects are, from ROS 2's tree of transforms: frames that apriltag_ros, a mocap or our twin publish."""

import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.interfaces import TrackedPose
from drivers.ros2.messages import pose_of, seconds
from drivers.ros2.node import LATCHED, Qos
from drivers.ros2.opening import open_node
from robot_rl.errors import ConfigError
from robot_rl.geometry import IDENTITY_POSE, compose, invert

__all__ = ["Ros2Tracker", "TransformTree"]

Array = NDArray[np.float64]

TF = "tf2_msgs/msg/TFMessage"
DEEPEST = 64  # more links than that are a loop


class TransformTree:
    """The newest transform of every frame in its parent."""

    def __init__(self) -> None:
        self._parent: dict[str, tuple[str, Array, float, bool]] = {}
        self._lock = threading.Lock()

    def take(self, content: Any, *, static: bool = False) -> None:
        """A tf2_msgs/TFMessage, of /tf or /tf_static."""
        with self._lock:
            for one in content.transforms:
                child, parent = one.child_frame_id.lstrip("/"), one.header.frame_id.lstrip("/")
                pose = pose_of(one.transform)
                # What tf2 ignores, too: a frame in itself, numbers that are none, a rotation that is none.
                if child != parent and np.isfinite(pose).all() and abs(np.linalg.norm(pose[3:]) - 1.0) < 1e-3:
                    self._parent[child] = (parent, pose, seconds(one.header.stamp), static)

    def frames(self) -> list[str]:
        """Every frame that has a parent."""
        with self._lock:
            return list(self._parent)

    def pose(self, frame: str, base: str) -> tuple[Array, float | None] | None:
        """The pose of `frame` in `base`, shape (7,), and the oldest stamp on the way, None where all of it is static.

        None when the two are not connected.
        """
        with self._lock:
            up, down = self._to_root(frame), self._to_root(base)
        meeting = next((name for name in up if name in down), None)
        if meeting is None:
            return None
        stamps = [stamp for way in (up, down) for stamp in [way[meeting][1]] if stamp is not None]
        return compose(invert(down[meeting][0]), up[meeting][0]), min(stamps, default=None)

    def _to_root(self, frame: str) -> dict[str, tuple[Array, float | None]]:
        """By ancestor: the pose of `frame` in it, and the oldest stamp on the way."""
        at, pose, oldest = frame, IDENTITY_POSE, None
        found: dict[str, tuple[Array, float | None]] = {at: (pose, oldest)}
        for _ in range(DEEPEST):
            if at not in self._parent:
                return found
            at, link, stamp, static = self._parent[at]
            pose = compose(link, pose)
            if not static:
                oldest = stamp if oldest is None else min(oldest, stamp)
            found[at] = (pose, oldest)
        raise ConfigError(f"The transforms above the frame {frame!r} go round in a circle.")


class Ros2Tracker:
    """A `Tracker` over /tf and /tf_static.

    Args:
        objects: Frame by the name of the object a task asks for; of what is not named the frame is its name.
        base_frame: Frame of the arm's base.
        names: Objects to report; none means every frame there is.
        transport: `rclpy`, `dds`, or empty for the first that is there.
        now: The cell's clock [s].
    """

    def __init__(
        self, names: tuple[str, ...], *, objects: dict[str, str] | None = None, base_frame: str = "base",
        transport: str = "", now: Any = time.monotonic,
    ) -> None:  # fmt: skip
        self._named = {name: (objects or {}).get(name, name) for name in names}
        self._base, self._now = base_frame, now
        self._tree = TransformTree()
        self._node = open_node("robot_rl_tracker", transport=transport)
        self._node.subscribe("/tf", TF, self._tree.take, Qos(depth=100))
        latched = Qos(LATCHED.reliable, 100, transient_local=True)
        self._node.subscribe("/tf_static", TF, lambda content: self._tree.take(content, static=True), latched)

    def poses(self) -> dict[str, TrackedPose]:
        """The newest pose of every object that has been seen."""
        now, ros_now = self._now(), self._node.now()
        frames = self._named or {name: name for name in self._tree.frames() if name != self._base}
        found: dict[str, TrackedPose] = {}
        for name, frame in frames.items():
            seen = self._tree.pose(frame, self._base)
            if seen is not None:
                pose, stamp = seen
                found[name] = TrackedPose(now if stamp is None else now - max(0.0, ros_now - stamp), pose)
        return found

    def report(self) -> str:
        """What is missing, for a person."""
        missing = [frame for frame in self._named.values() if self._tree.pose(frame, self._base) is None]
        return f"no transform from {self._base!r} to {', '.join(missing) or 'anything'}; see: ros2 topic echo /tf"

    def close(self) -> None:
        """Stop listening."""
        self._node.close()
