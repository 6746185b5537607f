"""The synchronous training loop: act, store, update, again; reproducible from a seed and resumable at any step."""

import shutil
import time
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from robot_rl.agent import SACAgent
from robot_rl.config import TrainConfig
from robot_rl.demonstrations import succeeded
from robot_rl.environments import Env, make
from robot_rl.errors import ConfigError, DeviceError, LinkError, SafetyError, StoreError
from robot_rl.metrics import MetricsWriter
from robot_rl.observation import ObservationLayout
from robot_rl.preparation import normalise, open_demonstrations
from robot_rl.progress import TrainingProgress
from robot_rl.replay import ReplayBuffer, sample_mixed
from robot_rl.resuming import LoopState, Step, ended_in_success, repeat_episode
from robot_rl.run_directory import RunDirectory, load_tensors, save_tensors
from robot_rl.store import EpisodeStore
from robot_rl.store_writer import COMMIT

__all__ = ["Trainer", "describe"]

STOP_WINDOW = 100  # training episodes over which stop_at_success is judged


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
        # The kernels bring threads of their own; torch's would only spin beside them, at a cost where cores are few.
        torch.set_num_threads(1)
        self.config, self.run, self.progress = config, run, progress
        self.env: Env = make(config.task, config.env)
        self.layout = ObservationLayout(self.env.observation_space)
        (actions,) = self.env.action_space.shape or (0,)
        self.agent = SACAgent(self.layout.size, actions, config.agent, config.seed)
        self.state = LoopState(config.seed, STOP_WINDOW)
        self.stop_requested = False
        self._return, self._first, self._steps = 0.0, None, list[Step]()
        self._checkpointed = time.monotonic()

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
            return self._train()
        except StoreError as error:
            if "holder" in error.fields:  # another process trains this run
                raise
            reason = str(error).split(". ")[0]
            raise StoreError(
                f"Training stopped at step {self.step}: {reason}. What was committed before is safe. When that is "
                f"mended (a full disk: free some space), go on with: robot-rl train --resume {self.run.path}",
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
        space, actions, capacity = self.env.observation_space, self.env.action_space, self.config.replay_capacity
        self.demos = ReplayBuffer(space, actions, capacity + (0 if demonstrations is None else demonstrations.rows))
        self.online = ReplayBuffer(space, actions, capacity)
        if demonstrations is not None:
            self.demos.extend_from_store(demonstrations)
        self._batch = self.online.empty_batch(self.config.batch_size)
        resuming = self.run.checkpoint.is_file()
        if not resuming:
            self._pretrain(demonstrations)
            if self.stop_requested:
                return "stopped"
        self.store = self._open_episodes(resuming)
        try:
            observation = self._restore() if resuming else self._checkpoint()
            with MetricsWriter(
                self.run.metrics, self.config.tensorboard, resume_step=self.step if resuming else None
            ) as self.metrics:
                self.progress.phase("training", self.config.steps)
                reason = self._loop(observation)
            self.store.close()
        except Exception:  # whatever failed, the steps seen since the last commit are worth keeping
            with suppress(StoreError):
                self.store.close()
            raise
        return reason

    def _open_episodes(self, resuming: bool) -> EpisodeStore:
        path = self.run.episodes
        if not resuming and path.is_dir():
            if (path / COMMIT).is_file() and EpisodeStore.open(path).rows:
                raise ConfigError(f"{self.run.path} holds episodes but no checkpoint. Begin anew in another --run.")
            shutil.rmtree(path)  # its making was cut short before the first step
        if resuming:
            return EpisodeStore.open(path, write=True)
        space, actions = self.env.observation_space, self.env.action_space
        return EpisodeStore.create(
            path,
            observation_space=space,
            action_space=actions,
            metadata={"task": self.config.task, "env": self.config.env},
        )

    def _loop(self, observation: Any) -> str:
        cfg, state = self.config, self.state
        self._started, self._steps_before, self._updates_before = time.monotonic(), self.step, self.agent.updates
        self._update_to_ratio()  # after a crash, the learner may be behind the episodes
        while True:
            reason = self._reason_to_end()
            if reason:
                self.store.commit()
                self._checkpoint()
                return reason
            if observation is None:
                observation, info = self.env.reset(seed=state.episode_seed())
                if "recovered_from" in info:
                    self.run.event("recovered", episode=state.episode, step=self.step, message=info["recovered_from"])
                self._begin(observation)
            action = self._act(observation)
            following, reward, terminated, truncated, info = self.env.step(action)
            self.store.append(
                action=action, reward=float(reward), terminated=terminated, truncated=truncated,
                next_observation=following, success=succeeded(info), policy_version=self.agent.updates,
            )  # fmt: skip
            self._add((action, float(reward), bool(terminated), bool(truncated), following))
            self._update_to_ratio()
            observation = following
            if terminated or truncated:
                self._end_episode(succeeded(info), info)
                observation = None
            self.progress.update(step=self.step, update=self.agent.updates)
            if time.monotonic() - self._checkpointed > cfg.checkpoint_every_s:
                self.store.commit()
                self._checkpoint()

    def _reason_to_end(self) -> str:
        if self.stop_requested:
            return "stopped"
        if self.step >= self.config.steps:
            return "steps"
        window = self.state.successes
        return "success" if len(window) == STOP_WINDOW and np.mean(window) >= self.config.stop_at_success else ""

    def _act(self, observation: Any) -> Any:
        if self.step < self.config.random_steps:
            return self.state.random.uniform(-1.0, 1.0, self.env.action_space.shape).astype(np.float32)
        return self.agent.act(self.layout.flatten(observation))

    def _begin(self, observation: Any) -> None:
        self.store.begin_episode(observation, instruction=str(getattr(self.env.unwrapped, "instruction", "")))
        self._start_buffers(observation)

    def _start_buffers(self, observation: Any) -> None:
        self.online.begin_episode(observation)
        self._return, self._first, self._steps = 0.0, observation, []

    def _add(self, step: Step) -> None:
        self.online.add(*step)
        self._steps.append(step)
        self._return += step[1]
        self.state.step += 1

    def _update_to_ratio(self) -> None:
        """Critic updates until their number is `utd_ratio` times the steps since learning started: kept, not hoped for.

        With neither demonstrations nor a whole transition there is nothing to learn from; those updates follow.
        """
        cfg, state = self.config, self.state
        wanted = int(max(0.0, (self.step - cfg.learning_starts) * cfg.utd_ratio))
        behind = wanted - self.agent.updates > cfg.utd_ratio + 1
        while self.agent.updates < wanted and len(self.demos) + len(self.online):
            batch = sample_mixed(
                self.demos, self.online, cfg.batch_size, state.sampling,
                demo_fraction=cfg.demo_fraction, n_step=cfg.n_step, gamma=cfg.gamma, out=self._batch,
            )  # fmt: skip
            state.learnt |= self.agent.update(batch, update_actor=None if self.step >= cfg.actor_starts else False)
            if behind and self.stop_requested:
                return

    def _end_episode(self, success: bool, info: dict[str, Any]) -> None:
        state = self.state
        if success and self.config.keep_successes:
            self.demos.begin_episode(self._first)
            for step in self._steps:
                self.demos.add(*step)
        self.store.commit()
        state.episode += 1
        state.successes.append(success)
        if "fault" in info:
            self.progress.log(f"Step {self.step}: the episode ended in a fault: {info['fault']}")
            self.run.event("fault", episode=state.episode, step=self.step, message=info["fault"])
        elapsed = max(time.monotonic() - self._started, 1e-9)
        trained = max(self.step - self.config.learning_starts, 0)
        row = {
            "episode_success": float(success),
            "episode_return": self._return,
            "episode_length": len(self._steps),
            "utd_ratio": self.agent.updates / trained if trained else 0.0,
            "demonstration_fraction": self.config.demo_fraction if len(self.demos) else 0.0,
            "env_steps_per_s": (self.step - self._steps_before) / elapsed,
            "updates_per_s": (self.agent.updates - self._updates_before) / elapsed,
            **{name: float(value) for name, value in state.learnt.items()},
        }
        self.metrics.write(step=self.step, update=self.agent.updates, **row)
        self.progress.update(step=self.step, **row)

    def _pretrain(self, demonstrations: EpisodeStore | None) -> None:
        """Normalisation and behaviour cloning from the demonstrations, before the first step."""
        cfg, online = self.config, self.online
        if demonstrations is not None and cfg.normalise:
            normalise(self.agent, self.layout, demonstrations)
        updates = 0 if demonstrations is None else cfg.bc_updates
        if updates:
            self.progress.phase("behaviour cloning", updates)
        for update in range(updates):
            if self.stop_requested:
                return
            self.agent.pretrain_bc(
                sample_mixed(self.demos, online, cfg.batch_size, self.state.sampling, out=self._batch)
            )
            self.progress.update(step=update + 1)
        if updates and cfg.agent.imitation_bootstrap:
            self.agent.freeze_imitation()

    def _stopping(self) -> bool:
        return self.stop_requested

    def _checkpoint(self) -> None:
        """All that is needed to go on with the same numbers, in one file; and the policy for whoever acts."""
        save_tensors(self.run.checkpoint, self.agent.state_dict(), {**self.state.facts(), "rows": self.store.rows})
        sizes = {"observation_dim": self.layout.size, "update": self.agent.updates, "step": self.step}
        save_tensors(self.run.policy, self.agent.policy_state(), sizes)
        self._checkpointed = time.monotonic()

    def _restore(self) -> Any:
        """Load the last checkpoint and the episodes; returns the observation to go on from, None between episodes."""
        tensors, facts = load_tensors(self.run.checkpoint)
        self.agent.load_state_dict(tensors)
        state, store = self.state, self.store
        state.restore(facts)
        whole = [record for record in store.episode_table() if record.closed]
        outcomes = ended_in_success(store, whole)
        later = store.rows - facts["rows"]
        if later:
            self.progress.log(f"{later} rows were stored after the last checkpoint; they are kept and learnt from.")
            state.successes.extend(outcomes[facts["episode"] :])
        state.step, state.episode = sum(record.length for record in whole), len(whole)
        end = whole[-1].stop if whole else 0
        self.online.extend_from_store(store, 0, end)
        if self.config.keep_successes:
            for record, success in zip(whole, outcomes, strict=True):
                if success:
                    self.demos.extend_from_store(store, record.start, record.stop)
        return self._restore_open_episode(end) if store.rows > end else None

    def _restore_open_episode(self, start: int) -> Any:
        rows = self.store.rows
        episode = repeat_episode(self.env, self.layout, self.state.episode_seed(), self.store.read(start, rows))
        if episode is not None:
            self._start_buffers(episode.first)
            for step in episode.steps:
                self._add(step)
            return episode.steps[-1][-1]
        self.progress.log("The environment does not repeat itself; the interrupted episode ends where it was.")
        self.state.step += rows - start
        self.state.episode += 1
        observation, _ = self.env.reset(seed=self.state.episode_seed())
        self.store.begin_episode(observation, instruction=str(getattr(self.env.unwrapped, "instruction", "")))
        self.store.commit()  # with the interrupted episode's last observation as its final row
        self.online.extend_from_store(self.store, start, self.store.rows)
        self._start_buffers(observation)
        return observation


def describe(reason: str, trainer: Trainer) -> str:
    """One sentence about how training ended."""
    told = {
        "steps": f"all {trainer.config.steps} steps are taken",
        "success": f"the last {STOP_WINDOW} episodes succeeded often enough",
        "stopped": f"you stopped it; it is saved. Go on with: robot-rl train --resume {trainer.run.path}",
    }
    return f"Training ended at step {trainer.step}: {told[reason]}."
