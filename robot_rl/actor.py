"""The acting half of an asynchronous run: policy to arm to store, at the arm's pace, whatever the learner does.

It meets the learner in the run directory alone: it appends steps to `episodes/` and takes the newest `policy/`. It may
be stopped, killed and started again at any moment; so may the learner.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from robot_rl.config import TrainConfig
from robot_rl.demonstrations import succeeded
from robot_rl.environments import Env
from robot_rl.errors import StoreError
from robot_rl.policy import Policy
from robot_rl.preparation import open_demonstrations
from robot_rl.progress import TrainingProgress
from robot_rl.recording import STOP_WINDOW, commit_patiently, open_episodes, reason_to_end
from robot_rl.resuming import LoopState, repeat_episode
from robot_rl.rewards.learned import make_with_reward
from robot_rl.rewards.refitting import reward_of
from robot_rl.run_directory import RunDirectory, load_tensors
from robot_rl.store.writer import COMMIT
from robot_rl.verdicts import Verdicts

__all__ = ["Actor", "NewestPolicy"]

COMMIT_EVERY_S = 1.0  # steps younger than this may be lost when the actor is killed
LOOK_EVERY_S = 0.2  # while waiting for the learner's first policy
TELL_S = 5.0  # of waiting for the learner, before it is said
LEAD = 50  # steps that acting may be ahead of the learner when an episode begins, where the UTD ratio is enforced


class NewestPolicy:
    """The policy as last published, taken over whenever there is a newer one.

    Args:
        run: Where it is published.
        config: Of the run.
        env: Whose spaces it fits.

    Attributes:
        versions: Critic updates of each instruction's agent, as published.
        settled: Environment steps for which the learner had made every update due.
    """

    def __init__(self, run: RunDirectory, config: TrainConfig, env: Env) -> None:
        self._path, self._config, self._env = run.policy, config, env
        self._stamp = (0, 0)
        self._policy: Policy | None = None
        self.versions: dict[str, int] = {}
        self.settled = 0

    def refresh(self) -> bool:
        """Look for a newer one; returns whether there is any policy yet."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return self._policy is not None
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            try:
                tensors, facts = load_tensors(self._path)
            except StoreError:  # damaged: the learner publishes the next one over it
                self._stamp = stamp
                return self._policy is not None
            if self._policy is None:
                self._policy = Policy.load(self._config, self._env, tensors)
                self._policy.deterministic = False
            self._policy.load_policy_state(tensors)
            self.versions = dict(zip(facts["instructions"], facts["updates"], strict=True))
            self.settled = int(facts["settled"])
            self._stamp = stamp
        return True

    @property
    def policy(self) -> Policy:
        """What acts.

        Raises:
            StoreError: None was published yet.
        """
        if self._policy is None:
            raise StoreError(f"{self._path} does not exist yet: the learner has published no policy.")
        return self._policy

    def version(self, instruction: str) -> int:
        """Critic updates of the agent that acts."""
        return self.versions.get(instruction, next(iter(self.versions.values()), 0))


