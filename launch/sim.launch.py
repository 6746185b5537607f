"""The twin of a task's cell as a ROS 2 robot: joint_states, current_pose, wrench, images, tf out; target_pose in."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from drivers.ros2.session import launched, plan_robot


def nodes(context):
    task, model = (LaunchConfiguration(name).perform(context) for name in ("task", "model"))
    return launched(plan_robot(task, "twin", model=model))


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument("task", default_value="reach", description="whose scene: robot-rl tasks lists them"),
            DeclareLaunchArgument("model", default_value="fr3", choices=["fr3", "ur5e"], description="which arm it is"),
            OpaqueFunction(function=nodes),
        ]
    )
