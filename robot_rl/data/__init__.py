"""Data out and in: LeRobot datasets and rosbag2 bags, both ways."""

from robot_rl.data.lerobot_export import export_lerobot
from robot_rl.data.lerobot_import import import_lerobot
from robot_rl.data.rosbag2_export import export_rosbag2
from robot_rl.data.rosbag2_import import import_rosbag2

__all__ = ["export_lerobot", "export_rosbag2", "import_lerobot", "import_rosbag2"]
