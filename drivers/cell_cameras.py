"""The cameras and the tracker of a cell file: on metal, on a twin, or in rehearsal through virtual RealSenses."""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drivers.cameras import CameraIntrinsics
from drivers.cell_file import CameraFile, CellFile, TrackerFile
from drivers.emulators.realsense import VirtualBus, VirtualRealSense, twin_pictures
from drivers.emulators.stage import Stage
from drivers.interfaces import Arm, Camera, Clock, Tracker
from drivers.loading import load
from drivers.opencv_camera import OpenCvCamera, OpenCvConfig
from drivers.realsense import RealSenseCamera, RealSenseConfig
from drivers.tag_layout import Tag, TagLayout
from drivers.tag_tracker import TagTracker, TagTrackerConfig, on_wrist
from drivers.twin.devices import TwinCamera
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError

__all__ = ["RENDERING_S", "Eyes", "StageView", "TwinView", "View"]

RENDERING_S = 2.0  # pictures in rehearsal may be this old: a processor renders them while it does everything else

Array = NDArray[np.float64]
Pictures = Callable[[], tuple[float, NDArray[np.uint8], NDArray[np.float32]]]


class View(Protocol):
    """A simulated scene to point virtual cameras at."""

    def pictures(self, camera: str, width: int, height: int) -> tuple[Pictures, CameraIntrinsics]:
        """A source of its pictures, and their intrinsics."""
        ...

    def camera_pose(self, camera: str) -> Array:
        """Where a camera is in `base`, shape (7,), OpenCV's axes."""
        ...

    def close(self) -> None:
        """Let go of the scene."""
        ...


class TwinView:
    """The scene of a twin in this process."""

    def __init__(self, twin: Twin) -> None:
        self._twin = twin

    def pictures(self, camera: str, width: int, height: int) -> tuple[Pictures, CameraIntrinsics]:
        """Rendered here."""
        return twin_pictures(self._twin, camera, width=width, height=height)

    def camera_pose(self, camera: str) -> Array:
        """As the model has it."""
        return TwinCamera(self._twin, camera).pose_in_base()

    def close(self) -> None:
        """Nothing."""


class StageView:
    """The scene beside an emulator."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._connections: list[Stage] = []

    def pictures(self, camera: str, width: int, height: int) -> tuple[Pictures, CameraIntrinsics]:
        """Rendered by the emulator's process; over a connection of its own, since threads ask for them."""
        connection = Stage(self._stage.host)
        self._connections.append(connection)
        fovy, _ = connection.camera(camera)
        return lambda: connection.picture(camera, height, width), CameraIntrinsics.from_fovy(fovy, width, height)

    def camera_pose(self, camera: str) -> Array:
        """As the model has it."""
        return self._stage.camera(camera)[1]

    def close(self) -> None:
        """Let go of the emulator."""
        for connection in self._connections:
            connection.close()


