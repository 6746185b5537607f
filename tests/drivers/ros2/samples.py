"""A message of any kind with something in every field, the same on every machine and in every Python.

    python -m tests.drivers.ros2.samples

writes golden.json anew: the bytes that rosbags' own codec for Jazzy makes of them, from a type store of its own and
from the definitions as ROS writes them.
"""

import json
from itertools import count
from pathlib import Path
from textwrap import dedent

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from drivers.ros2.definitions import ACTIONS, MESSAGES, SERVICES

GOLDEN = Path(__file__).with_name("golden.json")

PLAIN = (
    "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped",
    "geometry_msgs/msg/WrenchStamped", "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/Joy", "tf2_msgs/msg/TFMessage",
    "diagnostic_msgs/msg/DiagnosticArray", "std_msgs/msg/String", "std_msgs/msg/Bool", "std_msgs/msg/Int64",
    "std_msgs/msg/Float64", "std_msgs/msg/Float64MultiArray", "lifecycle_msgs/msg/TransitionEvent",
    "action_msgs/msg/GoalStatusArray", "rmw_dds_common/msg/ParticipantEntitiesInfo",
)  # fmt: skip
KINDS = (
    *PLAIN, *MESSAGES, *(f"{name}_{part}" for name in SERVICES for part in ("Request", "Response")),
    *(f"{name}_{part}" for name in ACTIONS for part in ("Goal", "Result", "Feedback")),
)  # fmt: skip


def filled(store, kind):
    """A message of a type store's own class; lists have two elements, strings grow, numbers count up."""
    numbers = count(1)
    return _message(store, kind, numbers)


def _message(store, kind, numbers):
    return store.types[kind](*(_value(store, description, numbers) for _, description in store.fielddefs[kind][1]))


def _value(store, description, numbers):
    node, detail = description
    if node == Nodetype.NAME:
        return _message(store, detail, numbers)
    if node == Nodetype.BASE:
        n = next(numbers)
        if detail[0] == "string":
            return "äb" * (n % 4)
        return bool(n % 2) if detail[0] == "bool" else n + 0.5 if detail[0].startswith("float") else n % 100
    (inner, what), length = detail
    many = [_value(store, (inner, what), numbers) for _ in range(length if node == Nodetype.ARRAY else 2)]
    if inner == Nodetype.BASE and what[0] != "string":
        return np.array(many, np.uint8 if what[0] in ("byte", "char") else what[0])
    return many


def reference_store():
    """Rosbags' store with the further definitions; made without a line of ours but their text."""
    store = get_typestore(Stores.ROS2_JAZZY)
    parts = dict(MESSAGES)
    for name, text in {**SERVICES, **ACTIONS}.items():
        names = ("Request", "Response") if name in SERVICES else ("Goal", "Result", "Feedback")
        parts |= {f"{name}_{part}": each for part, each in zip(names, text.split("---"), strict=True)}
    for name, text in parts.items():
        definition = get_types_from_msg(dedent(text).strip() or "uint8 structure_needs_at_least_one_member", name)
        store.register({name: next(iter(definition.values()))})
    return store


def main():
    store = reference_store()
    golden = {kind: bytes(store.serialize_cdr(filled(store, kind), kind)).hex() for kind in KINDS}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
