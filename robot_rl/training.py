"""The synchronous training loop: act, store, update, again; reproducible from a seed and resumable at any step."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from robot_rl.checkpoints import CheckpointFolder
from robot_rl.config import TrainConfig
from robot_rl.demonstrations import succeeded
from robot_rl.environments import Env, instructions_of
from robot_rl.errors import DeviceError, LinkError, SafetyError, StoreError
from robot_rl.learner import HUMAN, Learner, Skill, sources_of
from robot_rl.metrics import MetricsWriter
from robot_rl.preparation import open_demonstrations
from robot_rl.progress import TrainingProgress
from robot_rl.recording import STOP_WINDOW, checkpoint_if_room, commit_patiently, open_episodes, reason_to_end
from robot_rl.resuming import LoopState, repeat_episode
from robot_rl.rewards.learned import make_with_reward
from robot_rl.rewards.refitting import reward_of
from robot_rl.run_directory import RunDirectory, save_tensors
from robot_rl.verdicts import Verdicts, wrongly_called

__all__ = ["Trainer", "describe", "mark_best", "publish", "publish_best"]

BETTER = 0.03  # share of training episodes; less is chance


class Trainer:
    """One run, from its beginning or from its last checkpoint.

    Args:
        config: Resolved (see `robot_rl.preparation.resolve`).
        run: Where everything is written.
        progress: Shown to a person.

    Attributes:
        state: Counters and random streams.
        stop_requested: Set it (from a signal handler, say) to end after the current step.
    """

    def __init__(self, config: TrainConfig, run: RunDirectory, progress: TrainingProgress) -> None:
        self.config, self.run, self.progress = config, run, progress
        self.env: Env = make_with_reward(config.task, config.env, reward_of(config, run))
        self.state = LoopState(config.seed, STOP_WINDOW)
        self.stop_requested = False
        setattr(self.env.unwrapped, "stopping", self._stopping)  # noqa: B010 (where a person is waited for, it looks)
        self._skill: Skill
        self._verdicts = Verdicts()
        self._return, self._length = 0.0, 0
        self._checkpoints = run.checkpoints
        self._checkpointed = time.monotonic()
        self._published = 0  # at this step

    @property
    def step(self) -> int:
        """Environment steps taken."""
        return self.state.step

    def train(self) -> str:
        """Train to the end, or until `stop_requested`.

        Returns:
            Why it ended: `steps`, `success` or `stopped`.

        Raises:
            RobotRLError: The disk, the environment or a setting failed. Committed steps and the last checkpoint stand.
        """
        try:
            with self.run.learning():
                return self._train()
        except StoreError as error:
            if "holder" in error.fields:  # another process trains this run
                raise
            raise StoreError(
                f"Training stopped at step {self.step}: {error} What was committed before is safe. When that is "
                f"mended, go on with: robot-rl train --resume {self.run.path}",
                **error.fields,
            ) from error
        except (DeviceError, SafetyError, LinkError) as error:
            raise type(error)(
                f"Training stopped at step {self.step}: {error} All steps are saved. When that is mended, go on with: "
                f"robot-rl train --resume {self.run.path}"
            ) from error
        finally:
            self.env.close()

    def _train(self) -> str:
        demonstrations = open_demonstrations(self.config, self.run, self.env, self.progress, self._stopping)
        if self.stop_requested:
            return "stopped"
        resuming = self._checkpoints.exists
        saved = self._checkpoints.load() if resuming else None
        for damaged in self._checkpoints.skipped:
            self.progress.log(f"Passed over a damaged checkpoint: {damaged}")
        self.learner = Learner(
            self.config,
            self.env.observation_space,
            self.env.action_space,
            instructions_of(self.env),
            demonstrations,
            saved,
            self.run.seen,
        )
        if saved is None:
            self.learner.pretrain(self.progress, self._stopping)
            if self.stop_requested:
                return "stopped"
        self.store = open_episodes(self.run, self.config, self.env, resuming)
        try:
            observation = self._restore(saved[1]) if saved else self._checkpoint()
            with MetricsWriter(
                self.run.metrics, self.config.tensorboard, resume_step=self.step if resuming else None
            ) as self.metrics:
                self.progress.phase("training", self.config.steps)
                reason = self._loop(observation)
            self.store.close()
        except (
            BaseException
        ):  # whatever failed, and whoever lost patience: the steps seen since the last commit are worth keeping
            with suppress(StoreError):
                self.store.close()
            raise
        return reason

    def _loop(self, observation: Any) -> str:
        cfg, state = self.config, self.state
        self._started, self._steps_before, self._updates_before = time.monotonic(), self.step, self.learner.updates
        for skill in self.learner.skills.values():
            self._update_to_ratio(skill)  # after a crash, the learner may be behind the episodes
        while True:
            reason = self._reason_to_end()
            if reason:
                self._commit()
                self._checkpoint()
                if reason == "steps":
                    publish_best(self.run, self.learner, state.successes, self.progress)
                return reason
            if observation is None:
                observation, info = self.env.reset(seed=state.episode_seed())
                if "recovered_from" in info:
                    self.run.event("recovered", episode=state.episode, step=self.step, message=info["recovered_from"])
                self._begin(observation)
            action = self._act(observation)
            following, reward, terminated, truncated, info = self.env.step(action)
            action = info.get("executed_action", action)
            self._verdicts.hear(info)
            self.store.append(
                action=action, reward=float(reward), terminated=terminated, truncated=truncated,
                next_observation=following, success=succeeded(info), policy_version=self._skill.agent.updates,
                source=info.get("source", "policy"),
            )  # fmt: skip
            self._add(action, float(reward), bool(terminated), bool(truncated), following)
            self._update_to_ratio(self._skill)
            observation = following
            if terminated or truncated:
                self._end_episode(succeeded(info), info)
                observation = None
            self.progress.update(step=self.step, update=self.learner.updates)
            if cfg.eval_every and self.step // cfg.eval_every > self._published // cfg.eval_every:
                checkpoint_if_room(self._publish, self.progress)
            if time.monotonic() - self._checkpointed > cfg.checkpoint_every_s:
                self._commit()
                self._checkpoint()

    def _reason_to_end(self) -> str:
        if self.stop_requested:
            return "stopped"
        return reason_to_end(self.config, self.step, self.state.successes)

    def _act(self, observation: Any) -> Any:
        if self.step < self.config.random_steps:
            self.learner.policy.see(observation)
            return self.state.random.uniform(-1.0, 1.0, self.env.action_space.shape).astype(np.float32)
        return self.learner.policy.act(observation, self._instruction())

    def _instruction(self) -> str:
        return str(getattr(self.env.unwrapped, "instruction", ""))

    def _begin(self, observation: Any) -> None:
        self.store.begin_episode(observation, instruction=self._instruction())
        self._start_buffers(observation)

    def _start_buffers(self, observation: Any) -> None:
        self._skill = self.learner.skill(self._instruction())
        self._skill.online.begin_episode(observation)
        self.learner.policy.begin_episode()
        self._return, self._length = 0.0, 0

    def _add(self, action: Any, reward: float, terminated: bool, truncated: bool, following: Any) -> None:
        self._skill.online.add(action, reward, terminated, truncated, following)
        self._skill.steps += 1
        self._return, self._length = self._return + reward, self._length + 1
        self.state.step += 1

    def _update_to_ratio(self, skill: Skill) -> None:
        """As many updates as are due: kept, not hoped for."""
        due = skill.updates_due
        for _ in range(due):
            skill.update()
            if due > self.config.utd_ratio + 1 and self.stop_requested:
                return

    def _end_episode(self, success: bool, info: dict[str, Any]) -> None:
        state, skill = self.state, self._skill
        self._commit()
        self._verdicts.write(self.store, self.progress)
        record = self.store.episode_table()[-1]
        sources = sources_of(self.store, record)
        skill.keep_demonstrated(sources, success)
        state.episode += 1
        state.successes.append(success)
        if "label" in info:
            self.run.event("label", episode=state.episode, step=self.step, label=info["label"])
        if "operator_stop" in info:
            self.progress.log("The operator stopped the run.")
            self.stop_requested = True
        if "fault" in info:
            self.progress.log(f"Step {self.step}: the episode ended in a fault: {info['fault']}")
            self.run.event("fault", episode=state.episode, step=self.step, message=info["fault"])
        elapsed = max(time.monotonic() - self._started, 1e-9)
        row = {
            "episode_success": float(success),
            "episode_return": self._return,
            "episode_length": self._length,
            "intervention_rate": float(np.mean(sources == HUMAN)),
            "env_steps_per_s": (self.step - self._steps_before) / elapsed,
            "updates_per_s": (self.learner.updates - self._updates_before) / elapsed,
            **skill.scalars(),
        }
        if self.config.reward:  # what the task itself says is for scoring alone
            row |= wrongly_called(self.store, record)
        if len(self.learner.skills) > 1:
            row["skill"] = list(self.learner.skills.values()).index(skill)
        self.metrics.write(step=self.step, update=self.learner.updates, **row)
        self.progress.update(step=self.step, **row)

    def _commit(self) -> None:
        commit_patiently(self.store, self.progress, self._stopping, getattr(self.env.unwrapped, "hold", None))

    def _stopping(self) -> bool:
        return self.stop_requested

    def _checkpoint(self) -> None:
        """All that is needed to go on with the same numbers, in one file; and the policy for whoever acts."""
        facts = {**self.state.facts(), **self.learner.facts(), "rows": self.store.rows}

        def save() -> None:
            self._checkpoints.save(self.learner.policy.state_dict(), facts)
            mark_best(self._checkpoints, self.state.successes)
            self._publish()

        checkpoint_if_room(save, self.progress) if self._checkpoints.exists else save()
        self._checkpointed = time.monotonic()

    def _publish(self) -> None:
        self._published = self.step  # even where the disk is full: the next one is due later, not at every step
        publish(self.run, self.learner, self.step, self.step)

    def _restore(self, facts: Mapping[str, Any]) -> Any:
        """Take the episodes back in; returns the observation to go on from, None between episodes."""
        state, store = self.state, self.store
        state.restore(facts)
        whole = [record for record in store.episode_table() if record.closed]
        later = store.rows - facts["rows"]
        if later < 0:
            self.progress.log(
                f"{-later} rows that were learnt from before are gone from the store; updates go on once as many steps "
                "have been taken anew."
            )
        if later > 0:
            self.progress.log(f"{later} rows were stored after the last checkpoint; they are kept and learnt from.")
            state.successes.extend(record.success for record in whole[facts["episode"] :])
        state.step, state.episode = sum(record.length for record in whole), len(whole)
        self.progress.phase("reading the stored episodes again", len(whole))  # with cameras this takes a while
        for done, record in enumerate(whole):
            if self.stop_requested:
                raise KeyboardInterrupt  # nothing is new yet
            self.learner.learn_from(store, record, record.start, record.stop)
            self.progress.update(step=done + 1)
        end = whole[-1].stop if whole else 0
        return self._restore_open_episode(end) if store.rows > end else None

    def _restore_open_episode(self, start: int) -> Any:
        rows, layout = self.store.rows, self.learner.policy.layout
        episode = repeat_episode(self.env, layout, self.state.episode_seed(), self.store.read(start, rows))
        if episode is not None:
            self._start_buffers(episode.first)
            for step in episode.steps:
                self._add(*step)
            *seen, observation = episode.observations
            self.learner.policy.begin_episode(seen)
            return observation
        self.progress.log("The environment does not repeat itself; the interrupted episode ends where it was.")
        self.state.step += rows - start
        self.state.episode += 1
        observation, _ = self.env.reset(seed=self.state.episode_seed())
        self.store.begin_episode(observation, instruction=self._instruction())
        self.store.commit()  # with the interrupted episode's last observation as its final row
        interrupted = next(record for record in self.store.episode_table() if record.start == start)
        self.learner.learn_from(self.store, interrupted, start, self.store.rows)
        self._start_buffers(observation)
        return observation


def publish(run: RunDirectory, learner: Learner, step: int, settled: int) -> None:
    """Write the policy for whoever acts: replaced atomically, the newest wins.

    Args:
        run: Where.
        learner: Whose policy.
        step: Environment steps learnt from.
        settled: Those of them for which every update is made.
    """
    facts = {
        "observation_dim": learner.policy.layout.size,
        "instructions": list(learner.skills),
        "update": learner.updates,
        "updates": [skill.agent.updates for skill in learner.skills.values()],
        "step": step,
        "settled": settled,
    }
    save_tensors(run.policy, learner.policy.policy_state(), facts)


def mark_best(checkpoints: CheckpointFolder, successes: Sequence[bool]) -> None:
    """Score the newest checkpoint by the training episodes before it, once there are enough of them."""
    if len(successes) == STOP_WINDOW:
        checkpoints.mark_best(float(np.mean(successes)))


def publish_best(run: RunDirectory, learner: Learner, successes: Sequence[bool], progress: TrainingProgress) -> None:
    """At a run's end, publish the best checkpoint's policy where training did clearly better then than at last.

    Args:
        run: Whose checkpoints.
        learner: Takes the best checkpoint over where that is published; the checkpoints keep the last one too.
        successes: Of the last training episodes.
        progress: Says so.
    """
    checkpoints, last = run.checkpoints, float(np.mean(successes)) if successes else 0.0
    best = checkpoints.best
    if best is None or best.score < last + BETTER:
        return
    tensors, facts = checkpoints.load_best()
    learner.policy.load_state_dict(tensors)
    publish(run, learner, facts["step"], facts["step"])
    progress.log(
        f"The policy of step {facts['step']} is published: {best.score:.0%} of the {STOP_WINDOW} training episodes "
        f"before it succeeded, of the last ones {last:.0%}."
    )


def describe(reason: str, trainer: Trainer) -> str:
    """One sentence about how training ended."""
    told = {
        "steps": f"all {trainer.config.steps} steps are taken",
        "success": f"the last {STOP_WINDOW} episodes succeeded often enough",
        "stopped": f"you stopped it; it is saved. Go on with: robot-rl train --resume {trainer.run.path}",
    }
    return f"Training ended at step {trainer.step}: {told[reason]}."