class Actor:
    """One process that acts.

    Args:
        config: Of the run, resolved.
        run: The run.
        progress: Shown to a person.

    Attributes:
        stop_requested: Set it (from a signal handler, say) to end after the current step.
        waited_s: Seconds spent waiting for the learner between episodes.
    """

    def __init__(self, config: TrainConfig, run: RunDirectory, progress: TrainingProgress) -> None:
        self.config, self.run, self.progress = config, run, progress
        self.env: Env = make_with_reward(config.task, config.env, reward_of(config, run))
        self.state = LoopState(config.seed, STOP_WINDOW)
        self.stop_requested = False
        setattr(self.env.unwrapped, "stopping", self._stopping)  # noqa: B010 (where a person is waited for, it looks)
        self.waited_s = 0.0
        self._newest = NewestPolicy(run, config, self.env)
        self._verdicts = Verdicts()
        self._committed = 0.0

    def act(self) -> str:
        """Act to the end of the run, or until `stop_requested`.

        Returns:
            Why it ended: `steps`, `success` or `stopped`.

        Raises:
            RobotRLError: The disk, the environment or a setting failed. Committed steps stand.
        """
        try:
            self.store = open_episodes(self.run, self.config, self.env, (self.run.episodes / COMMIT).is_file())
            with self.store:
                return self._act()
        finally:
            self.env.close()

    def _act(self) -> str:
        open_demonstrations(self.config, self.run, self.env, self.progress, self._stopping)
        self.progress.phase("waiting for the learner's first policy (robot-rl learner RUN)")
        while not self._newest.refresh():
            if self.stop_requested:
                return "stopped"
            time.sleep(LOOK_EVERY_S)
        observation = self._continue()
        self.progress.phase("acting", self.config.steps)
        while True:
            reason = self._reason_to_end()
            if reason:
                self._commit()
                return reason
            if observation is None:
                self._wait_for_learner()
                observation, info = self.env.reset(seed=self.state.episode_seed())
                if "recovered_from" in info:
                    self._event("recovered", info["recovered_from"])
                self.store.begin_episode(observation, instruction=self._instruction())
                self._newest.policy.begin_episode()
            observation = self._step(observation)

    def _step(self, observation: Any) -> Any:
        """One step; returns the observation to go on from, None at an episode's end."""
        instruction = self._instruction()
        self._newest.refresh()
        if self.state.step < self.config.random_steps:
            self._newest.policy.see(observation)
            action = self.state.random.uniform(-1.0, 1.0, self.env.action_space.shape).astype(np.float32)
        else:
            action = self._newest.policy.act(observation, instruction)
        following, reward, terminated, truncated, info = self.env.step(action)
        self._verdicts.hear(info)
        self.store.append(
            action=info.get("executed_action", action), reward=float(reward), terminated=terminated,
            truncated=truncated, next_observation=following, success=succeeded(info),
            policy_version=self._newest.version(instruction), source=info.get("source", "policy"),
        )  # fmt: skip
        self.state.step += 1
        over = terminated or truncated
        if over or time.monotonic() - self._committed > COMMIT_EVERY_S:
            self._commit()
        self.progress.update(step=self.state.step)
        if not over:
            return following
        self._verdicts.write(self.store, self.progress)
        self.state.episode += 1
        self.state.successes.append(succeeded(info))
        if "label" in info:
            self._event("label", info["label"])
        if "operator_stop" in info:
            self.progress.log("The operator stopped the run.")
            self.stop_requested = True
        if "fault" in info:
            self.progress.log(f"Step {self.state.step}: the episode ended in a fault: {info['fault']}")
            self._event("fault", info["fault"])
        return None

    def _continue(self) -> Any:
        """Count what is stored; returns the observation to go on from where an episode was cut and repeats itself."""
        whole = [record for record in self.store.episode_table() if record.closed]
        self.state.step, self.state.episode = sum(r.length for r in whole), len(whole)
        self.state.successes.extend(record.success for record in whole)
        for agent in self._newest.policy.agents.values():
            agent.reseed_exploration(self.config.seed + 1_000_003 * (self.state.step + 1))
        self.state.random = np.random.default_rng([self.config.seed, 1, self.state.step])
        end = whole[-1].stop if whole else 0
        rows = self.store.rows - end
        if not rows:
            return None
        layout = self._newest.policy.layout
        episode = repeat_episode(self.env, layout, self.state.episode_seed(), self.store.read(end, self.store.rows))
        self.state.step += rows
        if episode is not None:
            *seen, observation = episode.observations
            self._newest.policy.begin_episode(seen)
            return observation
        self.progress.log("The environment does not repeat itself; the interrupted episode ends where it was.")
        self.state.episode += 1
        self.state.successes.append(False)
        return None

    def _wait_for_learner(self) -> None:
        """Between episodes, while the arm stands at rest: let an enforced UTD ratio catch up."""
        if self.config.utd == "free":
            return
        began = time.monotonic()
        told = False
        while self._newest.settled < self.state.step - LEAD and not self.stop_requested:
            time.sleep(0.01)
            self._newest.refresh()
            if not told and time.monotonic() - began > TELL_S:
                told = True
                self.progress.log(
                    f"Step {self.state.step}: waiting for the learner, which has published what it made of step "
                    f"{self._newest.settled} (robot-rl learner {self.run.path})."
                )
        self.waited_s += time.monotonic() - began

    def _commit(self) -> None:
        hold: Callable[[], None] | None = getattr(self.env.unwrapped, "hold", None)
        commit_patiently(self.store, self.progress, self._stopping, hold)
        self._committed = time.monotonic()

    def _reason_to_end(self) -> str:
        if self.stop_requested:
            return "stopped"
        return reason_to_end(self.config, self.state.step, self.state.successes)

    def _instruction(self) -> str:
        return str(getattr(self.env.unwrapped, "instruction", ""))

    def _event(self, kind: str, message: str) -> None:
        self.run.event(kind, episode=self.state.episode, step=self.state.step, message=message)

    def _stopping(self) -> bool:
        return self.stop_requested
