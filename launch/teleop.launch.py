"""Drive an arm by hand: its nodes, and a device that sends its targets."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    "device": ("spacemouse", "spacemouse, gamepad, page (a browser), ros2 (joy and twist topics) or module:Class"),
    "cell": ("twin", "twin, or the cell file of your arm"),
    "task": ("reach", "whose scene stands around a twin"),
    "frame": ("base", "what deflections are relative to: base or tcp"),
    "rehearse": ("", "address of an emulator that stands in for the cell's devices"),
}


def generate_launch_description():
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    robot = IncludeLaunchDescription(
        str(Path(__file__).with_name("robot.launch.py")),
        launch_arguments={name: given[name] for name in ("task", "cell", "rehearse")}.items(),
    )
    hand = {name: ParameterValue(given[name], value_type=str) for name in ("device", "frame")}
    teleop = Node(
        package="robot_rl", executable="teleop_node", name="teleop_node", output="screen", emulate_tty=True,
        parameters=[{**hand, "drive": True}], on_exit=Shutdown(reason="teleop_node ended"),
    )  # fmt: skip
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, robot, teleop])
