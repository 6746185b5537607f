"""ROS 2's messages without ROS: classes and encoding from rosbags' type store of Jazzy, and arrays in and out of them.

A kind is a message's full name, `geometry_msgs/msg/PoseStamped`; that of a service or an action is
`std_srvs/srv/Trigger`, of which the store knows the parts: `std_srvs/srv/Trigger_Request` and so on.
"""

from functools import cache
from textwrap import dedent
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from drivers.ros2.definitions import ACTIONS, MESSAGES, SERVICES
from robot_rl.errors import ConfigError, LinkError

__all__ = [
    "Message",
    "decode",
    "definition",
    "duration",
    "encode",
    "fields_of",
    "header",
    "message",
    "pose",
    "pose_of",
    "seconds",
    "time",
    "transform",
    "twist",
    "twist_of",
    "type_hash",
    "vector",
    "vector_of",
    "wrench",
    "wrench_of",
]

Array = NDArray[np.float64]
Message = Any  # rosbags makes the classes at run time

_NO_FIELDS = "uint8 structure_needs_at_least_one_member"  # as ROS has it: IDL knows no empty structures


@cache
def _store() -> Any:
    store = get_typestore(Stores.ROS2_JAZZY)
    parts = dict(MESSAGES)
    for name, text in SERVICES.items():
        parts |= {f"{name}_{part}": each for part, each in zip(("Request", "Response"), text.split("---"), strict=True)}
    for name, text in ACTIONS.items():
        parts |= {
            f"{name}_{part}": each for part, each in zip(("Goal", "Result", "Feedback"), text.split("---"), strict=True)
        }
    for name, text in parts.items():
        (definition,) = get_types_from_msg(dedent(text).strip() or _NO_FIELDS, name).values()
        store.register({name: definition})
    for name in ACTIONS:
        uuid = ("goal_id", (Nodetype.NAME, "unique_identifier_msgs/msg/UUID"))
        stamp = ("stamp", (Nodetype.NAME, "builtin_interfaces/msg/Time"))
        accepted, status = ("accepted", (Nodetype.BASE, ("bool", 0))), ("status", (Nodetype.BASE, ("int8", 0)))
        part = {w: (w.lower(), (Nodetype.NAME, f"{name}_{w}")) for w in ("Goal", "Result", "Feedback")}
        fields: dict[str, list[Any]] = {
            "SendGoal_Request": [uuid, part["Goal"]], "SendGoal_Response": [accepted, stamp],
            "GetResult_Request": [uuid], "GetResult_Response": [status, part["Result"]],
            "FeedbackMessage": [uuid, part["Feedback"]],
        }  # fmt: skip
        store.register({f"{name}_{suffix}": ([], each) for suffix, each in fields.items()})
    return store


def fields_of(kind: str) -> list[tuple[str, Any]]:
    """Names and rosbags descriptions of a kind's fields.

    Raises:
        ConfigError: There is no such kind.
    """
    definitions = _store().fielddefs
    if kind not in definitions:
        raise ConfigError(f"Unknown ROS 2 message {kind!r}; full names look like geometry_msgs/msg/PoseStamped.")
    return definitions[kind][1]


def definition(kind: str) -> str:
    """A kind as text, with the kinds within, as bags have it. Raises ConfigError when there is none."""
    fields_of(kind)
    return str(_store().generate_msgdef(kind, ros_version=2)[0])


def type_hash(kind: str) -> str:
    """What ROS 2 tells versions of a message apart by: RIHS01_ and 64 hexadecimal digits (REP 2016)."""
    return str(_store().hash_rihs01(kind))


def encode(kind: str, content: Message) -> bytes:
    """As on the wire: CDR, little endian, with its 4 bytes of header. Raises ConfigError where a field does not fit."""
    try:
        return bytes(_store().serialize_cdr(content, kind, little_endian=True))
    except (SerdeError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"This is no {kind}: {error}.") from error


def decode(kind: str, raw: bytes) -> Message:
    """From the wire. Raises LinkError when the bytes are not of that kind."""
    try:
        return _store().deserialize_cdr(raw, kind)
    except (SerdeError, AssertionError, IndexError) as error:
        raise LinkError(
            f"What came as {kind} is not one ({error}). Its sender has another version of it; ours is Jazzy's."
        ) from error


