"""The twin of a task's cell as a ROS 2 robot: joint_states, current_pose, wrench, images, tf out; target_pose in."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.substitutions import LaunchConfiguration


def generate_launch_description():
    robot = IncludeLaunchDescription(
        str(Path(__file__).with_name("robot.launch.py")),
        launch_arguments={"cell": "twin", **{name: LaunchConfiguration(name) for name in ("task", "model")}}.items(),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("task", default_value="reach", description="whose scene: robot-rl tasks lists them"),
            DeclareLaunchArgument("model", default_value="fr3", choices=["fr3", "ur5e"], description="which arm it is"),
            robot,
        ]
    )
