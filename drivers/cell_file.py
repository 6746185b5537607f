"""The cell file: what stands on a person's table, as validated YAML."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drivers.safety import SafetyLimits
from robot_rl.errors import ConfigError

__all__ = [
    "ARM_DRIVERS",
    "ArmFile",
    "CameraFile",
    "CellFile",
    "GripperFile",
    "LimitsFile",
    "TagFile",
    "TrackerFile",
    "load_cell_file",
    "tighten",
]

ARM_DRIVERS = {
    "franka": "drivers.franka:FrankaArm",
    "franky": "drivers.franky:FrankyArm",
    "ur": "drivers.ur:UrArm",
    "ros2": "drivers.ros2_arm:Ros2Arm",
}
"""Built-in arm drivers: name in a cell file to class."""

Pose = Annotated[tuple[float, ...], Field(min_length=7, max_length=7)]
Triple = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ArmFile(_Section):
    """`driver`: franka, franky, ur, ros2, twin or your_package.module:YourArm; `options` is what else it takes."""

    driver: str = "twin"
    host: str = ""
    model: str = ""  # of the twin: fr3, ur5e or an MJCF file; by default the driver's
    home: tuple[float, ...] | None = None  # joint angles [rad]
    tcp_flange: Pose | None = None
    max_state_age_s: float = Field(default=0.1, gt=0)
    core: int | None = Field(default=None, ge=0)
    options: dict[str, Any] = {}


class GripperFile(_Section):
    """`driver`: franka_hand, robotiq, ros2, none (a fixed tool) or your_package.module:YourGripper."""

    driver: str = "none"
    host: str = ""  # the arm's by default
    options: dict[str, Any] = {}


class CameraFile(_Section):
    """`driver`: realsense (needs `serial`), opencv or ros2 (need `source`), twin or your_package.module:YourCamera."""

    driver: str
    serial: str = ""
    source: str = ""  # /dev/video0 or 0, a video file or a folder of pictures; a ROS topic such as /front/image_raw
    width: int = Field(default=640, gt=0)
    height: int = Field(default=480, gt=0)
    fps: int = Field(default=30, gt=0)
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height; the largest middle square by default
    exposure_us: float | None = Field(default=None, gt=0)
    white_balance_k: float | None = Field(default=None, gt=0)
    intrinsics: tuple[float, float, float, float] | None = None  # fx, fy, cx, cy [pixels], of opencv cameras
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    max_age_s: float = Field(default=0.3, gt=0)
    options: dict[str, Any] = {}


class TagFile(_Section):
    """One printed tag on an object."""

    id: int = Field(ge=0)
    size_m: float = Field(gt=0)  # edge of the black square
    pose: Pose = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)  # of the tag in the object


class TrackerFile(_Section):
    """`driver`: tags, ros2 (tf), none or your_package.module:YourTracker."""

    driver: str = "none"
    camera: str = ""  # which of the cameras sees the tags
    camera_pose_base: Pose | None = None  # fixed camera: its pose in base (x right, y down, z forward)
    camera_pose_tcp: Pose | None = None  # camera on the hand
    dictionary: str = "DICT_APRILTAG_36h11"
    max_age_s: float = Field(default=0.5, gt=0)
    max_reprojection_px: float = Field(default=2.0, gt=0)
    objects: dict[str, tuple[TagFile, ...]] = {}
    frames: dict[str, str] = {}  # of ros2: frame in tf by the object's name, where they differ
    base_frame: str = "base"  # of ros2: that of the arm
    upright: tuple[str, ...] = ()  # objects that only ever turn about the vertical: far more exact


class WatchdogFile(_Section):
    """When the arm stops waiting for commands."""

    hold_after_s: float = Field(default=0.3, gt=0)
    stop_after_s: float = Field(default=5.0, gt=0)


class LimitsFile(_Section):
    """Tightens a task's own limits; it never widens them."""

    position_low: Triple | None = None
    position_high: Triple | None = None
    max_speed: tuple[Positive, Positive] | None = None
    max_wrench: tuple[Positive, Positive] | None = None
    joint_margin: float | None = Field(default=None, ge=0)
    outside: Literal["clip", "refuse"] | None = None


class CellFile(_Section):
    """A whole cell."""

    arm: ArmFile = ArmFile()
    gripper: GripperFile = GripperFile()
    cameras: dict[str, CameraFile] = {}
    tracker: TrackerFile = TrackerFile()
    limits: LimitsFile = LimitsFile()
    watchdog: WatchdogFile = WatchdogFile()
    faults_in_a_row: int = Field(
        default=3, ge=0
    )  # episodes that may end in a fault, one after another, before training stops

    def address(self, rehearse: str = "") -> str:
        """What tells its arm from others: where it is reached, or else driver and options; empty of a twin."""
        arm = self.arm
        return "" if arm.driver == "twin" else rehearse or arm.host or f"{arm.driver} {arm.options}"


