"""A person's hand on the arm: touch the device and you drive, let go and the policy does.

What was executed is what the learner must know: `info["executed_action"]`, in the policy's own frame and scale, and
`info["source"]` (`human` or absent). What a person says ends an episode: success (terminated, reward 1), failure
(terminated, reward 0), re-record (truncated, `info["discard"]`), stop (truncated, `info["operator_stop"]`); pause holds
the arm until it is said again.
"""

import time
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from drivers.teleop.device import Teleop, TeleopReading
from robot_rl.geometry import quat_conjugate, quat_rotate
from tasks.env import RobotEnv
from tasks.wrappers import Env, Reset, Step, Wrapper

__all__ = ["DeviceHand", "Hand", "Intervention"]

Action = NDArray[np.float32]

KEEPS_S = (
    0.5  # that a person has the arm after the last touch, so that a short pause does not hand it back (SERL's figure)
)
ENDINGS = frozenset({"success", "failure", "rerecord", "stop"})  # what ends an episode when it is said
PAUSED_S = 0.05  # between looks at the device while paused


class Hand(Protocol):
    """Whoever may take over from the policy."""

    def connect(self) -> None:
        """Begin to watch."""
        ...

    def reset(self) -> None:
        """A new episode begins."""
        ...

    def act(self, proposed: Action) -> tuple[Action | None, frozenset[str]]:
        """What to do instead of the proposed action, or None to let it be; and what was said (`BUTTONS`)."""
        ...

    def verdict(self) -> frozenset[str]:
        """What it says now that it is asked whether it succeeded; nothing yet is empty."""
        ...

    def show(self, status: dict[str, Any], pictures: dict[str, NDArray[np.uint8]]) -> None:
        """Let whoever it is see what is going on."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class DeviceHand:
    """A person at a device.

    Args:
        env: Whose arm moves.
        device: In the person's hand.
    """

    def __init__(self, env: RobotEnv, device: Teleop) -> None:
        self._env, self.device = env, device
        self._touched_s = -np.inf
        self._closed = False

    def connect(self) -> None:
        """Open the device."""
        self.device.connect()

    def reset(self) -> None:
        """The policy drives at first, with the gripper as the task begins."""
        self._touched_s = -np.inf
        self._closed = self._env.gripper_closed
        self.device.read()  # what was done to it between the episodes does not count

    def act(self, proposed: Action) -> tuple[Action | None, frozenset[str]]:
        """The person's action, while the device is touched and shortly after."""
        reading = self.device.read()
        now = self._env.cell.clock.now()
        if "gripper" in reading.pressed:
            self._closed = not self._env.gripper_closed
        if reading.touched:
            if now - self._touched_s > KEEPS_S and "gripper" not in reading.pressed:
                self._closed = self._env.gripper_closed  # taking over keeps the gripper as the policy has it
            self._touched_s = now
        said = reading.pressed - {"gripper"}
        if now - self._touched_s > KEEPS_S:
            return None, said
        return self._action(reading), said

    def verdict(self) -> frozenset[str]:
        """The buttons pressed since it was last read."""
        return self.device.read().pressed

    def show(self, status: dict[str, Any], pictures: dict[str, NDArray[np.uint8]]) -> None:
        """On the device's own screen, where it has one (a browser's page)."""
        show = getattr(getattr(self.device, "source", None), "show", None)
        if show is not None:
            show(status, pictures)

    def close(self) -> None:
        """Let go of the device."""
        self.device.close()

    def _action(self, reading: TeleopReading) -> Action:
        deflection = reading.deflection
        if self.device.frame == "base":
            to_tcp = quat_conjugate(self._env.arm.state().tcp_pose[3:])
            deflection = np.concatenate([quat_rotate(to_tcp, part) for part in (deflection[:3], deflection[3:])])
        gripper = [-1.0 if self._closed else 1.0] if self._env.task.spec.has_gripper else []
        return np.clip([*deflection, *gripper], -1.0, 1.0).astype(np.float32)


class Intervention(Wrapper):
    """Lets a hand take over.

    Args:
        env: Around a `RobotEnv`.
        hand: Whose.
        ends: Whether a word ends the episode; else it only stands in `info["said"]`.
        asks: When time is up, whether the arm holds until success or failure is said.
    """

    def __init__(self, env: Env, hand: Hand, *, ends: bool = True, asks: bool = False) -> None:
        super().__init__(env)
        self.hand, self._ends, self._asks = hand, ends, asks
        self._robot, self._steps = cast("RobotEnv", env.unwrapped), 0
        hand.connect()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode."""
        first = self.env.reset(seed=seed, options=options)
        self._steps = 0
        self.hand.reset()
        return first

    def step(self, action: Action) -> Step:
        """One step: the hand's action where it has the arm, else `action`."""
        own, said = self.hand.act(action)
        if "pause" in said:
            said |= self._pause(action)
        executed = action if own is None else own
        observation, reward, terminated, truncated, info = self.env.step(executed)
        self._steps += 1
        self.hand.show(
            {
                "state": "the policy drives" if own is None else "you drive", "hint": "Touch the device to take over.",
                "instruction": self._robot.instruction, "step": self._steps, "steps": self._robot.task.spec.max_steps,
            },
            observation.get("images", {}),
        )  # fmt: skip
        if own is not None:
            info["source"], info["executed_action"] = "human", own
        if self._asks and (terminated or truncated) and "fault" not in info and not said & ENDINGS:
            said |= self._ask(observation.get("images", {}))
        if said:
            info["said"] = sorted(said)
        if not self._ends:
            return observation, reward, terminated, truncated, info
        if "success" in said or "failure" in said:
            succeeded = "success" in said
            info.update(success=succeeded, label="success" if succeeded else "failure")
            info.pop("time_limit", None)
            return observation, float(succeeded), True, False, info
        if "rerecord" in said:
            info["discard"] = truncated = True
        if "stop" in said:
            info["operator_stop"] = truncated = True
        return observation, reward, terminated, truncated and not terminated, info

    def close(self) -> None:
        """Let go of the device, then of the cell."""
        self.hand.close()
        super().close()

    def _ask(self, pictures: dict[str, NDArray[np.uint8]]) -> frozenset[str]:
        """Hold the arm until it is said what became of the episode."""
        told: dict[str, Any] = {"state": "did it succeed?", "hint": "Time is up. Say success or failure."}
        while True:
            self._robot.hold()
            self.hand.show({**told, "instruction": self._robot.instruction}, pictures)
            said = self.hand.verdict() & ENDINGS
            if said:
                return said
            time.sleep(PAUSED_S)

    def _pause(self, proposed: Action) -> frozenset[str]:
        """Hold the arm until something is said; what, unless it is `pause` again."""
        while True:
            self._robot.hold()  # again and again, or the watchdog takes the silence for a dead program
            time.sleep(PAUSED_S)
            _, said = self.hand.act(proposed)
            if said:
                return said - {"pause"}
