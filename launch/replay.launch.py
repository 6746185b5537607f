"""Execute the actions of a stored episode again, on a cell whose devices are ROS 2 nodes."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "store": (None, "an episode store, or a run directory"),
    "episode": ("0", "which of its episodes"),
    "task": ("reach", "whose scene stands around a twin; the store's own task"),
    "cell": ("twin", "twin, or the cell file of your arm"),
    "rehearse": ("", "address of an emulator that stands in for the cell's devices"),
}


def replaying(context):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    command = ["robot-rl", "replay", given["store"], "--episode", given["episode"], "--cell", f"ros:{given['cell']}"]
    command += ["--rehearse"] if given["cell"] == "twin" or given["rehearse"] else []
    return [
        ExecuteProcess(
            cmd=command, output="screen", emulate_tty=True, on_exit=Shutdown(reason="replay ended"),
            sigterm_timeout="30",
        )
    ]  # fmt: skip


def generate_launch_description():
    robot = IncludeLaunchDescription(
        str(Path(__file__).with_name("robot.launch.py")),
        launch_arguments={name: LaunchConfiguration(name) for name in ("task", "cell", "rehearse")}.items(),
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)  # None: it has to be given
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, robot, OpaqueFunction(function=replaying)])
