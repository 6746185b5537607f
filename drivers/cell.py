"""A cell: one arm, its gripper, cameras, tracker and clock, opened from `twin` or from a cell file."""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from drivers.cell_cameras import RENDERING_S, Eyes, StageView, TwinView
from drivers.cell_file import ARM_DRIVERS, CameraFile, CellFile, LimitsFile, load_cell_file
from drivers.emulators.stage import Stage as EmulatorStage
from drivers.emulators.stage import StageTracker
from drivers.interfaces import Arm, Camera, Clock, Gripper, Stage, Tracker
from drivers.loading import load
from drivers.realtime import ArmClock, ArmProcess, WallClock
from drivers.tag_layout import Tag, TagLayout
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinArm, TwinCamera, TwinClock, TwinGripper, TwinTracker
from drivers.twin.scene import Scene
from drivers.twin.tags import with_tags
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError

__all__ = ["Cell", "NoGripper", "NoTracker", "SceneRequest", "cell_file", "open_cell"]


TOGETHER_S = 30.0  # the nodes of a ROS 2 session start together, and a twin takes a while
_TWIN_CAMERA = CameraFile(driver="twin")


@dataclass(frozen=True)
class Cell:
    """The devices of one cell.

    Attributes:
        twin: The simulation behind the devices; None on metal.
        stage: What a task arranges its props with; None on metal, where a person does.
        eyes: Owner of the cameras of a cell file.
        address: Of the arm; see `CellFile.address`.
        home: Joint posture to begin the first episode from [rad].
        limits: Tightens the tasks' own.
        faults_in_a_row: Episodes that may end in a fault, one after another, before the environment gives up.
        max_object_age_s: Poses of tracked objects older than this are not acted upon.
    """

    clock: Clock
    arm: Arm
    gripper: Gripper
    tracker: Tracker
    cameras: dict[str, Camera] = field(default_factory=dict[str, Camera])
    twin: Twin | None = None
    stage: Stage | None = None
    eyes: Eyes | None = None
    address: str = ""
    home: tuple[float, ...] | None = None
    limits: LimitsFile = field(default_factory=LimitsFile)
    faults_in_a_row: int = 3
    max_object_age_s: float = 0.5

    def close(self) -> None:
        """Let go of every device."""
        self.arm.close()
        for device in (self.gripper, self.tracker, *self.cameras.values(), self.eyes, self.stage):
            close: Callable[[], None] | None = getattr(device, "close", None)
            if close is not None:
                close()


@dataclass(frozen=True, kw_only=True)
class SceneRequest:
    """What a task needs of a cell.

    Attributes:
        arm: Which arm the twin has: a name or the path of an MJCF file (see `drivers.twin.arms.load_arm`).
        build: Adds the task's props to the twin.
        objects: Bodies the tracker reports.
        tags: What the objects wear where a simulated scene is looked at by a tag tracker.
        held: Opening of a gripper that holds the task's tool, and that a fixed tool reports [m].
        cameras: Cameras to open; on metal, those of the cell file.
        image_size: Height and width of their pictures [pixels].
        real_time: Pace the twin to the wall clock.
    """

    arm: str = "fr3"
    build: Callable[[Scene], None] | None = None
    objects: tuple[str, ...] = ()
    tags: TagLayout = field(default_factory=dict[str, Sequence[Tag]])
    held: float = 0.0
    cameras: tuple[str, ...] = ()
    image_size: int = 128
    real_time: bool = False


class NoGripper:
    """A tool that does not open: screwed on, or a gripper that a person has closed.

    Args:
        fixed_opening: What it reports [m].
    """

    max_opening = 0.08

    def __init__(self, fixed_opening: float = 0.0) -> None:
        self._opening = fixed_opening

    def opening(self) -> float:
        """The fixed opening [m]."""
        return self._opening

    def command(self, opening: float) -> None:
        """Nothing moves."""


class NoTracker:
    """A cell in which nothing says where objects are; tasks that need it learn from cameras."""

    def poses(self) -> dict[str, Any]:
        """None."""
        return {}


def open_cell(cell: str | CellFile, request: SceneRequest | None = None, *, rehearse: str = "") -> Cell:
    """Open a cell.

    Args:
        cell: `twin`, the path of a cell file, `ros:` in front of either, or a cell file that was read.
        request: What the task needs.
        rehearse: Address of an emulator that stands in for every device of the cell file; empty on metal.

    Raises:
        ConfigError: No such cell, arm or camera, or a mistake in the file.
        DeviceConnectionError: A device does not answer.
    """
    request = request or SceneRequest()
    if cell == "twin":
        return _open_twin(CellFile(), request)
    file = cell_file(cell) if isinstance(cell, str) else cell
    if file.arm.driver == "twin":
        return _open_twin(file, request)
    return _open_metal(file, request, rehearse)


