"""Recording demonstrations by hand: wait, record, label, keep or not, reset, again; and nothing is lost to a crash.

Every step goes at once into a journal, a store of its own that holds the episode under way (`<path>.current`). An
episode that is kept is then written to the store as a whole; a journal that a crash left behind is set aside as a store
by itself.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from drivers.teleop.device import Teleop
from robot_rl.store import EpisodeStore
from tasks.env import RobotEnv
from tasks.intervention import Intervention

__all__ = ["Recorder", "Screen", "Summary"]

WAIT_S = 0.03  # between looks at the device while nothing moves
HINT = "enter: success, backspace: failure, Z: record again, escape: stop"


class Screen(Protocol):
    """Where a person sees what is going on."""

    def show(self, status: dict[str, Any], pictures: dict[str, NDArray[np.uint8]] | None = None) -> None:
        """Show it; a `state` that is new may be called out."""
        ...


@dataclass
class Summary:
    """What a session came to.

    Attributes:
        outcomes: How many episodes ended how: success, failure, rerecorded, stopped, fault.
        kept: Episodes in the store now.
        steps: Steps recorded.
        periods_s: Wall time of each step [s].
        ages_s: By camera, how old each recorded picture was [s].
        repeated: By camera, recorded pictures that were the same as the one before.
    """

    outcomes: Counter[str] = field(default_factory=Counter[str])
    kept: int = 0
    steps: int = 0
    periods_s: list[float] = field(default_factory=list[float])
    ages_s: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    repeated: Counter[str] = field(default_factory=Counter[str])

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in self.outcomes.items()) or "none"
        lines = [f"{self.kept} episodes kept; recorded now: {counts}; {self.steps} steps."]
        if self.periods_s:
            p50, p99 = (1000 * np.percentile(self.periods_s, p) for p in (50, 99))
            lines.append(f"step: {p50:.0f} ms at the median, {p99:.0f} ms at the 99th percentile")
        for name, ages in self.ages_s.items():
            p50, p99 = (1000 * np.percentile(ages, p) for p in (50, 99))
            lines.append(
                f"camera {name}: pictures {p50:.0f} ms old at the median, {p99:.0f} ms at the 99th percentile; "
                f"{self.repeated[name]} of {len(ages)} repeated"
            )
        return "\n".join(lines)


class Recorder:
    """One session at a device.

    Args:
        env: With a hand in it.
        device: In that hand.
        path: The store to record into; one that is there is gone on with.
        screen: What the person sees.
        metadata: Written into a new store: `task`, `env` (its options), `operator`.
        keep_failures: Keep episodes that failed too.
        on_step: Told of each step: the observation it was taken from, and what `EpisodeStore.append` was given.

    Attributes:
        summary: Of the session so far.
        stop_requested: Set it (from a signal handler, say) to end after the current step.
        left_behind: Where an episode lies now that a session before was cut off in, or None.

    Raises:
        StoreError: The path is no store of this environment, or cannot be written.
    """

    def __init__(
        self,
        env: Intervention,
        device: Teleop,
        path: str | Path,
        screen: Screen,
        *,
        metadata: dict[str, Any],
        keep_failures: bool = False,
        on_step: Callable[[Any, dict[str, Any]], None] = lambda _observation, _step: None,
    ) -> None:
        self.env, self._device, self._screen = env, device, screen
        self._robot = cast("RobotEnv", env.unwrapped)
        self._metadata, self._keep_failures, self._on_step = metadata, keep_failures, on_step
        self.path, self._current = Path(path), Path(f"{path}.current")
        if self.path.exists():
            self.store = EpisodeStore.open(self.path, write=True)
            self.store.check_spaces(env.observation_space, env.action_space)
        else:
            self.store = self._create(self.path)
        self.left_behind = self._set_aside()
        self.summary = Summary(kept=self.store.episodes)
        self.stop_requested = False
        self._taken_s: dict[str, float] = {}

    def record(self, episodes: int, seed: int = 0) -> Summary:
        """Record until the store holds so many episodes, or the person stops.

        Args:
            episodes: In the store at the end, those it had before among them.
            seed: Of the first reset; each further one takes the next.

        Raises:
            RobotRLError: The disk or a device failed for good. Everything up to the step before is there.
        """
        tried = self.store.episodes  # a session that is gone on with begins where it has not been
        while self.summary.kept < episodes and not self.stop_requested:
            self._show("resetting", "The arm moves to its start.", episodes)
            observation, _ = self.env.reset(seed=seed + tried, options={"place_objects": True})
            tried += 1
            if not self._wait_for_the_person(episodes):
                break
            outcome = self._episode(observation, episodes)
            self.summary.outcomes[outcome] += 1
            self.summary.kept = self.store.episodes
            self._show(outcome, "Kept." if self._keeps(outcome) else "Not kept.", episodes)
        self._show("done", f"{self.summary.kept} episodes lie in {self.path}.", episodes)
        return self.summary

    def close(self) -> None:
        """Commit and close the store."""
        self.store.close()

    def _keeps(self, outcome: str) -> bool:
        return outcome == "success" or (outcome == "failure" and self._keep_failures)

    def _wait_for_the_person(self, episodes: int) -> bool:
        """Until the device is touched; False where the person stops instead."""
        self._device.read()
        while not self.stop_requested:
            self._show("ready", f"Move to begin. {HINT}", episodes)
            reading = self._device.read()
            if "stop" in reading.pressed:
                return False
            if reading.touched:
                return True
            self._robot.hold()
            time.sleep(WAIT_S)
        return False

    def _episode(self, first: Any, episodes: int) -> str:
        """One episode, step by step into the journal, and as a whole into the store where it is kept; how it ended."""
        steps: list[dict[str, Any]] = []
        info: dict[str, Any] = {}
        with self._create(self._current) as journal:
            journal.begin_episode(first, instruction=self._robot.instruction)
            over, observation = False, first
            while not over:
                begun, idle = time.monotonic(), self._idle()
                before = observation
                observation, reward, terminated, truncated, info = self.env.step(idle)
                over = terminated or truncated or self.stop_requested
                step: dict[str, Any] = {
                    "action": info.get("executed_action", idle), "reward": float(reward), "terminated": terminated,
                    "truncated": over and not terminated, "next_observation": observation,
                    "success": bool(info["success"]), "source": "human", "time": time.time(),
                }  # fmt: skip
                journal.append(**step)
                journal.commit()
                steps.append(step)
                self._on_step(before, step)
                self.summary.steps += 1
                self.summary.periods_s.append(time.monotonic() - begun)
                self._look_at_cameras()
                self._show("recording", HINT, episodes, len(steps))
            outcome = self._outcome(info)
            if self._keeps(outcome):
                self.store.begin_episode(first, instruction=self._robot.instruction)
                for step in steps:
                    self.store.append(**step)
                self.store.commit()
        shutil.rmtree(self._current)
        return outcome

    def _outcome(self, info: dict[str, Any]) -> str:
        if info["success"]:
            return "success"
        if "operator_stop" in info or self.stop_requested:
            self.stop_requested = True
            return "stopped"
        return "recorded again" if "discard" in info else "fault" if "fault" in info else "failure"

    def _idle(self) -> NDArray[np.float32]:
        """Stand still, the gripper as it is."""
        action = np.zeros(self.env.action_space.shape or (0,), np.float32)
        if self._robot.task.spec.has_gripper:
            action[6] = -1.0 if self._robot.gripper_closed else 1.0
        return action

    def _look_at_cameras(self) -> None:
        for name, camera in self._robot.cell.cameras.items():
            taken_s = camera.read().time_s
            self.summary.ages_s.setdefault(name, []).append(self._robot.cell.clock.now() - taken_s)
            self.summary.repeated[name] += taken_s == self._taken_s.get(name)
            self._taken_s[name] = taken_s

    def _show(self, state: str, hint: str, episodes: int, step: int = 0) -> None:
        pictures = {name: camera.read().image for name, camera in self._robot.cell.cameras.items()}
        status = {
            "state": state, "hint": hint, "instruction": self._robot.instruction, "step": step,
            "steps": self._robot.task.spec.max_steps, "episode": min(self.summary.kept + 1, episodes),
            "episodes": episodes, "kept": self.summary.kept, **self.summary.outcomes,
        }  # fmt: skip
        self._screen.show(status, pictures)

    def _create(self, path: Path) -> EpisodeStore:
        return EpisodeStore.create(
            path,
            observation_space=self.env.observation_space,
            action_space=self.env.action_space,
            metadata=self._metadata,
        )

    def _set_aside(self) -> Path | None:
        """What a session that died was recording."""
        if not self._current.exists():
            return None
        number = 1
        while (aside := Path(f"{self.path}.unfinished-{number}")).exists():
            number += 1
        self._current.rename(aside)
        return aside
