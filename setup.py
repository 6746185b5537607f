"""For `colcon build`, which installs a Python package by setuptools; everything else goes by pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOMS = ("robot_rl", "drivers", "tasks", "calibration")
SHARE = "share/robot_rl"


def files(folder, pattern):
    return sorted(str(path) for path in Path(folder).glob(pattern) if path.is_file())


setup(
    packages=find_packages(
        include=[f"{room}{rest}" for room in ("robot_rl", "drivers", "tasks", "calibration") for rest in ("", ".*")]
    ),
    include_package_data=True,
    data_files=[
        ("share/ament_index/resource_index/packages", ["scripts/robot_rl"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", files("launch", "*.launch.py")),
        ("lib/robot_rl", files("scripts/ros2", "*_node")),
    ],
)