def cell_file(cell: str) -> CellFile:
    """What a cell's name means: the path of a cell file, or `ros:` and a cell that ROS 2 nodes present.

    Raises:
        ConfigError: Neither, no such file, or a mistake in it.
    """
    from drivers.ros2.cells import PREFIX, over_ros

    if cell.startswith(PREFIX):
        return over_ros(cell.removeprefix(PREFIX))
    if not re.search(r"\.ya?ml$", cell):
        raise ConfigError(
            f"Unknown cell {cell!r}: twin, the path of a cell file (.yaml), or ros:twin and ros:PATH for a cell whose "
            "nodes run in ROS 2. See: robot-rl cells new --help"
        )
    return load_cell_file(cell)


def _open_twin(file: CellFile, request: SceneRequest) -> Cell:
    tags = file.tracker.driver == "tags"
    build = with_tags(request.build, request.tags) if tags and request.build else request.build
    twin = Twin(load_arm(file.arm.model or request.arm), build)
    clock, arm = TwinClock(twin, real_time=request.real_time), TwinArm(twin)
    eyes = Eyes(file, clock, TwinView(twin), paced=False)
    cameras: dict[str, Camera] = {}
    for name in request.cameras:
        if file.cameras.get(name, _TWIN_CAMERA).driver == "twin":
            cameras[name] = TwinCamera(twin, name, request.image_size, request.image_size)
        else:
            cameras[name] = eyes.camera(name, request.image_size)
    return Cell(
        clock=clock,
        arm=arm,
        gripper=TwinGripper(twin),
        tracker=eyes.tracker(arm, request.tags) if tags else TwinTracker(twin, request.objects),
        cameras=cameras,
        twin=twin,
        stage=twin,
        eyes=eyes,
        limits=file.limits,
        faults_in_a_row=file.faults_in_a_row,
    )


def _open_metal(file: CellFile, request: SceneRequest, rehearse: str) -> Cell:
    with contextlib.ExitStack() as opened:
        cell = _connect(file, request, rehearse, opened)
        opened.pop_all()
    return cell


def _connect(file: CellFile, request: SceneRequest, rehearse: str, opened: contextlib.ExitStack) -> Cell:
    patience_s = TOGETHER_S if file.arm.driver == "ros2" else 0.0
    stage = opened.enter_context(EmulatorStage(rehearse, patience_s)) if rehearse else None
    facts: dict[str, Any] = stage.facts() if stage else {}
    pace = "lockstep" if facts.get("lockstep") else "arm" if facts.get("speed", 1.0) != 1.0 else "wall"
    host = rehearse or file.arm.host
    options = {"host": host, **file.arm.options}
    options |= {k: v for k, v in (("home", file.arm.home), ("tcp_flange", file.arm.tcp_flange)) if v is not None}
    arm = ArmProcess(
        ARM_DRIVERS.get(file.arm.driver, file.arm.driver), options, name=f"{file.arm.driver} at {host}", clock=pace,
        hold_after_s=file.watchdog.hold_after_s, stop_after_s=file.watchdog.stop_after_s,
        max_state_age_s=file.arm.max_state_age_s, core=None if rehearse else file.arm.core,
    )  # fmt: skip
    clock = WallClock() if pace == "wall" else ArmClock(arm)
    opened.callback(arm.close)
    eyes = Eyes(file, clock, StageView(stage) if stage else None, paced=pace == "wall")
    opened.callback(eyes.close)
    cameras = {name: eyes.camera(name, request.image_size) for name in file.cameras if request.cameras}
    tracker: Tracker = NoTracker()
    if file.tracker.driver == "tags" and (stage is None or facts.get("tags")):
        tracker = eyes.tracker(arm, request.tags if stage else None)
    elif file.tracker.driver == "ros2":
        tracker = load(
            "drivers.ros2_tracker:Ros2Tracker",
            {"names": request.objects, "objects": file.tracker.frames, "base_frame": file.tracker.base_frame,
             "now": clock.now},
        )  # fmt: skip
    elif stage is not None:
        tracker = StageTracker(stage, request.objects, clock.now if pace == "wall" else None)
    elif file.tracker.driver != "none":
        tracker = load(file.tracker.driver, {})
    return Cell(
        clock=clock,
        arm=arm,
        gripper=_gripper(file, rehearse or file.gripper.host or file.arm.host, request.held),
        tracker=tracker,
        cameras=cameras,
        stage=stage,
        eyes=eyes,
        address=file.address(rehearse),
        home=file.arm.home,
        limits=file.limits,
        faults_in_a_row=file.faults_in_a_row,
        max_object_age_s=max(file.tracker.max_age_s, RENDERING_S if rehearse else 0.0),
    )


def _gripper(file: CellFile, host: str, held: float) -> Gripper:
    known = {
        "franka_hand": "drivers.franka_hand:FrankaHand", "robotiq": "drivers.robotiq:RobotiqGripper",
        "ros2": "drivers.ros2_gripper:Ros2Gripper",
    }  # fmt: skip
    driver = file.gripper.driver
    if driver == "none":
        return NoGripper(**{"fixed_opening": held, **file.gripper.options})
    return load(known.get(driver, driver), {"host": host, **file.gripper.options})
