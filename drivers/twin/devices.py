"""The twin's arm, gripper, cameras, tracker and clock: the hardware protocols, looking at one `Twin`."""

import time

import mujoco
import numpy as np
from numpy.typing import NDArray

from drivers.cameras import CameraIntrinsics
from drivers.impedance import ImpedanceGains
from drivers.interfaces import ArmState, Frame, TrackedPose
from drivers.safety_limits import SafetyLimits
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError, DeviceError
from robot_rl.geometry import matrix_from_quat, quat_from_matrix

__all__ = ["TwinArm", "TwinCamera", "TwinClock", "TwinGripper", "TwinTracker"]

Array = NDArray[np.float64]

DEPTH_RANGE = 10.0  # of the depth cameras people put beside arms [m]


class TwinClock:
    """Time is the simulation's: waiting runs physics.

    Args:
        twin: Whose time.
        real_time: Also sleep, so that a person can watch or steer at natural speed.
    """

    def __init__(self, twin: Twin, *, real_time: bool = False) -> None:
        self._twin = twin
        self._real_time = real_time
        self._wall_offset = 0.0

    def now(self) -> float:
        """Simulated seconds since the last reset."""
        return float(self._twin.data.time)

    def wait_until(self, time_s: float) -> None:
        """Run physics up to `time_s`; nothing happens when that is past."""
        start = self.now()
        if time_s > start:
            self._twin.advance(time_s - start)
        if self._real_time:
            self._pace(time_s)

    def _pace(self, time_s: float) -> None:
        late = time.monotonic() - self._wall_offset - time_s
        if abs(late) > 1.0:  # first call, or a reset
            self._wall_offset = time.monotonic() - time_s
        elif late < 0.0:
            time.sleep(-late)


