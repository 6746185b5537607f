"""Poses of objects that wear AprilTags or ArUco tags, from one calibrated camera."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.cameras import CameraIntrinsics
from drivers.interfaces import Arm, Camera, Frame, TrackedPose
from drivers.tag_detector import CORNERS, TagDetector
from drivers.tag_layout import DICTIONARY, TagLayout, markers
from drivers.tag_pose import PoseFilter, camera_poses, corner_misses, fit_upright, rotation_between, uprightness
from robot_rl.errors import ConfigError
from robot_rl.geometry import compose, invert

__all__ = ["TagTracker", "TagTrackerConfig", "on_wrist"]

Array = NDArray[np.float64]
AMBIGUITY = 2.0  # two poses whose errors differ by less than this factor are both possible
NOISE_PX = 0.1  # of corners; below it, error ratios mean nothing
OUTLIER_PX = 0.3  # a corner further off than this, and than OUTLIER times the median, is left out
OUTLIER = 3.0


@dataclass(frozen=True, kw_only=True)
class TagTrackerConfig:
    """How tags become poses.

    Attributes:
        dictionary: One of `cv2.aruco`'s.
        upright: Objects that stand on the table, turned about `base`'s z axis only. Knowing this removes most of the
            error of tags seen at a slant.
        upsample: Enlarge pictures so many times when looking for tags: 2 finds smaller ones (below 20 pixels wide), in
            more time.
        max_reprojection_px: A pose that explains its corners worse than this is not believed.
        smoothing_s: Time constant of the low-pass [s]; 0 switches it off.
        gate_m, gate_rad: A jump larger than this is not believed until `gate_readings` readings in a row agree.
        gate_readings: See there; 1 switches the gate off.
        forget_s: After so long unseen an object may be anywhere, and its next reading is believed at once.
    """

    dictionary: str = DICTIONARY
    upright: tuple[str, ...] = ()
    upsample: int = 1
    max_reprojection_px: float = 2.0
    smoothing_s: float = 0.1
    gate_m: float = 0.02
    gate_rad: float = 0.2
    gate_readings: int = 3
    forget_s: float = 0.5


class TagTracker:
    """A tracker. It reads its camera when asked, and an object not seen keeps its last pose with that pose's time.

    Args:
        camera: Whose pictures; whole ones at full resolution see small tags best.
        intrinsics: Of these pictures.
        layout: Which tags each object wears.
        pose_base_camera: Where the camera is, shape (7,), in OpenCV's axes (x right, y down, z along the view), or a
            function of a picture's time that says so (see `on_wrist`).
        config: The rest.

    Raises:
        ConfigError: A tag twice or not in the dictionary, an object without tags, `upright` of an unknown object, or
            intrinsics for another picture size.
    """

    def __init__(
        self,
        camera: Camera,
        intrinsics: CameraIntrinsics,
        layout: TagLayout,
        pose_base_camera: Array | Callable[[float], Array],
        config: TagTrackerConfig | None = None,
    ) -> None:
        self.config = config = config or TagTrackerConfig()
        self._camera, self._intrinsics = camera, intrinsics
        if callable(pose_base_camera):
            self._camera_at: Callable[[float], Array] = pose_base_camera
        else:
            fixed = np.array(pose_base_camera, dtype=np.float64)
            self._camera_at = lambda _: fixed
        _check(layout, config, intrinsics, camera)
        self._corners = {name: {tag.id: tag.corners_in_object() for tag in tags} for name, tags in layout.items()}
        self._detector = TagDetector(config.dictionary, config.upsample)
        self._filters = {
            name: PoseFilter(config.smoothing_s, config.gate_m, config.gate_rad, config.gate_readings, config.forget_s)
            for name in layout
        }
        self._poses: dict[str, TrackedPose] = {}
        self._last_frame: Frame | None = None
        self._seen: dict[int, Array] = {}
        self._notes: dict[str, str] = dict.fromkeys(layout, "never seen")

    def poses(self) -> dict[str, TrackedPose]:
        """The newest pose of every object seen so far. Raises DeviceTimeoutError, StaleStateError of the camera."""
        frame = self._camera.read()
        if frame is not self._last_frame:
            if self._last_frame is not None and frame.time_s < self._last_frame.time_s:
                self.reset()  # the clock began anew, and with it the world
            self._last_frame = frame
            self._look(frame)
        return dict(self._poses)

    def reset(self) -> None:
        """Forget all poses: somebody moved the objects."""
        self._poses.clear()
        for name, old in self._filters.items():
            self._filters[name] = PoseFilter(old.smoothing_s, old.gate_m, old.gate_rad, old.gate_readings, old.forget_s)
        self._last_frame = None

    def report(self) -> str:
        """What the last picture showed, a line for each object, for a person."""
        seen = ", ".join(str(number) for number in sorted(self._seen)) or "none"
        return "\n".join([f"tags in view: {seen}", *(f"{name}: {note}" for name, note in self._notes.items())])

    def _look(self, frame: Frame) -> None:
        self._seen = self._detector(frame.image)
        for name, tags in self._corners.items():
            visible = [number for number in tags if number in self._seen]
            if not visible:
                self._notes[name] = f"none of its tags ({', '.join(map(str, tags))}) in view"
                continue
            points = np.concatenate([tags[number] for number in visible])
            pixels = np.concatenate([self._seen[number] for number in visible])
            self._update(name, frame.time_s, self._solve(name, frame.time_s, points, pixels))

    def _solve(self, name: str, time_s: float, points: Array, pixels: Array) -> tuple[Array, float] | None:
        """Pose in `base` and reprojection error, without corners that the others contradict (half hidden tags)."""
        pose_base_camera = self._camera_at(time_s)
        solved = self._choose(name, time_s, pose_base_camera, points, pixels)
        if solved is None or len(points) < 2 * CORNERS:
            return solved
        misses = corner_misses(compose(invert(pose_base_camera), solved[0]), points, pixels, self._intrinsics)
        good = misses < max(OUTLIER_PX, OUTLIER * float(np.median(misses)))
        if good.all() or good.sum() < CORNERS + 2:
            return solved
        return self._choose(name, time_s, pose_base_camera, points[good], pixels[good])

    def _choose(
        self, name: str, time_s: float, pose_base_camera: Array, points: Array, pixels: Array
    ) -> tuple[Array, float] | None:
        """Of the poses that explain the corners: upright ones, else the best, or of two likely ones the nearest."""
        candidates = [
            (compose(pose_base_camera, pose), error) for pose, error in camera_poses(points, pixels, self._intrinsics)
        ]
        if not candidates:
            return None
        if name in self.config.upright:
            start = max(candidates, key=lambda candidate: uprightness(candidate[0]))[0]
            return fit_upright(start, pose_base_camera, points, pixels, self._intrinsics)
        possible = [c for c in candidates if c[1] < max(AMBIGUITY * candidates[0][1], NOISE_PX)]
        last = self._filters[name]
        if last.pose is not None and 0.0 <= time_s - last.time_s <= last.forget_s:
            known = last.pose
            return min(possible, key=lambda candidate: rotation_between(known, candidate[0]))
        return possible[0]

    def _update(self, name: str, time_s: float, solved: tuple[Array, float] | None) -> None:
        if solved is None or solved[1] > self.config.max_reprojection_px:
            error = "no pose fits" if solved is None else f"off by {solved[1]:.2f} px"
            self._notes[name] = f"{error}, limit {self.config.max_reprojection_px} (max_reprojection_px)"
            return
        pose, error = solved
        smooth = self._filters[name]
        if smooth.update(time_s, pose) and smooth.pose is not None:
            self._poses[name] = TrackedPose(time_s, smooth.pose, error)
            self._notes[name] = f"seen, off by {error:.2f} px"
        else:
            self._notes[name] = f"jumped ({smooth.rejected} readings not believed so far; gate_m, gate_rad)"


def on_wrist(arm: Arm, pose_tcp_camera: Array) -> Callable[[float], Array]:
    """Where a camera on the wrist is: at `pose_tcp_camera` from the arm's newest tcp. Exact at rest."""
    return lambda _: compose(arm.state().tcp_pose, pose_tcp_camera)


