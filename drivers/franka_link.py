"""What the drivers of Franka arms share: the FR3's numbers, reaching the robot, and saying what is wrong with it.

Joint limits as published for the FR3 (franka_description); the hand's place as its data sheet gives it.
"""

import socket
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drivers.impedance import ImpedanceGains, JointLimits
from robot_rl.errors import DeviceConnectionError, DeviceFaultError, RobotRLError
from robot_rl.geometry import matrix_from_quat, quat_from_matrix

__all__ = [
    "FR3_HOME",
    "FR3_LIMITS",
    "HAND_FLANGE",
    "MOTION_GAINS",
    "MOTION_SPEED",
    "advice_for",
    "broken",
    "column_major",
    "connect_errors",
    "not_arrived",
    "pose_into",
    "pose_of",
    "probe",
    "realtime_kernel",
    "reflex_of",
    "stopped_itself",
]

Array = NDArray[np.float64]

CONNECT_TIMEOUT_S = 2.5
FR3_HOME = (0.0, -0.041759, 0.0, -2.334272, 0.0, 2.292514, 0.785398)
FR3_LIMITS = JointLimits(
    lower=np.array([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159]),
    upper=np.array([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159]),
    torque=np.array([87.0, 87, 87, 87, 12, 12, 12]),
    posture=np.array(FR3_HOME),
)
HAND_FLANGE = (0.0, 0.0, 0.1034, 0.0, 0.0, -0.3826834323650898, 0.9238795325112867)
"""Tool centre point of the Franka hand in the flange: 0.1034 m out, turned by -45 degrees."""
MOTION_SPEED = (0.25, 1.0)  # of move_to_pose [m/s, rad/s]
MOTION_GAINS = ImpedanceGains(translational_clip=(0.02, 0.02, 0.02), rotational_clip=(0.1, 0.1, 0.1))


class connect_errors:  # noqa: N801 (a context manager, used as a statement)
    """Turns what libfranka raises while connecting into DeviceConnectionError, saying what to check."""

    def __init__(self, host: str, franka: Any) -> None:
        self._host, self._franka = host, franka

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, RobotRLError):
            return
        text = str(error)
        if "ersion" in text:
            advice = (
                "The robot's system image and pylibfranka do not belong together: see Franka's compatibility table."
            )
        elif isinstance(error, self._franka.RealtimeException):
            advice = "Give the user rtprio 99, or set arm.realtime: ignore in the cell file."
        else:
            advice = "Is FCI activated in Desk, are the brakes open, and is no other program connected?"
        raise DeviceConnectionError(f"{self._host} refused the connection: {text}. {advice}") from error


def probe(host: str, port: int) -> None:
    """Make sure that something answers at an address, in less than 3 s. Raises DeviceConnectionError."""
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise DeviceConnectionError(
            f"Nothing answers at {host}:{port} ({error}). Check arm.host in the cell file, the cable (ping {host}), "
            f"and that "
            "the robot is switched on with FCI activated in Desk.",
            host=host,
        ) from error


def advice_for(mode: str) -> str:
    """What a person does about a robot in this mode."""
    return {
        "UserStopped": "the enabling switch or emergency stop is pressed. Release it, then try again.",
        "Guiding": "it is being guided by hand. Let go, then try again.",
        "Reflex": "it is still in a reflex. Free it from what it touches, then try again.",
        "Other": "open the brakes and activate FCI in Desk, then try again.",
    }.get(mode, f"its mode is {mode}. Look at Desk.")


def reflex_of(error: Exception) -> str:
    """The names of the robot's errors, as libfranka lists them in its message."""
    text = str(error)
    return text[text.index("[") :].strip() if "[" in text else text.removeprefix("libfranka: ").strip()


def pose_of(matrix: Any) -> Array:
    """Pose, shape (7,), of a homogeneous matrix as libfranka gives it: 16 numbers, column by column."""
    pose = np.empty(7)
    pose_into(np.array(matrix), pose)
    return pose


@njit(cache=True)
def pose_into(matrix: Array, pose: Array) -> None:
    """As `pose_of`, allocating nothing outside."""
    rotation = np.empty((3, 3))
    for i in range(3):
        pose[i] = matrix[12 + i]
        for j in range(3):
            rotation[i, j] = matrix[4 * j + i]
    pose[3:] = quat_from_matrix(rotation)


def column_major(pose: Array) -> list[float]:
    """A pose, shape (7,), as the 16 numbers libfranka takes."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = matrix_from_quat(pose[3:]), pose[:3]
    return matrix.T.ravel().tolist()


def realtime_kernel() -> bool:
    """Whether the kernel is a PREEMPT_RT one."""
    file = Path("/sys/kernel/realtime")
    return file.is_file() and file.read_text().strip() == "1"


def stopped_itself(host: str, error: Exception) -> DeviceFaultError:
    """The robot's own fault, as ours."""
    return DeviceFaultError(
        f"{host}: {reflex_of(error)}. The robot stopped itself and holds. Free it from what it touches, then reset the "
        "environment: recovery is tried once.",
        errors=reflex_of(error),
    )


def broken(host: str, error: Exception) -> DeviceConnectionError:
    """A connection that broke."""
    return DeviceConnectionError(
        f"The connection to {host} broke: {error}. The robot stops itself without commands. Check the cable and that "
        "nobody else controls it in Desk, then reset the environment."
    )


def not_arrived(host: str, off: str, late_s: float) -> DeviceFaultError:
    """A motion that did not end where it should."""
    return DeviceFaultError(
        f"A motion of {host} did not arrive: {off}, {late_s:.1f} s after its time. The arm holds its measured pose. "
        "Look for what is in its way."
    )
