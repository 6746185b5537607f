"""Data out and in: LeRobot datasets both ways, rosbag2 out."""

from robot_rl.data.lerobot_export import export_lerobot
from robot_rl.data.lerobot_import import import_lerobot
from robot_rl.data.rosbag2_export import export_rosbag2

__all__ = ["export_lerobot", "export_rosbag2", "import_lerobot"]
