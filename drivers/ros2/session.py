"""Which nodes a session consists of, and how they live and end together: what the launch files have in common.

The plan is plain data; `launched` alone needs ROS 2's launch. When a node ends by itself the arm is told to hold first,
and then the session is taken down.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from drivers.cell_file import ArmFile, CameraFile, CellFile, GripperFile, TrackerFile, load_cell_file
from robot_rl.errors import ConfigError

__all__ = ["NodePlan", "launched", "over_ros", "plan_robot", "write_cell"]

PACKAGE = "robot_rl"
TWIN_CAMERAS = ("front", "wrist")
EMULATOR = "127.0.0.1"


@dataclass(frozen=True)
class NodePlan:
    """A node to start: its program, its parameters, and whether it holds the arm."""

    executable: str
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    is_arm: bool = False


def plan_robot(task: str, cell: str, rehearse: str = "", model: str = "fr3") -> list[NodePlan]:
    """The nodes that make a cell a ROS 2 robot: none where its arm runs in ROS 2 already.

    Args:
        task: Whose scene stands around a twin.
        cell: `twin`, or a cell file.
        rehearse: Address of an emulator that stands in for the devices of a cell file.
        model: Which arm the twin is.

    Raises:
        ConfigError: No such cell file, or a mistake in it.
    """
    if cell == "twin":
        return [NodePlan("sim_node", {"task": task, "model": model}, is_arm=True)]
    file = load_cell_file(cell)
    if file.arm.driver == "ros2":
        return []
    own = {"cell": str(Path(cell).resolve()), "rehearse": rehearse}
    plans = [NodePlan("arm_node", own, is_arm=True)]
    if any(camera.driver != "ros2" for camera in file.cameras.values()):
        plans.append(NodePlan("camera_node", own))
    return plans


def over_ros(cell: str) -> CellFile:
    """The same cell, its devices reached through the nodes of `plan_robot`.

    Raises:
        ConfigError: No such cell file, or a mistake in it.
    """
    if cell == "twin":
        return CellFile(
            arm=ArmFile(driver="ros2"), gripper=GripperFile(driver="ros2"), tracker=TrackerFile(driver="ros2"),
            cameras={name: CameraFile(driver="ros2", source=f"/{name}/image_raw") for name in TWIN_CAMERAS},
        )  # fmt: skip
    file = load_cell_file(cell)
    if file.arm.driver == "ros2":
        return file
    cameras = {
        name: camera if camera.driver == "ros2" else CameraFile(
            driver="ros2", source=f"/{name}/image_raw", crop=camera.crop, max_age_s=camera.max_age_s,
            width=camera.width, height=camera.height, intrinsics=camera.intrinsics, distortion=camera.distortion,
        )
        for name, camera in file.cameras.items()
    }  # fmt: skip
    arm = ArmFile(driver="ros2", home=file.arm.home, max_state_age_s=file.arm.max_state_age_s)
    gripper = GripperFile(driver="none" if file.gripper.driver == "none" else "ros2")
    return file.model_copy(update={"arm": arm, "gripper": gripper, "cameras": cameras})


def write_cell(cell: str, folder: Path) -> Path:
    """Write `over_ros(cell)` beside a run; where it lies. Raises ConfigError where it cannot be written."""
    path = folder / "ros_cell.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(over_ros(cell).model_dump(mode="json", exclude_defaults=True), sort_keys=False))
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}.") from error
    return path


def launched(plans: list[NodePlan]) -> list[Any]:
    """The plans as actions of ROS 2's launch, each of which ends the session when it ends, the arm holding first."""
    from launch.actions import EmitEvent, LogInfo, RegisterEventHandler  # pyright: ignore[reportMissingImports]
    from launch.event_handlers import OnProcessExit  # pyright: ignore[reportMissingImports]
    from launch.events import Shutdown  # pyright: ignore[reportMissingImports]
    from launch_ros.actions import Node  # pyright: ignore[reportMissingImports]

    arm = next((plan.executable for plan in plans if plan.is_arm), "")

    def ended(plan: NodePlan) -> Any:
        end = EmitEvent(event=Shutdown(reason=f"{plan.executable} ended"))

        def act(_: Any, context: Any) -> list[Any]:
            if context.is_shutdown:
                return []
            if not arm or plan.is_arm:
                return [end]
            hold = Node(package=PACKAGE, executable="hold", arguments=[arm], output="screen")
            after = RegisterEventHandler(OnProcessExit(target_action=hold, on_exit=[end]))
            return [LogInfo(msg=f"{plan.executable} ended: the arm is told to hold, then all is ended."), after, hold]

        return act

    actions: list[Any] = []
    for plan in plans:
        given = {name: value for name, value in plan.parameters.items() if value not in ("", [], None)}
        node = Node(
            package=PACKAGE, executable=plan.executable, name=plan.executable, parameters=[given], output="screen",
            emulate_tty=True, sigterm_timeout="60", sigkill_timeout="20",
        )  # fmt: skip
        actions += [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ended(plan))), node]
    return actions
