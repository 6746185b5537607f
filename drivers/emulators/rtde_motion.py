"""What a position-controlled arm's controller is asked to do: each motion moves a joint reference, cycle by cycle.

A motion's `step` advances `Reference` by one controller cycle and says whether the motion is at its end. UR publishes
what its commands mean, not its filters; where a number is ours it says so.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drivers.emulators.rtde_kinematics import damped_solve, forward, inverse
from robot_rl.geometry import (
    matrix_from_quat,
    quat_conjugate,
    quat_from_rotvec,
    quat_multiply,
    quat_slerp,
    rotvec_from_quat,
)  # fmt: skip

__all__ = ["Force", "Hold", "Motion", "MoveJ", "MoveL", "Reference", "Servo", "Speed", "Stop", "trapezoid"]

Array = NDArray[np.float64]

MAX_JOINT_SPEED = math.pi  # [rad/s], UR5e data sheet: 180 deg/s
DAMPING = 1e-6  # lambda^2 of the inverse Jacobian
# Force mode, ours: UR's documentation gives the meaning of gain and damping, not the scale.
VIRTUAL_INERTIA = np.array([10.0, 10.0, 10.0, 0.25, 0.25, 0.25])  # [kg, kg m^2] at gain scaling 1
FORCE_CYCLE_S = 0.002  # the damping setting is a fraction of the speed lost per cycle
HOLD_GAIN = 20.0  # [1/s] at which axes that are not compliant go back to their place


@dataclass
class Reference:
    """Where the controller wants the joints: `q` [rad], `qd` [rad/s], shape (6,); `tcp` in the flange, shape (7,)."""

    q: Array
    qd: Array
    tcp: Array

    def pose(self) -> tuple[Array, Array]:
        """Of the tcp in Base, and its Jacobian."""
        return forward(self.q, self.tcp)

    def advance(self, qd: Array, dt: float) -> None:
        """Move at a joint velocity for one cycle, no faster than the joints can."""
        self.qd = qd * min(1.0, MAX_JOINT_SPEED / max(float(np.abs(qd).max()), 1e-9))
        self.q = self.q + self.qd * dt

    def jump(self, q: Array, dt: float) -> None:
        """Be at joint angles after this cycle, no faster than the joints can."""
        self.advance((q - self.q) / dt, dt)


class Motion(Protocol):
    """Something the reference does."""

    def step(self, reference: Reference, dt: float) -> bool:
        """One cycle of `dt` seconds. Returns whether the motion is at its end."""
        ...


class Hold:
    """Stand still."""

    def step(self, reference: Reference, dt: float) -> bool:
        """At its end at once."""
        reference.qd = np.zeros(6)
        return True


def trapezoid(length: float, speed: float, acceleration: float, time_s: float) -> float:
    """Distance along a path that begins and ends at rest, with a trapezoidal speed, after `time_s`."""
    if length <= 0.0:
        return 0.0
    ramp = min(speed / acceleration, math.sqrt(length / acceleration))
    top = acceleration * ramp
    cruise = length / top - ramp
    if time_s < ramp:
        return 0.5 * acceleration * time_s**2
    if time_s < ramp + cruise:
        return top * (time_s - 0.5 * ramp)
    left = max(2.0 * ramp + cruise - time_s, 0.0)
    return length - 0.5 * acceleration * left**2


class MoveJ:
    """Straight in joint space; the joint with the furthest way sets the pace. Speeds in rad."""

    def __init__(self, start: Array, goal: Array, speed: float, acceleration: float) -> None:
        self.start, self.way = start.copy(), goal - start
        self.length = float(np.abs(self.way).max())
        self.speed, self.acceleration = max(speed, 1e-6), max(acceleration, 1e-6)
        self.time_s = 0.0

    def step(self, reference: Reference, dt: float) -> bool:
        self.time_s += dt
        done = trapezoid(self.length, self.speed, self.acceleration, self.time_s)
        reference.jump(self.start + self.way * (done / self.length if self.length > 0.0 else 1.0), dt)
        return self.length - done < 1e-9


class MoveL:
    """The tcp straight in space, turning the short way. Speeds in m, or in rad for a pure rotation.

    Raises:
        ValueError: The pose is out of reach (from `step`).
    """

    def __init__(self, start: Array, goal: Array, speed: float, acceleration: float) -> None:
        self.start, self.goal = start.copy(), goal
        turn = rotvec_from_quat(quat_multiply(goal[3:], quat_conjugate(start[3:])))
        self.length = max(float(np.linalg.norm(goal[:3] - start[:3])), 0.25 * float(np.linalg.norm(turn)))
        self.speed, self.acceleration = max(speed, 1e-6), max(acceleration, 1e-6)
        self.time_s = 0.0

    def step(self, reference: Reference, dt: float) -> bool:
        self.time_s += dt
        done = trapezoid(self.length, self.speed, self.acceleration, self.time_s)
        part = done / self.length if self.length > 0.0 else 1.0
        pose = np.concatenate(
            [
                self.start[:3] + part * (self.goal[:3] - self.start[:3]),
                quat_slerp(self.start[3:], self.goal[3:], part),
            ]
        )
        q, reached = inverse(pose, reference.tcp, reference.q)
        if not reached:
            raise ValueError(f"no inverse kinematics for {np.round(pose, 3).tolist()}")
        reference.jump(q, dt)
        return self.length - done < 1e-9


class Servo:
    """Follow a joint target that is set again and again.

    A low-pass whose time constant is the lookahead time at gain 300, shorter with more gain (ours: UR says that more
    lookahead smooths and more gain follows more sharply).
    """

    def __init__(self, target: Array, lookahead_s: float, gain: float) -> None:
        self.set(target, lookahead_s, gain)

    def set(self, target: Array, lookahead_s: float, gain: float) -> None:
        """A new target [rad], shape (6,)."""
        self.target = target
        self.time_constant_s = lookahead_s * 300.0 / max(gain, 1.0)

    def step(self, reference: Reference, dt: float) -> bool:
        blend = 1.0 - math.exp(-dt / max(self.time_constant_s, 1e-4))
        reference.advance(blend / dt * (self.target - reference.q), dt)
        return False


class Speed:
    """Go towards a velocity at an acceleration and keep it: of the joints, or of the tool in Base."""

    def __init__(self, target: Array, acceleration: float, *, tool: bool) -> None:
        self.set(target, acceleration, tool=tool)
        self.velocity: Array | None = None

    def set(self, target: Array, acceleration: float, *, tool: bool) -> None:
        """A new velocity, shape (6,); acceleration in rad/s^2, or m/s^2 for the tool."""
        self.target, self.acceleration, self.tool = target, acceleration, tool

    def step(self, reference: Reference, dt: float) -> bool:
        jacobian = reference.pose()[1]
        if self.velocity is None:
            self.velocity = jacobian @ reference.qd if self.tool else reference.qd.copy()
        change = self.target - self.velocity
        furthest = float(np.abs(change).max())
        self.velocity = self.velocity + change * min(1.0, self.acceleration * dt / max(furthest, 1e-12))
        reference.advance(damped_solve(jacobian, self.velocity, DAMPING) if self.tool else self.velocity, dt)
        return False


class Stop:
    """Slow down to rest; deceleration in rad/s^2 of the fastest joint, or m/s^2 of the tool."""

    def __init__(self, deceleration: float, *, tool: bool) -> None:
        self.deceleration, self.tool = max(deceleration, 1e-3), tool

    def step(self, reference: Reference, dt: float) -> bool:
        speed = float(np.abs(reference.qd).max())
        if self.tool:
            twist = reference.pose()[1] @ reference.qd
            speed = float(np.linalg.norm(twist[:3])) + 0.25 * float(np.linalg.norm(twist[3:]))
        left = speed - self.deceleration * dt
        if left <= 1e-6:
            reference.qd = np.zeros(6)
            return True
        reference.advance(reference.qd * (left / speed), dt)
        return False


class Force:
    """Force mode: compliant axes move so that the wrench exerted approaches the one asked for, up to a speed limit.

    Along a compliant axis an admittance: a virtual inertia, divided by the gain scaling, is pushed by the wrench asked
    for minus the wrench exerted, and loses the fraction `damping` of its speed per 2 ms (UR: "A value of 1 is full
    damping, so the robot will decelerate quickly if no force is present. A value of 0 is no damping"). Other axes do
    what the program's motion does. Wrenches act at the tcp.
    """

    def __init__(self, pose: Array) -> None:
        self.place = pose.copy()  # where axes that are not compliant belong
        self.velocity = np.zeros(6)  # of the compliant axes, in the force frame
        self.frame = np.eye(3)
        self.compliant: NDArray[np.bool_] = np.zeros(6, dtype=np.bool_)
        self.wrench, self.limits = np.zeros(6), np.zeros(6)
        self.gain, self.damping = 1.0, 0.005  # the controller's defaults

    def set(self, frame: Array, compliant: NDArray[np.bool_], wrench: Array, limits: Array) -> None:
        """Frame (7,) in Base, selection, wrench that the robot shall exert, limits; shapes (6,), in that frame."""
        self.frame = matrix_from_quat(frame[3:])
        self.compliant, self.wrench, self.limits = compliant, wrench, np.abs(limits)
        self.velocity = np.where(compliant, self.velocity, 0.0)

    def step(self, reference: Reference, before: Array, exerted: Array, dt: float) -> None:
        """Turn a cycle of the program's motion into one of force mode.

        Args:
            reference: Moved by the program's motion already; corrected.
            before: Its joint angles before that [rad], shape (6,).
            exerted: Wrench the robot exerts on the world at the tcp, in Base, shape (6,).
            dt: Of the cycle [s].
        """
        reference.q = before
        push = self.gain * self.wrench
        velocity = _force_step(
            before, reference.tcp, reference.qd, exerted, self.place, self.velocity, self.frame, self.compliant,
            push, self.gain, self.limits, (1.0 - min(self.damping, 1.0)) ** (dt / FORCE_CYCLE_S), dt,
        )  # fmt: skip
        reference.advance(velocity, dt)


@njit(cache=True)
def _force_step(  # noqa: PLR0913 (compiled; arrays one by one)
    q: Array,
    tcp: Array,
    program_qd: Array,
    exerted: Array,
    place: Array,
    velocity: Array,
    frame: Array,
    compliant: NDArray[np.bool_],
    push: Array,
    gain: float,
    limits: Array,
    kept: float,
    dt: float,
) -> Array:
    """Joint velocity of one cycle of force mode; `place` and `velocity` are updated."""
    pose, jacobian = forward(q, tcp)
    program = jacobian @ program_qd
    place[:3] += program[:3] * dt
    place[3:] = quat_multiply(quat_from_rotvec(program[3:] * dt), place[3:])
    turned = rotvec_from_quat(quat_multiply(place[3:], quat_conjugate(pose[3:])))
    free_turning = compliant[3] or compliant[4] or compliant[5]
    twist = np.empty(6)
    for part in range(2):
        k = 3 * part
        away = place[:3] - pose[:3] if part == 0 else turned
        hold = frame.T @ (program[k : k + 3] + HOLD_GAIN * away)
        felt = frame.T @ exerted[k : k + 3]
        local = np.empty(3)
        for i in range(3):
            j = k + i
            if compliant[j]:
                faster = kept * velocity[j] + (push[j] - gain * felt[i]) / VIRTUAL_INERTIA[j] * dt
                velocity[j] = min(max(faster, -limits[j]), limits[j])
                local[i] = velocity[j]
            else:
                velocity[j] = 0.0
                local[i] = hold[i]
        twist[k : k + 3] = frame @ local
        if part == 0:  # the place of a compliant axis is wherever it is
            aside = frame.T @ away
            for i in range(3):
                if not compliant[i]:
                    aside[i] = 0.0
            place[:3] -= frame @ aside
    if free_turning:  # rotations are taken together
        place[3:] = pose[3:]
    return damped_solve(jacobian, twist, DAMPING)
