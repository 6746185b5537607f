"""Classes for the PyPI package cyclonedds, made from the type store: what a DDS topic of ROS 2 carries.

Their structure is what cyclonedds announces to others; the bytes are rosbags' encoding, by which a picture is one copy.
(cyclonedds's own encoding of the same structures gives the same bytes, at 39 MB/s; a test holds them equal.)
"""

from functools import cache
from typing import Any

from cyclonedds.idl import IdlStruct, make_idl_struct, types
from rosbags.interfaces import Nodetype

from drivers.ros2.messages import decode, encode, fields_of
from robot_rl.errors import ConfigError

__all__ = ["ORIGIN_BYTES", "dds_name", "structure", "wire_class"]

ORIGIN_BYTES = 16  # of a request's or response's header: who asked, and the how manieth time

_NUMBERS = {
    "bool": bool, "byte": types.byte, "char": types.uint8, "int8": types.int8, "uint8": types.uint8,
    "int16": types.int16, "uint16": types.uint16, "int32": types.int32, "uint32": types.uint32,
    "int64": types.int64, "uint64": types.uint64, "float32": types.float32, "float64": types.float64, "string": str,
}  # fmt: skip


def dds_name(kind: str) -> str:
    """`geometry_msgs::msg::dds_::Pose_` of `geometry_msgs/msg/Pose`: ROS 2's names on DDS."""
    package, group, name = kind.split("/")
    return f"{package}::{group}::dds_::{name}_"


@cache
def structure(kind: str) -> type[IdlStruct]:
    """The plain structure of a kind, with cyclonedds's own encoding. Raises ConfigError when there is none."""
    fields = {name: _annotation(description) for name, description in fields_of(kind)}
    return make_idl_struct(kind.rsplit("/", maxsplit=1)[-1], dds_name(kind), fields)


def _annotation(description: Any) -> Any:
    node, detail = description
    if node == Nodetype.NAME:
        return structure(detail)
    if node == Nodetype.BASE:
        name, bound = detail
        if name not in _NUMBERS:
            raise ConfigError(f"A field of type {name} has no counterpart in cyclonedds.")
        return types.bounded_str[bound] if bound else _NUMBERS[name]
    inner, count = detail
    if node == Nodetype.ARRAY:
        return types.array[_annotation(inner), count]
    return types.sequence[(_annotation(inner), count) if count else _annotation(inner)]


@cache
def wire_class(kind: str, *, service: bool = False) -> Any:
    """What a topic of that kind is made with: an object that holds a message as `content`.

    Args:
        kind: Of the message.
        service: Whether it is a request or response: `origin` (the client's id, and a number) goes in front, as
            rmw_cyclonedds has it.
    """
    lead: dict[str, Any] = {"guid": types.uint64, "seq": types.int64} if service else {}
    fields = lead | {name: _annotation(description) for name, description in fields_of(kind)}
    made: Any = make_idl_struct(kind.rsplit("/", maxsplit=1)[-1], dds_name(kind), fields, dataclassify=False)
    start = ORIGIN_BYTES if service else 0

    def init(self: Any, content: Any, origin: bytes = b"") -> None:
        self.content, self.origin = content, origin

    def serialize(self: Any, **_: Any) -> bytes:
        raw = encode(kind, self.content)
        return raw[:4] + self.origin + raw[4:] if start else raw

    def deserialize(cls: Any, data: bytes, **_: Any) -> Any:
        raw = data[:4] + data[4 + start :] if start else data
        return cls(decode(kind, raw), data[4 : 4 + start])

    made.__init__, made.serialize, made.deserialize = init, serialize, classmethod(deserialize)
    made.deserialize_key = classmethod(lambda *_, **__: None)  # what is said of a publisher that left
    return made
