"""Record demonstrations by hand on a cell whose devices are ROS 2 nodes; the same session again goes on."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

ARGUMENTS = {
    "task": ("reach", "what is demonstrated: robot-rl tasks lists them"),
    "cell": ("twin", "twin, or the cell file of your arm"),
    "episodes": ("20", "how many there are in the end"),
    "device": ("page", "spacemouse, gamepad, page (a browser), ros2 (a teleop_node, joy and twist topics)"),
    "out": ("", "episode store (default: demos/TASK)"),
    "bag": ("", "also record every topic to this rosbag2 directory"),
    "rehearse": ("", "address of an emulator that stands in for the cell's devices"),
}


def recording(context):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    command = ["robot-rl", "record", given["task"], "--cell", f"ros:{given['cell']}"]
    command += ["--episodes", given["episodes"], "--device", given["device"]]
    command += ["--out", given["out"]] if given["out"] else []
    command += ["--rehearse"] if given["cell"] == "twin" or given["rehearse"] else []
    bag = Node(
        package="robot_rl", executable="bag_node", name="bag_node", parameters=[{"out": given["bag"]}], output="screen",
    )  # fmt: skip
    return [
        *([bag] if given["bag"] else []),
        ExecuteProcess(
            cmd=command, output="screen", emulate_tty=True, on_exit=Shutdown(reason="recording ended"),
            sigterm_timeout="30",
        ),
    ]  # fmt: skip


def generate_launch_description():
    robot = IncludeLaunchDescription(
        str(Path(__file__).with_name("robot.launch.py")),
        launch_arguments={name: LaunchConfiguration(name) for name in ("task", "cell", "rehearse")}.items(),
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, robot, OpaqueFunction(function=recording)])
