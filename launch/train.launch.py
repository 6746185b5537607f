"""A training session: the arm and cameras of a cell as ROS 2 nodes, and training on them."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, NotEqualsSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    "task": ("reach", "what is to be learnt: robot-rl tasks lists them"),
    "cell": ("twin", "twin, or the cell file of your arm (robot-rl cells new)"),
    "run": ("", "run directory, gone on with where it is there (default: runs/TASK/ros)"),
    "demos": ("", "demonstrations: a number, the path of a store, or none"),
    "reward": ("", "a learned reward (robot-rl reward train), or human"),
    "preset": ("", "fast, pixels, scratch, serl or hil_serl"),
    "steps": ("0", "environment steps; 0 for the preset's"),
    "device": ("", "what you step in with: spacemouse, gamepad ...; empty where a teleop_node runs elsewhere, or none"),
    "rehearse": ("", "address of an emulator that stands in for the cell's devices"),
    "end_when_done": ("true", "end the session when training has come to its end"),
}
OWN = [name for name in ARGUMENTS if name != "device"]
TYPES = {"steps": int, "end_when_done": bool}


def generate_launch_description():
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    robot = IncludeLaunchDescription(
        str(Path(__file__).with_name("robot.launch.py")),
        launch_arguments={name: given[name] for name in ("task", "cell", "rehearse")}.items(),
    )
    training = Node(
        package="robot_rl", executable="training_node", name="training_node", output="screen", emulate_tty=True,
        parameters=[{name: ParameterValue(given[name], value_type=TYPES.get(name, str)) for name in OWN}],
        on_exit=Shutdown(reason="training_node ended"), sigterm_timeout="90",  # a run is saved meanwhile
    )  # fmt: skip
    teleop = Node(
        package="robot_rl", executable="teleop_node", name="teleop_node", output="screen", emulate_tty=True,
        parameters=[{"device": ParameterValue(given["device"], value_type=str)}],
        condition=IfCondition(NotEqualsSubstitution(given["device"], "")),
        on_exit=Shutdown(reason="teleop_node ended"),
    )  # fmt: skip
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, robot, training, teleop])