def message(kind: str, **values: Any) -> Message:
    """A message; what is not named is zero or empty.

    Raises:
        ConfigError: No such kind, or it has no such field.
    """
    known = fields_of(kind)
    if not values.keys() <= {name for name, _ in known}:
        raise ConfigError(f"{kind} has {', '.join(n for n, _ in known)}; not {', '.join(sorted(values))}.")
    return _store().types[kind](*(values[name] if name in values else _nothing(d) for name, d in known))


def _nothing(description: Any) -> Any:
    """The value of a field nobody filled in."""
    node, detail = description
    if node == Nodetype.NAME:
        return message(detail)
    if node == Nodetype.BASE:
        return {"string": "", "bool": False}.get(detail[0], 0)
    (inner, what), count = detail
    of_numbers = inner == Nodetype.BASE and what[0] not in ("string", "wstring")
    size = count if node == Nodetype.ARRAY else 0
    return np.zeros(size, np.bool_ if what[0] == "bool" else what[0]) if of_numbers else [
        _nothing((inner, what)) for _ in range(size)
    ]  # fmt: skip


# Ours in and out


def time(seconds_: float) -> Message:
    """A moment, in seconds since 1970."""
    return _sec_nanosec("Time", seconds_)


def duration(seconds_: float) -> Message:
    """A span."""
    return _sec_nanosec("Duration", seconds_)


def _sec_nanosec(kind: str, value: float) -> Message:
    whole, rest = divmod(round(value * 1e9), 1_000_000_000)
    return _store().types[f"builtin_interfaces/msg/{kind}"](whole, rest)


def seconds(stamp: Message) -> float:
    """Of a time or duration."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def header(stamp_s: float, frame: str) -> Message:
    """A stamp [s since 1970] and the frame of what follows."""
    return _store().types["std_msgs/msg/Header"](time(stamp_s), frame)


def vector(values: Array) -> Message:
    """geometry_msgs/Vector3 of shape (3,)."""
    return _store().types["geometry_msgs/msg/Vector3"](*map(float, values))


def vector_of(content: Message) -> Array:
    """Shape (3,) of a Vector3 or Point."""
    return np.array([content.x, content.y, content.z], np.float64)


def pose(pose_: Array) -> Message:
    """geometry_msgs/Pose of position and quat_xyzw, shape (7,)."""
    types = _store().types
    x, y, z, *quat = map(float, pose_)
    return types["geometry_msgs/msg/Pose"](
        types["geometry_msgs/msg/Point"](x, y, z), types["geometry_msgs/msg/Quaternion"](*quat)
    )


def pose_of(content: Message) -> Array:
    """Position and quat_xyzw, shape (7,), of a Pose, or of a Transform."""
    at = content.position if hasattr(content, "position") else content.translation
    turn = content.orientation if hasattr(content, "orientation") else content.rotation
    return np.array([at.x, at.y, at.z, turn.x, turn.y, turn.z, turn.w], np.float64)


def transform(stamp_s: float, parent: str, child: str, pose_: Array) -> Message:
    """geometry_msgs/TransformStamped: the pose of `child` in `parent`, shape (7,)."""
    types = _store().types
    turn = types["geometry_msgs/msg/Quaternion"](*map(float, pose_[3:]))
    moved = types["geometry_msgs/msg/Transform"](vector(pose_[:3]), turn)
    return types["geometry_msgs/msg/TransformStamped"](header(stamp_s, parent), child, moved)


def twist(values: Array) -> Message:
    """geometry_msgs/Twist of linear and angular, shape (6,)."""
    return _store().types["geometry_msgs/msg/Twist"](vector(values[:3]), vector(values[3:]))


def wrench(values: Array) -> Message:
    """geometry_msgs/Wrench of force and torque, shape (6,)."""
    return _store().types["geometry_msgs/msg/Wrench"](vector(values[:3]), vector(values[3:]))


def _parts(first: Message, second: Message) -> Array:
    return np.concatenate([vector_of(first), vector_of(second)])


def twist_of(content: Message) -> Array:
    """Linear and angular, shape (6,)."""
    return _parts(content.linear, content.angular)


def wrench_of(content: Message) -> Array:
    """Force and torque, shape (6,)."""
    return _parts(content.force, content.torque)
