"""An arm that runs in ROS 2, as one reads it: topics put together to a reading, and what can be wrong, in words."""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.interfaces import ArmState
from drivers.ros2.messages import Message, pose_of, seconds, twist_of, wrench_of
from drivers.ros2.node import NEWEST, SENSOR_DATA, Endpoint, Node, Qos, mismatch
from robot_rl.errors import DeviceConnectionError, DeviceFaultError, DeviceTimeoutError, StaleStateError
from robot_rl.geometry import matrix_from_quat, move_wrench

__all__ = ["ArmLink", "ArmTopics", "explain_silence"]

Array = NDArray[np.float64]

POSE, JOINTS = "geometry_msgs/msg/PoseStamped", "sensor_msgs/msg/JointState"
TWIST, WRENCH = "geometry_msgs/msg/TwistStamped", "geometry_msgs/msg/WrenchStamped"


@dataclass(frozen=True, kw_only=True)
class ArmTopics:
    """Where an arm is found in ROS 2. The defaults are those of CRISP's controllers, and of our own arm_node.

    Attributes:
        pose, joints, twist, wrench: Topics that are read; `twist` and `wrench` may be empty where there are none.
        target: Topic that is written.
        base_frame: Frame of poses and targets.
        tcp_frame: Frame of twist and wrench, where they are not in `base_frame`.
        joint_names: Joints of the arm, base first; by default all that are reported and are no finger's.
        wrench_sign: 1 where the wrench is what the robot exerts on the world, -1 where it is what the world exerts.
        wrench_pose_tcp: Where the frame of the wrench is in the tcp, shape (7,), if it is neither frame's.
        max_age_s: A topic silent for longer is stale.
        max_stamp_age_s: A stamp further from this machine's clock is refused; None where the arm keeps simulated time.
    """

    pose: str = "current_pose"
    joints: str = "joint_states"
    twist: str = "current_twist"
    wrench: str = "wrench"
    target: str = "target_pose"
    base_frame: str = "base"
    tcp_frame: str = "tcp"
    joint_names: tuple[str, ...] = ()
    wrench_sign: float = 1.0
    wrench_pose_tcp: tuple[float, ...] | None = None
    max_age_s: float = 0.25
    max_stamp_age_s: float | None = 0.5


