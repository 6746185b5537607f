"""The synchronous training loop: act, store, update, again; reproducible from a seed and resumable at any step."""

import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.agent import SACAgent
from robot_rl.batch import Batch
from robot_rl.config import TrainConfig
from robot_rl.demonstrations import record, scripted_expert, succeeded
from robot_rl.environments import Env, make, return_range
from robot_rl.errors import ConfigError, RobotRLError
from robot_rl.metrics import MetricsWriter
from robot_rl.observation import ObservationLayout
from robot_rl.progress import TrainingProgress
from robot_rl.replay import ReplayBuffer, sample_mixed
from robot_rl.run_directory import RunDirectory, load_tensors, save_tensors
from robot_rl.store import EpisodeStore

__all__ = ["Trainer", "resolve"]

STOP_WINDOW = 100  # training episodes over which stop_at_success is judged
SMALLEST_STD = 0.01  # of a normalised observation, so that a constant entry does not explode
DEMONSTRATION_SEED = 1_000_000


def resolve(config: TrainConfig) -> TrainConfig:
    """The configuration with everything filled in that depends on the environment.

    Raises:
        ConfigError: The environment cannot be made or learnt in.
    """
    env = make(config.task, config.env)
    try:
        layout = ObservationLayout(env.observation_space)
        if layout.images:
            raise ConfigError(
                f"{config.task} with these options has camera observations ({', '.join(layout.images)}), which the learner "
                "does not use yet. Train with --env.observations state."
            )
        bounds = return_range(env)
        if config.bound_returns and bounds is not None:
            config = replace(config, agent=replace(config.agent, return_min=bounds[0], return_max=bounds[1]))
        if config.demos.isdigit():
            missing = scripted_expert(env, np.random.default_rng(0), 0.0) is None
            config = replace(config, demos="none") if missing or config.demos == "0" else config
        elif config.demos != "none":
            EpisodeStore.open(config.demos).check_spaces(env.observation_space, env.action_space)
            config = replace(config, demos=str(Path(config.demos).resolve()))
    finally:
        env.close()
    return config