def _check(layout: TagLayout, config: TagTrackerConfig, intrinsics: CameraIntrinsics, camera: Camera) -> None:
    marker_set = markers(config.dictionary)
    owner: dict[int, str] = {}
    for name, tags in layout.items():
        if not tags:
            raise ConfigError(f"Object {name!r} wears no tags; give it one, or leave it out.")
        for tag in tags:
            if tag.id in owner:
                raise ConfigError(
                    f"Tag {tag.id} is on {owner[tag.id]!r} and on {name!r}; print another number for one."
                )
            if not 0 <= tag.id < len(marker_set.bytesList):
                raise ConfigError(
                    f"Tag {tag.id} of {name!r} is not in {config.dictionary}: 0 to {len(marker_set.bytesList) - 1}."
                )
            if tag.size_m <= 0.0 or len(tag.pose) != 7:
                raise ConfigError(f"Tag {tag.id} of {name!r}: size_m must be positive and pose seven numbers.")
            owner[tag.id] = name
    unknown = [name for name in config.upright if name not in layout]
    if unknown:
        raise ConfigError(f"upright names {', '.join(unknown)}, which wears no tags; known: {', '.join(layout)}.")
    if (intrinsics.height, intrinsics.width) != (camera.height, camera.width):
        raise ConfigError(
            f"The intrinsics are for {intrinsics.width} x {intrinsics.height} pictures, the camera gives "
            f"{camera.width} x {camera.height}. Calibrate at the size that is used, or give the view's own intrinsics."
        )