class ArmLink:
    """Reads an arm's topics.

    Args:
        node: Over which.
        topics: Which.
    """

    def __init__(self, node: Node, topics: ArmTopics) -> None:
        self.node, self.topics = node, topics
        self._changed = threading.Condition()
        self._newest: dict[str, tuple[float, Message]] = {}
        self._poses = 0
        self._order: list[int] | None = None
        self.joint_names = list(topics.joint_names)
        parts = ((topics.pose, POSE), (topics.joints, JOINTS), (topics.twist, TWIST), (topics.wrench, WRENCH))
        self.kinds = {topic: kind for topic, kind in parts if topic}
        for topic, kind in self.kinds.items():
            node.subscribe(topic, kind, lambda content, t=topic: self._take(t, content), SENSOR_DATA)

    def _take(self, topic: str, content: Message) -> None:
        with self._changed:
            self._newest[topic] = (self.node.now(), content)
            if topic == self.topics.pose:
                self._poses += 1
                self._changed.notify_all()

    @property
    def poses(self) -> int:
        """How many poses have come."""
        return self._poses

    def await_pose(self, after: int, timeout_s: float) -> int:
        """Wait until more than `after` poses have come; how many have.

        Raises:
            DeviceTimeoutError: None comes.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._poses > after, timeout_s):
                raise DeviceTimeoutError(
                    f"No message on {self.node.resolve(self.topics.pose)} for {timeout_s:g} s (arm.options.timeout_s). "
                    + explain_silence(self.node, self.topics.pose, POSE, SENSOR_DATA),
                    timeout_s=timeout_s,
                )
            return self._poses

    def await_all(self, timeout_s: float) -> None:
        """Wait for a first message on every topic.

        Raises:
            DeviceConnectionError: One stays silent; why, as far as it can be seen.
        """
        end = self.node.now() + timeout_s
        while missing := [topic for topic in self.kinds if topic not in self._newest]:
            with self._changed:
                self._changed.wait(0.02)
            if self.node.now() > end:
                topic = missing[0]
                optional = {self.topics.wrench: "wrench", self.topics.twist: "twist"}.get(topic)
                advice = f" An arm without one: arm.options.{optional}: ''." if optional else ""
                raise DeviceConnectionError(
                    f"Nothing came on {self.node.resolve(topic)} within {timeout_s:g} s. "
                    + explain_silence(self.node, topic, self.kinds[topic], SENSOR_DATA) + advice,
                    topic=topic,
                )  # fmt: skip

    def state(self) -> ArmState:
        """The newest of every topic, put together; `time_s` is the pose's own stamp.

        Raises:
            StaleStateError: A topic is silent, or its stamps are not of this time.
            DeviceFaultError: A frame is not the one agreed upon, or a joint is missing.
        """
        with self._changed:
            newest = dict(self._newest)
        now = self.node.now()
        for topic in self.kinds:
            self._check_age(topic, *newest[topic], now)
        pose = newest[self.topics.pose][1]
        self._check_frame(self.topics.pose, pose.header.frame_id, self.topics.base_frame)
        tcp_pose = pose_of(pose.pose)
        q, qd, torque = self._joints(newest[self.topics.joints][1])
        to_tcp = matrix_from_quat(tcp_pose[3:]).T
        return ArmState(
            time_s=seconds(pose.header.stamp), q=q, qd=qd, torque=torque, tcp_pose=tcp_pose,
            twist_tcp=self._twist(newest, to_tcp), wrench_tcp=self._wrench(newest, to_tcp),
        )  # fmt: skip

    def _check_age(self, topic: str, came: float, content: Message, now: float) -> None:
        limit, stamped = self.topics.max_age_s, self.topics.max_stamp_age_s
        if now - came > limit:
            raise StaleStateError(
                f"{self.node.resolve(topic)} has been silent for {now - came:.2f} s, limit {limit:g} s "
                "(arm.options.max_age_s). The arm is told to hold. "
                + explain_silence(self.node, topic, self.kinds[topic], SENSOR_DATA),
                topic=topic,
            )
        off = came - seconds(content.header.stamp)
        if stamped is not None and abs(off) > stamped:
            raise StaleStateError(
                f"Messages on {self.node.resolve(topic)} bear stamps {abs(off):.2f} s "
                f"{'behind' if off > 0 else 'ahead'} of this machine's clock, limit {stamped:g} s "
                "(arm.options.max_stamp_age_s). Set both machines by one clock (chronyc tracking); for an arm in "
                "simulated time: max_stamp_age_s: null.",
                topic=topic,
            )

    def _check_frame(self, topic: str, frame: str, *expected: str) -> None:
        if frame.lstrip("/") not in expected:
            raise DeviceFaultError(
                f"{self.node.resolve(topic)} is in the frame {frame!r}, expected {' or '.join(map(repr, expected))} "
                "(arm.options.base_frame, tcp_frame). Nothing was moved. Look at: "
                f"ros2 topic echo --once --field header {self.node.resolve(topic)}",
                frame=frame,
            )

    def _joints(self, content: Message) -> tuple[Array, Array, Array]:
        if self._order is None or len(self._order) > len(content.name):
            wanted = self.topics.joint_names or [n for n in content.name if "finger" not in n and "gripper" not in n]
            if missing := [name for name in wanted if name not in content.name]:
                raise DeviceFaultError(
                    f"{self.node.resolve(self.topics.joints)} does not report {', '.join(missing)} "
                    f"(arm.options.joint_names); it reports {', '.join(content.name)}.",
                    missing=missing,
                )
            self._order, self.joint_names = [content.name.index(name) for name in wanted], list(wanted)
        known = (content.position, content.velocity, content.effort)
        q, qd, torque = (
            np.asarray(v, np.float64)[self._order] if len(v) else np.zeros(len(self._order)) for v in known
        )  # fmt: skip
        return q, qd, torque

    def _twist(self, newest: dict[str, Any], to_tcp: Array) -> Array:
        topics = self.topics
        if not topics.twist:
            return np.zeros(6)
        content = newest[topics.twist][1]
        self._check_frame(topics.twist, content.header.frame_id, topics.base_frame, topics.tcp_frame)
        return _turned(twist_of(content.twist), to_tcp, content.header.frame_id == topics.base_frame)

    def _wrench(self, newest: dict[str, Any], to_tcp: Array) -> Array:
        topics = self.topics
        if not topics.wrench:
            return np.zeros(6)
        content = newest[topics.wrench][1]
        wrench = topics.wrench_sign * wrench_of(content.wrench)
        if topics.wrench_pose_tcp is not None:
            return np.asarray(move_wrench(wrench, topics.wrench_pose_tcp[:3], topics.wrench_pose_tcp[3:]))
        self._check_frame(topics.wrench, content.header.frame_id, topics.base_frame, topics.tcp_frame)
        return _turned(wrench, to_tcp, content.header.frame_id == topics.base_frame)

    def check_target(self) -> None:
        """See that our targets are heard, and ours alone.

        Raises:
            DeviceConnectionError: Nobody listens, or asks for what we do not offer.
            DeviceFaultError: Somebody else sends targets, too.
        """
        target = self.topics.target
        whole = self.node.resolve(target)
        senders = self.node.publishers(target)
        if len(senders) > 1:
            who = ", ".join(sorted({sender.node for sender in senders}))
            raise DeviceFaultError(
                f"{len(senders)} publishers send on {whole}: {who}. An arm that hears two masters obeys neither; this "
                f"one is told to hold. End the other one. See: ros2 topic info --verbose {whole}",
                publishers=len(senders),
            )
        listeners = self.node.subscribers(target)
        problems = [_why_not(POSE, NEWEST, one, offering=True) for one in listeners]
        if not listeners or all(problems):
            raise DeviceConnectionError(
                f"Nobody listens on {whole}: {problems[0] if problems else 'there is no subscriber'}. Is the arm's "
                "controller loaded and active? See: ros2 control list_controllers",
                topic=whole,
            )


def explain_silence(node: Node, topic: str, kind: str, requested: Qos) -> str:
    """Why nothing comes on a topic, as far as the graph shows it, and what to run."""
    whole = node.resolve(topic)
    senders = node.publishers(topic)
    if not senders:
        seen = sorted(known for known in node.topics() if node.publishers(known))  # not what is only awaited
        name = whole.rsplit("/", 1)[-1]
        near = [t for t in seen if t.rsplit("/", 1)[-1] == name] or seen[:8]
        what = f"Seen: {', '.join(near)}" if near else "No topic at all is seen: compare ROS_DOMAIN_ID and the network"
        return (
            "Nobody publishes there. Is the node that should (arm_node, camera_node, sim_node, a controller) running? "
            f"{what}. Run: ros2 topic list"
        )
    problems = [_why_not(kind, requested, one, offering=False) for one in senders]
    if all(problems):
        return f"{senders[0].node} publishes there, but {problems[0]}. See: ros2 topic info --verbose {whole}"
    return f"{senders[0].node} is there and sends nothing. Run: ros2 topic hz {whole}"


def _why_not(kind: str, ours: Qos, other: Endpoint, *, offering: bool) -> str:
    if other.kind != kind:
        return f"it is of type {other.kind}, not {kind}"
    return mismatch(ours, other.qos) if offering else mismatch(other.qos, ours)


def _turned(values: Array, to_tcp: Array, in_base: bool) -> Array:
    return np.concatenate([to_tcp @ values[:3], to_tcp @ values[3:]]) if in_base else values