class Eyes:
    """What a cell sees with.

    Args:
        file: The cell.
        clock: The cell's.
        view: The scene, for virtual cameras; None on metal.
        paced: Whether the clock is the wall's, so that cameras send at their own pace.

    Attributes:
        virtual: The virtual devices by name, to make them fail.
    """

    def __init__(self, file: CellFile, clock: Clock, view: View | None, *, paced: bool) -> None:
        self._file, self._clock, self._view, self._paced = file, clock, view, paced
        self._bus = VirtualBus() if view is not None else None
        self._open: dict[str, Any] = {}
        self.virtual: dict[str, VirtualRealSense] = {}
        self._running = contextlib.ExitStack()

    def camera(self, name: str, image_size: int | None) -> Camera:
        """A camera of the cell file by name, in the size a policy sees.

        Raises:
            ConfigError: Not in the cell file, or a setting it does not take.
            DeviceConnectionError: It does not answer.
        """
        if name not in self._open:
            file = self._file.cameras[name]
            real = self._view is None or file.driver == "ros2"  # whose pictures an emulated robot sends itself
            self._open[name] = self._real(file, image_size) if real else self._virtual(name, file, image_size)
        return self._open[name]

    def tracker(self, arm: Arm, layout: TagLayout | None = None) -> Tracker:
        """The tag tracker of the cell file.

        Args:
            arm: For a camera on the hand.
            layout: Tags that a simulated scene wears in place of the file's.
        """
        file = self._file.tracker
        camera: Any = self.camera(file.camera, None) if file.camera not in self._open else self._open[file.camera]
        whole = camera.full
        if layout is None:
            layout = {name: [Tag(t.id, t.size_m, t.pose) for t in tags] for name, tags in file.objects.items()}
        config = TagTrackerConfig(
            dictionary=file.dictionary, max_reprojection_px=file.max_reprojection_px,
            upright=tuple(name for name in layout if name in file.upright or self._view is not None),
        )  # fmt: skip
        return TagTracker(whole, whole.intrinsics, layout, self._camera_pose(file, arm), config)

    def close(self) -> None:
        """Let go of every camera."""
        for camera in self._open.values():
            camera.close()
        self._running.close()
        if self._view is not None:
            self._view.close()

    def _camera_pose(self, file: TrackerFile, arm: Arm) -> Array | Callable[[float], Array]:
        if self._view is not None and file.camera_pose_tcp is None:
            return self._view.camera_pose(file.camera)  # the scene's camera stands where it stands
        if file.camera_pose_tcp is not None:
            return on_wrist(arm, np.array(file.camera_pose_tcp))
        return np.array(file.camera_pose_base)

    def _real(self, file: CameraFile, image_size: int | None) -> Camera:
        common: dict[str, Any] = {
            "width": file.width, "height": file.height, "fps": file.fps, "crop": file.crop, "image_size": image_size,
            "exposure_us": file.exposure_us, "white_balance_k": file.white_balance_k, "max_age_s": file.max_age_s,
            **file.options,
        }  # fmt: skip
        intrinsics = None
        if file.intrinsics is not None:
            fx, fy, cx, cy = file.intrinsics
            intrinsics = CameraIntrinsics(fx, fy, cx, cy, file.width, file.height, file.distortion)
        if file.driver == "realsense":
            return RealSenseCamera(RealSenseConfig(serial=file.serial or None, **common), now=self._clock.now)
        if file.driver == "opencv":
            return OpenCvCamera(OpenCvConfig(source=file.source, **common), intrinsics=intrinsics, now=self._clock.now)
        if file.driver == "ros2":
            from drivers.ros2_camera import Ros2Camera, Ros2CameraConfig

            own: dict[str, Any] = {
                "crop": file.crop,
                "image_size": image_size,
                "max_age_s": file.max_age_s,
                **file.options,
            }
            own |= {} if self._view is None else {"frozen_after_s": None}  # a rendered scene may well rest
            return Ros2Camera(Ros2CameraConfig(topic=file.source, **own), intrinsics=intrinsics, now=self._clock.now)
        if file.driver == "twin":
            raise ConfigError("A camera with driver: twin needs an arm with driver: twin.")
        return load(file.driver, common)

    def _virtual(self, name: str, file: CameraFile, image_size: int | None) -> Camera:
        """The real SDK and driver on a virtual device; locks of exposure mean nothing to a rendered picture."""
        assert self._view is not None
        assert self._bus is not None
        pictures, intrinsics = self._view.pictures(name, file.width, file.height)
        device = VirtualRealSense(pictures, intrinsics, bus=self._bus, serial=file.serial or name, fps=file.fps)
        self.virtual[name] = device
        config = device.config(
            crop=file.crop, image_size=image_size, max_age_s=max(file.max_age_s, RENDERING_S), **file.options
        )
        if self._paced:
            self._running.enter_context(device.running())
        return RealSenseCamera(
            config, context=self._bus.context, now=self._clock.now, before_read=None if self._paced else device.push
        )