class TwinArm:
    """The simulated arm. It is always connected; motions without contact (`move_to_*`) take no time."""

    def __init__(self, twin: Twin) -> None:
        self._twin = twin
        self.joint_limits = twin.limits

    def __enter__(self) -> "TwinArm":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Nothing to reach."""

    def state(self) -> ArmState:
        """The state of the last tick; the wrench is low-passed over 20 ms."""
        twin = self._twin
        to_tcp = matrix_from_quat(twin.tcp_pose[3:]).T
        twist = twin.jacobian @ twin.qd
        wrench = twin.contact_wrench_base()
        return ArmState(
            time_s=float(twin.data.time),
            q=twin.q.copy(),
            qd=twin.qd.copy(),
            torque=twin.law.output.copy(),
            tcp_pose=twin.tcp_pose.copy(),
            twist_tcp=np.concatenate([to_tcp @ twist[:3], to_tcp @ twist[3:]]),
            wrench_tcp=np.concatenate([to_tcp @ wrench[:3], to_tcp @ wrench[3:]]),
        )

    def command(self, target_pose: Array) -> None:
        """Follow a target pose in `base`, shape (7,)."""
        self._twin.target[:] = target_pose

    def set_impedance(self, gains: ImpedanceGains) -> None:
        """Change stiffness, damping and clips."""
        self._twin.set_gains(gains)

    def set_limits(self, limits: SafetyLimits) -> None:
        """Keep the tcp within limits at every tick."""
        self._twin.set_limits(limits)

    def move_to_joints(self, q: Array, duration_s: float) -> None:
        """Jump to joint angles [rad], shape (n,)."""
        del duration_s
        self._twin.jump_to_joints(q)

    def move_to_pose(self, pose: Array, duration_s: float) -> None:
        """Jump to a tcp pose in `base`, shape (7,). Raises ConfigError when it is out of reach."""
        del duration_s
        self._twin.jump_to_pose(pose)

    def recover(self) -> None:
        """The twin has no faults of its own."""

    def stop(self) -> None:
        """Hold the measured pose."""
        self._twin.target[:] = self._twin.tcp_pose

    def close(self) -> None:
        """Nothing to let go of."""


class TwinGripper:
    """The simulated parallel gripper."""

    max_opening = 0.08

    def __init__(self, twin: Twin) -> None:
        self._twin = twin
        self._actuator = twin.model.actuator("tool/gripper").id
        self._fingers = [int(twin.model.joint(f"tool/finger{i}").qposadr[0]) for i in (1, 2)]

    def opening(self) -> float:
        """Measured distance between the pads [m]."""
        return float(self._twin.data.qpos[self._fingers].sum())

    def command(self, opening: float) -> None:
        """Move towards an opening [m]; the force is limited to 40 N a finger."""
        self._twin.data.ctrl[self._actuator] = min(max(opening, 0.0), self.max_opening)

    def jump_to(self, opening: float) -> None:
        """Set the opening [m] in no time."""
        self.command(opening)
        self._twin.data.qpos[self._fingers] = 0.5 * opening


class TwinTracker:
    """Ground truth of named bodies, optionally with noise, as a tag tracker would report them."""

    def __init__(self, twin: Twin, names: tuple[str, ...]) -> None:
        self._twin = twin
        self._names = names

    def poses(self) -> dict[str, TrackedPose]:
        """Pose of every named body in `base`."""
        now = float(self._twin.data.time)
        return {name: TrackedPose(now, self._twin.body_pose(name)) for name in self._names}


class TwinCamera:
    """A rendered camera.

    Args:
        twin: What to look at.
        name: The camera in the model: `front`, or `wrist` on the hand.
        height, width: Of the picture [pixels].
        depth: Also render depth; 0 beyond what a depth camera sees.

    Raises:
        ConfigError: The model has no such camera.
    """

    def __init__(self, twin: Twin, name: str, height: int = 128, width: int = 128, *, depth: bool = False) -> None:
        self.height, self.width = height, width
        self._twin, self._depth = twin, depth
        known = [twin.model.camera(i).name for i in range(twin.model.ncam)]
        wanted = next((n for n in known if n.removeprefix("tool/") == name), None)
        if wanted is None:
            raise ConfigError(f"The scene has no camera {name!r}; it has {[n.removeprefix('tool/') for n in known]}.")
        self._camera = twin.model.camera(wanted).id
        self._renderer: mujoco.Renderer | None = None

    @property
    def intrinsics(self) -> CameraIntrinsics:
        """Of the rendered pictures: an ideal lens."""
        return CameraIntrinsics.from_fovy(float(self._twin.model.cam_fovy[self._camera]), self.width, self.height)

    def pose_in_base(self) -> Array:
        """Where the camera is in `base`, shape (7,), its frame being OpenCV's: x right, y down, z along the view."""
        data = self._twin.data
        matrix = data.cam_xmat[self._camera].reshape(3, 3) * np.array([1.0, -1.0, -1.0])  # OpenGL looks along -z, y up
        return np.concatenate([data.cam_xpos[self._camera], quat_from_matrix(matrix)])

    def read(self) -> Frame:
        """Render now. Raises DeviceError when the machine has no OpenGL."""
        renderer = self._renderer or _open_renderer(self._twin.model, self.height, self.width)
        self._renderer = renderer
        renderer.update_scene(self._twin.data, camera=self._camera)
        image, depth = renderer.render(), None
        if self._depth:
            renderer.enable_depth_rendering()
            depth = renderer.render()
            renderer.disable_depth_rendering()
            depth[depth > DEPTH_RANGE] = 0.0
        return Frame(float(self._twin.data.time), image, depth)

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _open_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # PyOpenGL, GLFW and EGL each raise their own kind
        raise DeviceError(
            f"No OpenGL for the twin's cameras ({type(error).__name__}: {error}). On Debian or Ubuntu: "
            "apt install libegl1 libgl1-mesa-dri (or libosmesa6, with MUJOCO_GL=osmesa). State observations need none."
        ) from error
