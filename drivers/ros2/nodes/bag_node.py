"""Live topics into a rosbag2 bag: `ros2 run robot_rl bag_node --ros-args -p out:=bags/monday -p topics:=[/tf,/joy]`.

`drivers/ros2/bag.py` says how a bag is mended whose recorder was killed.
"""

import time
from pathlib import Path
from typing import Any

from drivers.ros2.arguments import Parameter
from drivers.ros2.bag import BagRecorder
from drivers.ros2.node import Node
from drivers.ros2.program import run_node

__all__ = ["PARAMETERS", "bag_node", "main"]

PARAMETERS = (
    Parameter("out", "", "directory to make (default: bags/TIMESTAMP)"),
    Parameter(
        "topics", [""], "what to record; by default all but logs, parameters and pictures that come compressed too"
    ),
    Parameter("max_gib", 100.0, "recording ends when the bag is so large", 0.001, 100_000.0),
)


def bag_node(node: Node, values: dict[str, Any]) -> BagRecorder:
    """A recorder.

    Args:
        node: Over which.
        values: Of `PARAMETERS`.

    Raises:
        ConfigError: `out` is there already.
    """
    out = values["out"] or f"bags/{time.strftime('%Y%m%d-%H%M%S')}"
    topics = [topic for topic in values["topics"] if topic]
    return BagRecorder(node, Path(out).expanduser(), topics=topics, max_gib=values["max_gib"])


def main() -> int:
    """Entry of the program."""
    return run_node("bag_node", "Live topics into a rosbag2 bag (MCAP, zstd).", PARAMETERS, bag_node)
