"""A cell as a ROS 2 robot: sim_node for the twin, arm_node and camera_node for a cell file, nothing where the arm runs
in ROS 2 already. The other launch files include this one.

Launch files run in ROS's own Python, which need not have robot_rl: they import nothing of it.
"""

from pathlib import Path

import yaml
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetLaunchConfiguration, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def nodes(context):
    task, cell, model, rehearse = (
        LaunchConfiguration(name).perform(context) for name in ("task", "cell", "model", "rehearse")
    )
    if cell == "twin":
        return [robot_node("sim_node", {"task": task, "model": model})]
    path = Path(cell).expanduser().resolve()
    if not path.is_file():
        raise RuntimeError(
            f"There is no cell file {path}. Write one: robot-rl cells new lab --arm franka; or cell:=twin"
        )
    content = yaml.safe_load(path.read_text()) or {}
    own = {"cell": str(path), "rehearse": rehearse}
    drivers = [camera.get("driver") for camera in (content.get("cameras") or {}).values()]
    cameras = [robot_node("camera_node", own)] if any(driver != "ros2" for driver in drivers) else []
    arms = [robot_node("arm_node", own)] if (content.get("arm") or {}).get("driver") != "ros2" else []
    return [SetLaunchConfiguration("cell", str(path)), *arms, *cameras]  # what is started after it, means the same


def robot_node(name, parameters):
    """When it ends, so does the session; asked to end, an arm's node holds and stays until nobody commands it."""
    return Node(
        package="robot_rl", executable=name, name=name, parameters=[parameters], output="screen", emulate_tty=True,
        on_exit=Shutdown(reason=f"{name} ended"), sigterm_timeout="20",
    )  # fmt: skip


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument("task", default_value="reach", description="whose scene stands around a twin"),
            DeclareLaunchArgument("cell", default_value="twin", description="twin, or the cell file of your arm"),
            DeclareLaunchArgument("model", default_value="fr3", choices=["fr3", "ur5e"], description="arm of the twin"),
            DeclareLaunchArgument("rehearse", default_value="", description="address of an emulator for the cell file"),
            OpaqueFunction(function=nodes),
        ]
    )
