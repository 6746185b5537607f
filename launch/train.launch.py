"""A training session: the arm and cameras of a cell as ROS 2 nodes, and training on them."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from drivers.ros2.session import NodePlan, launched, plan_robot

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


def nodes(context):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    training = {name: given[name] for name in ("task", "cell", "run", "demos", "reward", "preset", "rehearse")}
    training |= {"steps": int(given["steps"]), "end_when_done": given["end_when_done"].lower() == "true"}
    plans = [*plan_robot(given["task"], given["cell"], given["rehearse"]), NodePlan("training_node", training)]
    if given["device"]:
        plans.append(NodePlan("teleop_node", {"device": given["device"]}))
    return launched(plans)


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=nodes)])
