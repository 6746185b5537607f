"""From tag corners in a picture to an object's pose, and from a pose now and then to a steady one."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from drivers.cameras import CameraIntrinsics
from robot_rl.geometry import (
    compose,
    invert,
    matrix_from_quat,
    quat_conjugate,
    quat_from_rotvec,
    quat_multiply,
    quat_rotate,
    quat_slerp,
    rotvec_from_quat,
)

__all__ = ["PoseFilter", "camera_poses", "corner_misses", "fit_upright", "rotation_between", "uprightness"]

Array = NDArray[np.float64]
FLATNESS = 1e-4  # corners count as coplanar when their thickness is this share of their extent
GAUSS_NEWTON_STEPS = 10
DIFFERENCE = 1e-6  # for derivatives [m, rad]
CONVERGED = 1e-7  # [m, rad]


def camera_poses(points_object: Array, pixels: Array, intrinsics: CameraIntrinsics) -> list[tuple[Array, float]]:
    """Poses of an object in the camera's frame that explain where its points were seen, best first.

    Coplanar points can be explained twice when they are small in the picture: tilted one way or the other. Both are
    given then.

    Args:
        points_object: In the object's frame [m], shape (n, 3), n >= 4.
        pixels: Where they were seen, shape (n, 2).
        intrinsics: Of the picture.

    Returns:
        Pose, shape (7,), and reprojection error [pixels rms], of each.
    """
    matrix, distortion = intrinsics.matrix, np.array(intrinsics.distortion)
    extent = np.linalg.svd(points_object - points_object.mean(axis=0), compute_uv=False)
    flat = extent[2] < FLATNESS * extent[0]
    method = cv2.SOLVEPNP_IPPE if flat else cv2.SOLVEPNP_SQPNP
    _, rotations, translations, _ = cv2.solvePnPGeneric(points_object, pixels, matrix, distortion, flags=method)
    found: list[tuple[Array, float]] = []
    for start in zip(rotations, translations, strict=True):
        rotvec, translation = cv2.solvePnPRefineLM(points_object, pixels, matrix, distortion, *start)
        pose = np.empty(7)
        pose[:3], pose[3:] = translation.ravel(), quat_from_rotvec(np.array(rotvec, dtype=np.float64).ravel())
        if pose[2] > 0.0:  # in front of the camera
            found.append((pose, _rms(corner_misses(pose, points_object, pixels, intrinsics))))
    return sorted(found, key=lambda candidate: candidate[1])


def fit_upright(
    pose: Array, pose_base_camera: Array, points_object: Array, pixels: Array, intrinsics: CameraIntrinsics
) -> tuple[Array, float]:
    """The pose in `base` that explains the pixels best among those that are only turned about `base`'s z axis.

    Args:
        pose: Where to begin, in `base`, shape (7,).
        pose_base_camera: The camera's, shape (7,).
        points_object: As for `camera_poses`.
        pixels: As for `camera_poses`.
        intrinsics: Of the picture.

    Returns:
        Pose in `base`, shape (7,), and reprojection error [pixels rms].
    """
    camera_base = invert(pose_base_camera)

    def pose_of(x: Array) -> Array:
        return np.concatenate([x[:3], quat_from_rotvec(np.array([0.0, 0.0, x[3]]))])

    def pixels_of(x: Array) -> Array:
        return intrinsics.project(_move(compose(camera_base, pose_of(x)), points_object)).ravel()

    forward = quat_rotate(pose[3:], np.array([1.0, 0.0, 0.0]))
    x = np.append(pose[:3], np.arctan2(forward[1], forward[0]))
    for _ in range(GAUSS_NEWTON_STEPS):
        here = pixels_of(x)
        jacobian = np.stack([(pixels_of(x + d) - here) / DIFFERENCE for d in DIFFERENCE * np.eye(4)], axis=1)
        step = np.linalg.lstsq(jacobian, pixels.ravel() - here, rcond=None)[0]
        x = x + step
        if np.abs(step).max() < CONVERGED:
            break
    best = pose_of(x)
    return best, _rms(corner_misses(compose(camera_base, best), points_object, pixels, intrinsics))


def corner_misses(
    pose_camera_object: Array, points_object: Array, pixels: Array, intrinsics: CameraIntrinsics
) -> Array:
    """Distance between where each point was seen and where a pose puts it [pixels], shape (n,)."""
    return np.linalg.norm(intrinsics.project(_move(pose_camera_object, points_object)) - pixels, axis=1)


def uprightness(pose: Array) -> float:
    """1 for an object whose z axis is `base`'s, -1 for one upside down."""
    return float(quat_rotate(pose[3:], np.array([0.0, 0.0, 1.0]))[2])


def rotation_between(a: Array, b: Array) -> float:
    """Angle between the rotations of two poses [rad]."""
    return float(np.linalg.norm(rotvec_from_quat(quat_multiply(quat_conjugate(a[3:]), b[3:]))))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _move(pose: Array, points: Array) -> Array:
    return points @ matrix_from_quat(pose[3:]).T + pose[:3]


@dataclass
class PoseFilter:
    """Low-passes a pose and keeps single wrong readings out.

    Attributes:
        smoothing_s: Time constant [s]; 0 passes readings on as they are.
        gate_m, gate_rad: A reading further than this from the present pose is not believed...
        gate_readings: ...until so many in a row agree with one another.
        forget_s: A pose older than this says nothing about the next reading.
    """

    smoothing_s: float
    gate_m: float
    gate_rad: float
    gate_readings: int
    forget_s: float

    pose: Array | None = None
    time_s: float = 0.0
    rejected: int = 0
    _outlier: Array | None = None
    _agreeing: int = 0

    def update(self, time_s: float, reading: Array) -> bool:
        """Take a reading, shape (7,). Whether it was believed."""
        age = time_s - self.time_s
        if self.pose is None or not 0.0 <= age <= self.forget_s:
            return self._start(time_s, reading)
        near = self._near(self.pose, reading)
        if age == 0.0:  # the same moment: nothing new, unless a simulation moved it in no time
            return near or self._start(time_s, reading)
        if not near:
            again = self._outlier is not None and self._near(self._outlier, reading)
            self._agreeing = self._agreeing + 1 if again else 1
            self._outlier = reading
            if self._agreeing >= self.gate_readings:  # it moved, or was moved
                return self._start(time_s, reading)
            self.rejected += 1
            return False
        self._outlier = None
        blend = 1.0 - float(np.exp(-age / self.smoothing_s)) if self.smoothing_s > 0.0 else 1.0
        position = self.pose[:3] + blend * (reading[:3] - self.pose[:3])
        self.pose = np.concatenate([position, quat_slerp(self.pose[3:], reading[3:], blend)])
        self.time_s = time_s
        return True

    def _start(self, time_s: float, reading: Array) -> bool:
        self.pose, self.time_s, self._outlier, self._agreeing = reading.copy(), time_s, None, 0
        return True

    def _near(self, a: Array, b: Array) -> bool:
        return float(np.linalg.norm(a[:3] - b[:3])) <= self.gate_m and rotation_between(a, b) <= self.gate_rad