class Trainer:
    """One run, from its beginning or from its last checkpoint.

    Args:
        config: Resolved (see `resolve`).
        run: Where everything is written.
        progress: Shown to a person.

    Attributes:
        step: Environment steps taken.
        stop_requested: Set it (from a signal handler, say) to end after the current step.
    """

    def __init__(self, config: TrainConfig, run: RunDirectory, progress: TrainingProgress) -> None:
        self.config, self.run, self.progress = config, run, progress
        self.env: Env = make(config.task, config.env)
        self.layout = ObservationLayout(self.env.observation_space)
        self.agent = SACAgent(self.layout.size, self.env.action_space.shape[0], config.agent, config.seed)  # pyright: ignore[reportOptionalSubscript]
        self.step = self.episode = 0
        self.stop_requested = False
        self._random = np.random.default_rng([config.seed, 1])
        self._sampling = np.random.default_rng([config.seed, 2])
        self._successes: deque[bool] = deque(maxlen=STOP_WINDOW)
        self._learnt: dict[str, Any] = {}
        self._started = self._checkpointed = time.monotonic()
        self._steps_before = self._updates_before = 0

    def train(self) -> str:
        """Train to the end, or until `stop_requested`.

        Returns:
            Why it ended: `steps`, `success` or `stopped`.

        Raises:
            RobotRLError: The disk, the environment or a setting failed. Committed episodes and the last checkpoint stand.
        """
        demonstrations = self._open_demonstrations()
        space, actions = self.env.observation_space, self.env.action_space
        rows = 0 if demonstrations is None else demonstrations.rows
        self.demos = ReplayBuffer(space, actions, rows + self.config.replay_capacity)
        self.online = ReplayBuffer(space, actions, self.config.replay_capacity)
        if demonstrations is not None:
            self.demos.extend_from_store(demonstrations)
        self._batch = self.online.empty_batch(self.config.batch_size)
        resuming = self.run.checkpoint.is_file()
        if resuming:
            self.store = EpisodeStore.open(self.run.episodes, write=True)
        elif self.run.episodes.is_dir():
            raise ConfigError(f"{self.run.path} holds episodes but no checkpoint. Begin anew in another --run.")
        else:
            self._prepare_agent(demonstrations)
            self.store = EpisodeStore.create(
                self.run.episodes, observation_space=space, action_space=actions, metadata={"task": self.config.task}
            )
            self._checkpoint()
        observation = self._restore() if resuming else None
        try:
            with MetricsWriter(
                self.run.metrics, self.config.tensorboard, resume_step=self.step if resuming else None
            ) as self.metrics:
                self.progress.phase("training", self.config.steps)
                return self._loop(observation)
        finally:
            self.env.close()

    def _loop(self, observation: Any) -> str:
        cfg = self.config
        self._started, self._steps_before, self._updates_before = time.monotonic(), self.step, self.agent.updates
        while True:
            reason = self._reason_to_end()
            if reason:
                self.store.commit()
                self._checkpoint()
                self.store.close()
                return reason
            if observation is None:
                observation, _ = self.env.reset(seed=self._episode_seed())
                self._begin(observation)
            action = self._act(observation)
            following, reward, terminated, truncated, info = self.env.step(action)
            self.store.append(
                action=action, reward=float(reward), terminated=terminated, truncated=truncated,
                next_observation=following, success=succeeded(info), policy_version=self.agent.updates,
            )  # fmt: skip
            self._add(action, float(reward), terminated, truncated, following)
            observation = following
            self._update_to(max(0.0, (self.step - cfg.learning_starts) * cfg.utd_ratio))
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
        window = self._successes
        return "success" if len(window) == STOP_WINDOW and np.mean(window) >= self.config.stop_at_success else ""

    def _act(self, observation: Any) -> Any:
        if self.step < self.config.random_steps:
            return self._random.uniform(-1.0, 1.0, self.env.action_space.shape).astype(np.float32)
        return self.agent.act(self.layout.flatten(observation))

    def _begin(self, observation: Any) -> None:
        self.store.begin_episode(observation, instruction=str(getattr(self.env.unwrapped, "instruction", "")))
        self._start_buffers(observation)

    def _start_buffers(self, observation: Any) -> None:
        self.online.begin_episode(observation)
        self._return, self._steps = 0.0, [(observation,)]

    def _add(self, action: Any, reward: float, terminated: bool, truncated: bool, following: Any) -> None:
        self.online.add(action, reward, terminated, truncated, following)
        self._steps.append((action, reward, terminated, truncated, following))
        self._return += reward
        self.step += 1

    def _update_to(self, updates: float) -> None:
        """Critic updates until their number since the first is `updates`: the UTD ratio is kept, not hoped for."""
        cfg = self.config
        while self.agent.updates < int(updates):
            batch: Batch = sample_mixed(
                self.demos, self.online, cfg.batch_size, self._sampling,
                demo_fraction=cfg.demo_fraction, n_step=cfg.n_step, gamma=cfg.gamma, out=self._batch,
            )  # fmt: skip
            self._learnt |= self.agent.update(batch, update_actor=None if self.step >= cfg.actor_starts else False)

    def _end_episode(self, success: bool, info: dict[str, Any]) -> None:
        if success and self.config.keep_successes:
            self.demos.begin_episode(*self._steps[0])
            for step in self._steps[1:]:
                self.demos.add(*step)
        self.store.commit()
        self.episode += 1
        self._successes.append(success)
        if "fault" in info:
            self.run.event("fault", episode=self.episode, step=self.step, message=info["fault"])
        elapsed = max(time.monotonic() - self._started, 1e-9)
        trained = max(self.step - self.config.learning_starts, 0)
        row = {
            "episode_success": float(success),
            "episode_return": self._return,
            "episode_length": len(self._steps) - 1,
            "utd_ratio": self.agent.updates / trained if trained else 0.0,
            "demonstration_fraction": self.config.demo_fraction if len(self.demos) else 0.0,
            "env_steps_per_s": (self.step - self._steps_before) / elapsed,
            "updates_per_s": (self.agent.updates - self._updates_before) / elapsed,
            **{name: float(value) for name, value in self._learnt.items()},
        }
        self.metrics.write(step=self.step, update=self.agent.updates, **row)
        self.progress.update(step=self.step, **row)

    def _episode_seed(self) -> int:
        return int(np.random.SeedSequence([self.config.seed, 3, self.episode]).generate_state(1)[0])

    def _open_demonstrations(self) -> EpisodeStore | None:
        """The demonstrations named in the configuration, recorded first where it names a number."""
        cfg = self.config
        if cfg.demos == "none":
            return None
        if not cfg.demos.isdigit():
            return EpisodeStore.open(cfg.demos)
        wanted = int(cfg.demos)
        if (self.run.demonstrations / "complete").is_file():
            return EpisodeStore.open(self.run.demonstrations)
        self.progress.phase(f"recording {wanted} demonstrations by the task's script", wanted)
        expert = scripted_expert(self.env, np.random.default_rng([cfg.seed, 4]), cfg.demo_noise)
        if expert is None:
            raise ConfigError(f"{cfg.task} has no scripted expert; give --demos PATH or --demos none.")
        store = record(
            self.env, expert, self.run.demonstrations, episodes=wanted, seed=DEMONSTRATION_SEED + 10_000 * cfg.seed,
            task=cfg.task, on_episode=lambda kept, tried: self.progress.update(step=kept),
        )  # fmt: skip
        store.close()
        (self.run.demonstrations / "complete").touch()
        return store

    def _prepare_agent(self, demonstrations: EpisodeStore | None) -> None:
        """Normalisation and behaviour cloning from the demonstrations, before the first step."""
        cfg = self.config
        if demonstrations is None:
            return
        if cfg.normalise:
            observations = self.layout.flatten_columns(demonstrations.read(), (demonstrations.rows,))
            std = np.maximum(observations.std(0), SMALLEST_STD)
            self.agent.set_observation_statistics(observations.mean(0), std)
        if cfg.bc_updates:
            self.progress.phase("behaviour cloning", cfg.bc_updates)
        for update in range(cfg.bc_updates):
            batch = sample_mixed(self.demos, self.online, cfg.batch_size, self._sampling, out=self._batch)
            self.agent.pretrain_bc(batch)
            self.progress.update(step=update + 1)
            if self.stop_requested:
                raise RobotRLError("Stopped before the first environment step; nothing was learnt. Start again.")

    def _checkpoint(self) -> None:
        """Everything needed to go on with the same numbers, in one file; and the policy for whoever acts or evaluates."""
        counters = {
            "step": self.step,
            "episode": self.episode,
            "rows": self.store.rows,
            "successes": [bool(s) for s in self._successes],
            "random": self._random.bit_generator.state,
            "sampling": self._sampling.bit_generator.state,
        }
        save_tensors(self.run.checkpoint, self.agent.state_dict(), counters)
        sizes = {"observation_dim": self.layout.size, "update": self.agent.updates, "step": self.step}
        save_tensors(self.run.policy, self.agent.policy_state(), sizes)
        self._checkpointed = time.monotonic()

    def _restore(self) -> Any:
        """Load the last checkpoint and the episodes; returns the observation to go on from, None between episodes."""
        tensors, facts = load_tensors(self.run.checkpoint)
        self.agent.load_state_dict(tensors)
        self._random.bit_generator.state = facts["random"]
        self._sampling.bit_generator.state = facts["sampling"]
        self._successes.extend(facts["successes"])
        later = self.store.rows - facts["rows"]
        records = self.store.episode_table()
        whole = [r for r in records if r.closed]
        if later:
            self.progress.log(f"{later} rows were stored after the last checkpoint (a crash); they are kept and learnt from.")
            self._successes.extend(r.success for r in whole[facts["episode"] :])
        self.step, self.episode = sum(r.length for r in whole), len(whole)
        end = whole[-1].stop if whole else 0
        self.online.extend_from_store(self.store, 0, end)
        if self.config.keep_successes:
            for r in whole:
                if r.success:
                    self.demos.extend_from_store(self.store, r.start, r.stop)
        return self._replay_open_episode(end) if len(records) > len(whole) else None

    def _replay_open_episode(self, start: int) -> Any:
        """Bring a deterministic environment back to where the open episode stood by repeating its actions."""
        columns = self.store.read(start, self.store.rows)
        observation, _ = self.env.reset(seed=self._episode_seed())
        self._start_buffers(observation)
        stored = self.layout.flatten_columns(columns, (self.store.rows - start,))
        for row in range(self.store.rows - start):
            if not np.array_equal(self.layout.flatten(observation), stored[row]):
                self.progress.log("The environment does not repeat its episode; the interrupted one ends there.")
                self.online.extend_from_store(self.store, start + row, self.store.rows)
                self.step += self.store.rows - start - row
                self.episode += 1
                return None
            observation, reward, terminated, truncated, _ = self.env.step(columns["action"][row])
            self._add(columns["action"][row], float(reward), terminated, truncated, observation)
        return observation


def describe(reason: str, trainer: Trainer) -> str:
    """One sentence about how training ended."""
    told = {
        "steps": f"all {trainer.config.steps} steps are taken",
        "success": f"the last {STOP_WINDOW} episodes succeeded often enough",
        "stopped": f"you stopped it; continue with: robot-rl train --resume {trainer.run.path}",
    }
    return f"Training ended at step {trainer.step}: {told[reason]}."