def load_cell_file(path: str | Path) -> CellFile:
    """Read and check a cell file.

    Raises:
        ConfigError: It does not exist, is no YAML, or a value is not what is expected; the message names file, key,
        value
            and expectation.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"There is no cell file {path}. Write one: robot-rl cells new {path.stem or 'lab'} --arm franka; "
            "or use the simulated one: twin."
        )
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings; see: robot-rl cells new --help")
    try:
        cell = CellFile.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from error
    _check(path, cell)
    return cell


def _explain(error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors():
        *parents, last = [str(part) for part in problem["loc"]] or [""]
        key = ".".join([*parents, last])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: there is no such key. {_neighbours(parents)}")
        else:
            lines.append(f"{key}: {problem['input']!r}: {problem['msg']}.")
    return " ".join(lines)


def _neighbours(parents: list[str]) -> str:
    section: Any = CellFile
    for name in parents:
        annotation = section.model_fields[name].annotation if name in getattr(section, "model_fields", {}) else None
        inner = getattr(annotation, "__args__", (annotation,))
        section = next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), section)
    return f"Known: {', '.join(section.model_fields)}."


def _check(path: Path, cell: CellFile) -> None:
    if cell.arm.driver in ARM_DRIVERS and cell.arm.driver != "ros2" and not cell.arm.host:
        raise ConfigError(f"{path}: arm.host is missing; the driver {cell.arm.driver!r} needs the arm's address.")
    if cell.arm.driver not in (*ARM_DRIVERS, "twin") and ":" not in cell.arm.driver:
        known = ", ".join([*ARM_DRIVERS, "twin"])
        raise ConfigError(
            f"{path}: arm.driver: {cell.arm.driver!r} is not known. Known: {known}, or your_package.module:Class."
        )
    for name, camera in cell.cameras.items():
        if camera.driver not in ("realsense", "opencv", "ros2", "twin") and ":" not in camera.driver:
            raise ConfigError(
                f"{path}: cameras.{name}.driver: {camera.driver!r} is not known. Known: realsense, opencv, ros2, twin."
            )
        if camera.driver == "ros2" and not camera.source:
            raise ConfigError(f"{path}: cameras.{name}.source is missing: a topic such as /{name}/image_raw.")
        if camera.driver == "opencv" and not camera.source:
            raise ConfigError(f"{path}: cameras.{name}.source is missing: /dev/video0, a video file or a folder.")
    tracker = cell.tracker
    if tracker.driver == "tags":
        if tracker.camera not in cell.cameras:
            raise ConfigError(
                f"{path}: tracker.camera: {tracker.camera!r} is none of the cameras: {', '.join(cell.cameras)}."
            )
        if (tracker.camera_pose_base is None) == (tracker.camera_pose_tcp is None):
            raise ConfigError(
                f"{path}: tracker needs either camera_pose_base or camera_pose_tcp (7 numbers: position, quat_xyzw)."
            )
    elif tracker.driver not in ("none", "ros2") and ":" not in tracker.driver:
        raise ConfigError(f"{path}: tracker.driver: {tracker.driver!r} is not known. Known: tags, ros2, none.")
    low, high = cell.limits.position_low, cell.limits.position_high
    if low is not None and high is not None and any(a >= b for a, b in zip(low, high, strict=True)):
        raise ConfigError(f"{path}: limits.position_low {low} is not below position_high {high}; the box is empty.")
    if cell.watchdog.stop_after_s < cell.watchdog.hold_after_s:
        raise ConfigError(f"{path}: watchdog.stop_after_s is less than hold_after_s; an arm holds before it stops.")


def tighten(limits: SafetyLimits, cell: LimitsFile) -> SafetyLimits:
    """A task's limits within a cell's: of every pair the stricter.

    Raises:
        ConfigError: Nothing is left of the box.
    """
    values = {field.name: getattr(limits, field.name) for field in fields(limits)}
    for name, stricter in (
        ("position_low", max), ("position_high", min), ("max_speed", min), ("max_wrench", min),
    ):  # fmt: skip
        own = getattr(cell, name)
        if own is not None:
            values[name] = tuple(stricter(a, b) for a, b in zip(values[name], own, strict=True))
    if cell.joint_margin is not None:
        values["joint_margin"] = max(values["joint_margin"], cell.joint_margin)
    if cell.outside == "refuse":
        values["outside"] = "refuse"
    try:
        return SafetyLimits(**values)
    except ConfigError as error:
        raise ConfigError(f"The cell's limits and the task's leave nothing between them: {error}") from error
