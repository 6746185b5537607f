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

from drivers.teleop import Clutch, Teleop, TeleopReading
from robot_rl.errors import ConfigError
from robot_rl.geometry import quat_conjugate, quat_rotate
from tasks.env import RobotEnv
from tasks.wrappers import Env, Reset, Step, Wrapper

__all__ = ["DeviceHand", "Hand", "Intervention"]

Array = NDArray[np.float64]
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
        screen: The source that shows the person what is going on; the device's own by default, where it has one.
    """

    def __init__(self, env: RobotEnv, device: Teleop, screen: Any = None) -> None:
        self._env, self.device = env, device
        self._screen = screen or getattr(device, "source", None)
        self._clutch, self._leader_closed = Clutch(device.frame), None
        self._touched_s = -np.inf
        self._closed = False

    def connect(self) -> None:
        """Open the device. Raises ConfigError where it is the arm that is to follow it."""
        own = self._env.cell.address
        if own and own in getattr(self.device, "addresses", ()):
            raise ConfigError(
                f"The leader and the arm that follows it are the same ({own}): nothing was moved. Give the leader the "
                "cell file of another arm: --device leader:cells/left.yaml --cell cells/right.yaml"
            )
        self.device.connect()

    def reset(self) -> None:
        """The policy drives at first, with the gripper as the task begins."""
        self._touched_s = -np.inf
        self._closed = self._env.gripper_closed
        self._clutch.release()
        self._leader_closed = self.device.read().closed  # what was done to it between the episodes does not count

    def act(self, proposed: Action) -> tuple[Action | None, frozenset[str]]:
        """The person's action, while the device is touched and shortly after."""
        reading = self.device.read()
        now = self._env.cell.clock.now()
        asked = self._gripper(reading)
        if asked is not None:
            self._closed = asked
        if reading.touched or asked is not None:
            if now - self._touched_s > KEEPS_S and asked is None:
                self._closed = self._env.gripper_closed  # taking over keeps the gripper as the policy has it
            self._touched_s = now
        said = reading.pressed - {"gripper"}
        mine = now - self._touched_s <= KEEPS_S
        if said or not mine:  # who pauses may move the leader to where it lies better in the hand
            self._clutch.release(reading.pose)
        return self._action(reading) if mine else None, said

    def verdict(self) -> frozenset[str]:
        """The buttons pressed since it was last read."""
        return self.device.read().pressed

    def show(self, status: dict[str, Any], pictures: dict[str, NDArray[np.uint8]]) -> None:
        """On the device's own screen, where it has one (a browser's page)."""
        show = getattr(self._screen, "show", None)
        if show is not None:
            show(status, pictures)

    def close(self) -> None:
        """Let go of the device."""
        self.device.close()

    def _gripper(self, reading: TeleopReading) -> bool | None:
        """Whether it is to be closed; None where nothing new is asked. A leader's counts when it changes."""
        before = self._leader_closed
        if reading.closed is not None:
            self._leader_closed = reading.closed
        if "gripper" in reading.pressed:
            return not self._env.gripper_closed
        return None if before is None or reading.closed == before else reading.closed

    def _action(self, reading: TeleopReading) -> Action:
        deflection, measured = reading.deflection, self._env.arm.state().tcp_pose
        if self.device.frame == "base":
            to_tcp = quat_conjugate(measured[3:])
            deflection = np.concatenate([quat_rotate(to_tcp, part) for part in (deflection[:3], deflection[3:])])
        if reading.pose is None or reading.deflection.any():  # gone, or another device in the same hands drives
            self._clutch.release()
        if reading.pose is not None:
            deflection = deflection + self._led(self._clutch.to_go(reading.pose, measured))
        gripper = [-1.0 if self._closed else 1.0] if self._env.task.spec.has_gripper else []
        return np.clip([*deflection, *gripper], -1.0, 1.0).astype(np.float32)

    def _led(self, to_go: Array) -> Array:
        """What is left of the way, shape (6,), in parts of a full action; one that is too long keeps its direction."""
        parts = [way / full for way, full in zip((to_go[:3], to_go[3:]), self._env.task.spec.action_scale, strict=True)]
        return np.concatenate([part / max(1.0, float(np.abs(part).max())) for part in parts])


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
        told: dict[str, Any] = {
            "state": "did it succeed?",
            "hint": "Time is up. Say success, failure, re-record or stop.",
        }
        while True:
            self._robot.hold()
            self.hand.show({**told, "instruction": self._robot.instruction}, pictures)
            said = self.hand.verdict() & ENDINGS
            if said or self._robot.stopping():
                return said or frozenset({"stop"})
            time.sleep(PAUSED_S)

    def _pause(self, proposed: Action) -> frozenset[str]:
        """Hold the arm until something is said; what, unless it is `pause` again."""
        while True:
            self._robot.hold()  # again and again, or the watchdog takes the silence for a dead program
            time.sleep(PAUSED_S)
            _, said = self.hand.act(proposed)
            if self._robot.stopping():
                return frozenset({"stop"})
            if said:
                return said - {"pause"}
