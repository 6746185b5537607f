"""Drive an arm by hand: its nodes, and a device that sends its targets."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from drivers.ros2.session import NodePlan, launched, plan_robot

ARGUMENTS = {
    "device": ("spacemouse", "spacemouse, gamepad, page, ros2 (joy and twist topics) or module:Class"),
    "cell": ("twin", "twin, or the cell file of your arm"),
    "task": ("reach", "whose scene stands around a twin"),
    "frame": ("base", "what deflections are relative to: base or tcp"),
    "rehearse": ("", "address of an emulator that stands in for the cell's devices"),
}


def nodes(context):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    hand = NodePlan("teleop_node", {"device": given["device"], "frame": given["frame"], "drive": True})
    return launched([*plan_robot(given["task"], given["cell"], given["rehearse"]), hand])


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=nodes)])
