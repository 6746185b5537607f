"""What learns in a run: one skill for each instruction, each with its agent, its demonstrations and its own steps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robot_rl.agents.batch import Batch
from robot_rl.agents.flow import FlowAgent
from robot_rl.agents.sac import SACAgent
from robot_rl.config import TrainConfig
from robot_rl.observation import ObservationLayout
from robot_rl.policy import Policy
from robot_rl.progress import TrainingProgress
from robot_rl.replay.buffer import ReplayBuffer, sample_mixed
from robot_rl.store import EpisodeStore
from robot_rl.store.layout import SOURCES
from robot_rl.store.records import EpisodeRecord
from robot_rl.tensor_files import load_tensors

__all__ = ["HUMAN", "Learner", "Skill", "sources_of"]

POLICY = "policy/policy.safetensors"  # of a run
HUMAN = SOURCES.index("human")
SMALLEST_STD = 0.01  # of a normalised observation, so that a constant entry does not explode
TYPICAL_PICTURES = 400  # of the demonstrations, to fit the projection of features on


class Skill:
    """One policy in the making.

    Args:
        config: Of the run.
        agent: What learns.
        buffers: Of demonstrations, and of the run's own steps.
        sampling: Draws the batches.

    Attributes:
        steps: Environment steps of this skill.
        longest_demonstration: In steps; 0 without demonstrations.
        learnt: The latest value of each of the agent's scalars.
    """

    def __init__(
        self,
        config: TrainConfig,
        agent: SACAgent | FlowAgent,
        buffers: tuple[ReplayBuffer, ReplayBuffer],
        sampling: np.random.Generator,
    ) -> None:
        self.config, self.agent, self.sampling = config, agent, sampling
        self.demos, self.online = buffers
        self.steps = self.longest_demonstration = 0
        self.learnt: dict[str, Any] = {}
        self._batch = self.online.empty_batch(config.batch_size)

    def sample(self) -> Batch:
        """A batch of demonstrations and own steps, on the agent's device; the next call overwrites it."""
        cfg = self.config
        if isinstance(self.agent, FlowAgent):
            return _moved(self.demos.sample_chunks(self.sampling, cfg.agent.chunk, self._batch), cfg.device)
        batch = sample_mixed(
            self.demos, self.online, cfg.batch_size, self.sampling,
            demo_fraction=cfg.demo_fraction, n_step=cfg.n_step, gamma=cfg.gamma, out=self._batch,
        )  # fmt: skip
        return _moved(batch, cfg.device)

    @property
    def updates_due(self) -> int:
        """Critic updates until their number is `utd_ratio` times the steps since learning started.

        With neither demonstrations nor a whole transition there is nothing to learn from; those updates follow.
        """
        wanted = int(max(0.0, (self.steps - self.config.learning_starts) * self.config.utd_ratio))
        return max(0, wanted - self.agent.updates) if len(self.demos) + len(self.online) else 0

    def update(self) -> None:
        """One gradient step."""
        assert isinstance(self.agent, SACAgent)
        self.learnt |= self.agent.update(
            self.sample(), update_actor=None if self.steps >= self.config.actor_starts else False
        )

    def keep_demonstrated(self, sources: NDArray[np.uint8], success: bool) -> None:
        """Of the episode that is newest in `online`, what counts as demonstration too.

        All of it, where it succeeded by itself, no slower than `keep_successes` says: what dithers and succeeds at last
        shows mostly how to dither. Where a person took over, their steps alone, each run of them by itself, so that no
        transition joins two: what made the person step in is nothing to imitate.

        Args:
            sources: Whose each step was, as the store has it, shape (T,).
            success: Of the episode.
        """
        first = self.online.rows - len(sources) - 1
        if success and self.config.keep_successes and not (sources == HUMAN).any():
            if len(sources) <= self.config.keep_successes * (self.longest_demonstration or len(sources)):
                self.demos.copy_rows(self.online, first, self.online.rows)
            return
        human = np.concatenate([[False], sources == HUMAN, [False]])
        for start, stop in np.flatnonzero(human[1:] != human[:-1]).reshape(-1, 2):
            self.demos.copy_rows(self.online, first + int(start), first + int(stop) + 1)

    def scalars(self) -> dict[str, float]:
        """What to log."""
        trained = max(self.steps - self.config.learning_starts, 0)
        return {
            "utd_ratio": self.agent.updates / trained if trained else 0.0,
            "demonstration_fraction": self.config.demo_fraction if len(self.demos) else 0.0,
            **{name: float(value) for name, value in self.learnt.items()},
        }


