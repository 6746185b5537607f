"""A node over the transport that is there: rclpy, where a sourced ROS 2 offers it to this Python, or DDS."""

import os
import re

from drivers.ros2.arguments import Arguments
from drivers.ros2.node import Node
from robot_rl.errors import ConfigError

__all__ = ["open_node"]


def open_node(
    name: str, arguments: Arguments | None = None, *, transport: str = "", domain: int | None = None
) -> Node:  # fmt: skip
    """A node.

    Args:
        name: Of the node, where its arguments give none.
        arguments: What its program was started with, or `in_namespace(...)`.
        transport: `rclpy` or `dds`; empty takes rclpy where it can be imported. The environment variable
            ROBOT_RL_ROS_TRANSPORT says what empty means.
        domain: ROS_DOMAIN_ID in place of the environment's.

    Raises:
        ConfigError: Neither transport is there, or the name is none.
    """
    transport = transport or os.environ.get("ROBOT_RL_ROS_TRANSPORT", "")
    if transport not in ("", "rclpy", "dds"):
        raise ConfigError(f"ROS transport {transport!r}: rclpy or dds, or empty for the first that is there.")
    arguments = arguments or Arguments()
    name = arguments.name or name
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigError(f"A ROS node cannot be called {name!r}: letters, digits and _, no digit first.")
    if transport != "dds":
        try:
            from drivers.ros2.rclpy_node import RclpyNode

            return RclpyNode(name, arguments, domain)
        except ImportError as error:  # not there, or sourced for another Python
            if transport == "rclpy":
                raise ConfigError(
                    f"transport: rclpy, but this Python cannot import it ({error}). Source ROS 2 (. "
                    "/opt/ros/jazzy/setup.sh) and use the Python it was built for, or say transport: dds."
                ) from error
    try:
        from drivers.ros2.dds import DdsNode
    except ImportError as error:
        raise ConfigError(
            f"Nothing here speaks ROS 2: neither rclpy (source ROS 2's setup.sh) nor cyclonedds ({error}; "
            "pip install 'robot-rl[ros]')."
        ) from error
    return DdsNode(name, arguments, domain)
