"""Data out and in: LeRobot datasets."""

from robot_rl.data.lerobot_export import export_lerobot
from robot_rl.data.lerobot_import import import_lerobot

__all__ = ["export_lerobot", "import_lerobot"]