class Learner:
    """Every skill of a run, and the eyes they share.

    Args:
        config: Of the run.
        observation_space: Of its environment.
        action_space: Of its environment.
        instructions: One skill for each.
        demonstrations: To begin from, or None.
        saved: Tensors and facts of a checkpoint to go on from, or None.
        seen: Folder where what was seen of pictures is kept for the next start, or None.

    Attributes:
        policy: What acts; its agents are the skills'.
        skills: By instruction.
    """

    def __init__(
        self,
        config: TrainConfig,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        instructions: Sequence[str],
        demonstrations: EpisodeStore | None,
        saved: tuple[Mapping[str, Tensor], Mapping[str, Any]] | None = None,
        seen: Path | None = None,
    ) -> None:
        self.config = config
        spaces = (observation_space, action_space)
        tensors, facts = saved or (None, {})
        layout = ObservationLayout(observation_space)
        begun, _ = load_tensors(Path(config.init) / POLICY) if config.init and saved is None else (None, {})
        typical = None if saved or begun or demonstrations is None else _typical_pictures(demonstrations, layout)
        self.policy = Policy(config, *spaces, instructions, tensors or begun, typical)
        eyes = self.policy.perception
        if eyes is not None and seen is not None:
            eyes.keep(seen)
        demo_rows = 0 if demonstrations is None else demonstrations.rows
        self.skills: dict[str, Skill] = {}
        for i, (instruction, agent) in enumerate(self.policy.agents.items()):
            demos = ReplayBuffer(*spaces, config.replay_capacity + demo_rows, eyes, config.history)
            online = ReplayBuffer(*spaces, config.replay_capacity, eyes, config.history)
            sampling = np.random.default_rng([config.seed, 2, i] if i else [config.seed, 2])
            self.skills[instruction] = Skill(config, agent, (demos, online), sampling)
        if demonstrations is not None:
            for record in demonstrations.episode_table():
                skill = self.skill(record.instruction)
                skill.demos.extend_from_store(demonstrations, record.start, record.stop)
                skill.longest_demonstration = max(skill.longest_demonstration, record.length)
        if tensors is not None:
            self.policy.load_state_dict(tensors)
            for skill, own in zip(self.skills.values(), facts["skills"], strict=True):
                skill.sampling.bit_generator.state = own["sampling"]
                skill.learnt = dict(own["learnt"])
        elif begun is not None:
            self.policy.load_policy_state(begun)
        elif demonstrations is not None and config.normalise:
            self._normalise(demonstrations)

    def skill(self, instruction: str) -> Skill:
        """The skill of an instruction; with one skill, that one whatever is said."""
        return self.skills[instruction] if len(self.skills) > 1 else next(iter(self.skills.values()))

    @property
    def updates(self) -> int:
        """Critic updates of all skills."""
        return sum(skill.agent.updates for skill in self.skills.values())

    def learn_from(self, store: EpisodeStore, record: EpisodeRecord, start: int, stop: int) -> None:
        """Add committed rows `start` to `stop` of one episode to its skill's steps.

        When the episode is over with them, what was demonstrated in it counts (`Skill.keep_demonstrated`).
        """
        skill = self.skill(record.instruction)
        skill.online.extend_from_store(store, start, stop)
        skill.steps += min(stop, record.start + record.length) - start
        if record.closed and stop == record.stop:
            skill.keep_demonstrated(sources_of(store, record), record.success)

    def pretrain(self, progress: TrainingProgress, stop: Callable[[], bool]) -> None:
        """Behaviour cloning from the demonstrations, before the first step."""
        skills = [skill for skill in self.skills.values() if len(skill.demos)]
        if not skills or not self.config.bc_updates or self.config.init:
            return
        progress.phase("behaviour cloning", self.config.bc_updates)
        for update in range(self.config.bc_updates):
            for skill in skills:
                if stop():
                    return
                skill.agent.pretrain_bc(skill.sample())
            progress.update(step=update + 1)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint holds beside the tensors, as JSON values."""
        return {
            "skills": [
                {
                    "sampling": skill.sampling.bit_generator.state,
                    "learnt": {name: float(value) for name, value in skill.learnt.items()},
                }
                for skill in self.skills.values()
            ]
        }

    def _normalise(self, demonstrations: EpisodeStore) -> None:
        """Scale observations by mean and standard deviation of the demonstrations."""
        layout = self.policy.layout
        columns = demonstrations.read(columns=list(layout.vectors))
        observations = layout.flatten_columns(columns, (demonstrations.rows,))
        mean, std = observations.mean(0), np.maximum(observations.std(0), SMALLEST_STD)
        for skill in self.skills.values():
            skill.agent.scale.set(np.tile(mean, self.config.history), np.tile(std, self.config.history))


def sources_of(store: EpisodeStore, record: EpisodeRecord) -> NDArray[np.uint8]:
    """Whose each step of an episode was, shape (T,)."""
    return store.read(record.start, record.start + record.length, ["source"])["source"]


def _typical_pictures(store: EpisodeStore, layout: ObservationLayout) -> dict[str, NDArray[np.uint8]]:
    """Pictures of a store by camera, evenly spread over it."""
    every = max(1, store.rows // TYPICAL_PICTURES)
    return {name: store.read(columns=[name])[name][::every] for name in layout.images}


def _moved(batch: Batch, device: str) -> Batch:
    if device == "cpu":
        return batch

    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tensor.to(device, non_blocking=True) for name, tensor in value.items()}
        return value if value is None else value.to(device, non_blocking=True)

    return Batch(*(move(value) for value in batch))
