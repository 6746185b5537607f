"""The learning half of an asynchronous run: tails the episodes, updates, publishes the policy.

It touches no environment and no arm. Where it is killed, the next one reads the episodes again and goes on from the
newest intact checkpoint; nothing is counted twice, for a row of the store is what it was.
"""

import time
from collections import deque
from contextlib import suppress

import numpy as np

from robot_rl.config import TrainConfig
from robot_rl.errors import StoreError
from robot_rl.learner import HUMAN, Learner, Skill, sources_of
from robot_rl.metrics import MetricsWriter, read_metrics
from robot_rl.progress import TrainingProgress
from robot_rl.recording import STOP_WINDOW, TRY_AGAIN_S, checkpoint_if_room, reason_to_end
from robot_rl.run_directory import RunDirectory, load_tensors
from robot_rl.store import EpisodeStore
from robot_rl.store.records import EpisodeRecord
from robot_rl.store.writer import COMMIT
from robot_rl.training import mark_best, publish, publish_best
from robot_rl.verdicts import wrongly_called

__all__ = ["AsyncLearner"]

LOOK_EVERY_S = 0.2  # while what it needs is not there yet
IDLE_S = 0.005  # between looks at the store when no update is due
UPDATES_AT_ONCE = 20  # between looks at the store
PUBLISH_EVERY_S = 1.0
CAUGHT_UP_S = 0.1  # at the soonest, when every update due is made


class AsyncLearner:
    """One process that learns.

    Args:
        config: Of the run, resolved.
        run: The run.
        progress: Shown to a person.

    Attributes:
        stop_requested: Set it (from a signal handler, say) to end after the current update.
        step: Environment steps learnt from.
    """

    def __init__(self, config: TrainConfig, run: RunDirectory, progress: TrainingProgress) -> None:
        self.config, self.run, self.progress = config, run, progress
        self.stop_requested = False
        self.step = 0
        self.successes: deque[bool] = deque(maxlen=STOP_WINDOW)
        self._checkpoints = run.checkpoints
        self._read = self._closed = 0  # rows and whole episodes of the store that are learnt from
        self._settled = 0  # the step up to which no update is due
        self._published, self._public = 0.0, (-1, -1)  # when; the updates and the settled steps of what is public
        self._checkpointed = 0.0
        self._began: tuple[float, int, int] | None = None  # when, and the counts then, for rates

    def learn(self) -> str:
        """Learn to the end of the run, or until `stop_requested`.

        Returns:
            Why it ended: `steps`, `success` or `stopped`.

        Raises:
            RobotRLError: The disk or a setting failed. The last checkpoint stands.
        """
        with self.run.learning():
            return self._learn()

    def _learn(self) -> str:
        if not self._wait_for_actor():
            return "stopped"
        store = EpisodeStore.open(self.run.episodes)
        demonstrations = None
        if self.config.demos != "none":
            path = self.run.demonstrations if self.config.demos.isdigit() else self.config.demos
            demonstrations = EpisodeStore.open(path)
        saved = self._checkpoints.load() if self._checkpoints.exists else None
        for damaged in self._checkpoints.skipped:
            self.progress.log(f"Passed over a damaged checkpoint: {damaged}")
        instructions = store.metadata.get("instructions", [""])
        spaces = (store.observation_space, store.action_space)
        self.learner = Learner(self.config, *spaces, instructions, demonstrations, saved, self.run.seen)
        if saved is None:
            self.learner.pretrain(self.progress, lambda: self.stop_requested)
            if self.stop_requested:
                return "stopped"
        with suppress(StoreError):  # none there, or a damaged one, which is replaced
            facts = load_tensors(self.run.policy)[1]  # a newer one than the checkpoint must not be replaced
            self._public = (int(facts["update"]), int(facts["settled"]))
        self.progress.phase("learning", self.config.steps)
        written = read_metrics(self.run.metrics) if self.run.metrics.is_file() else []
        self._logged = int(written[-1]["step"] or 0) if written else 0  # by a learner before this one
        with MetricsWriter(self.run.metrics, self.config.tensorboard) as self.metrics:
            self._ingest(store)
            self._began = (time.monotonic(), self.step, self.learner.updates)
            if saved is None:
                self._checkpoint()
            reason = self._loop(store)
            self._checkpoint()
            if reason == "steps":
                publish_best(self.run, self.learner, self.successes, self.progress)
        return reason

    def _wait_for_actor(self) -> bool:
        """Until the actor has made the store and recorded what demonstrations it was asked for."""
        self.progress.phase("waiting for the actor (robot-rl actor RUN)")
        recorded = self.config.demos.isdigit()
        while not (self.run.episodes / COMMIT).is_file() or (recorded and not self.run.demonstrations.is_dir()):
            if self.stop_requested:
                return False
            time.sleep(LOOK_EVERY_S)
        return True

    def _loop(self, store: EpisodeStore) -> str:
        while True:
            ended = reason_to_end(self.config, self.step, self.successes)
            due = self._due()
            if not due or self.config.utd == "free":
                self._settled = self.step
            if self.stop_requested:
                return "stopped"
            if ended and not (due and self.config.utd == "enforced"):
                return ended
            for skill in due[:1]:
                for _ in range(min(UPDATES_AT_ONCE, skill.updates_due if self.config.utd == "enforced" else 1)):
                    skill.update()
            if not due:
                self._publish(since=CAUGHT_UP_S)  # the actor may be waiting for just these updates
                time.sleep(IDLE_S)
            self._publish(since=PUBLISH_EVERY_S)
            self._ingest(store)
            self.progress.update(step=self.step, update=self.learner.updates)
            if time.monotonic() - self._checkpointed > self.config.checkpoint_every_s:
                self._checkpoint()

    def _due(self) -> list[Skill]:
        """Skills that have an update to make, the one furthest behind first."""
        skills = [s for s in self.learner.skills.values() if len(s.demos) + len(s.online)]
        if self.config.utd == "enforced":
            skills = [s for s in skills if s.updates_due]
            return sorted(skills, key=lambda s: -s.updates_due)
        return sorted((s for s in skills if s.steps >= self.config.learning_starts), key=lambda s: s.agent.updates)

    def _ingest(self, store: EpisodeStore) -> None:
        store.refresh()
        if store.rows == self._read:
            return
        for record in store.episode_table()[self._closed :]:
            start, stop = max(record.start, self._read), min(record.stop, store.rows)
            if stop <= start:
                continue
            before = self.learner.skill(record.instruction).steps
            self.learner.learn_from(store, record, start, stop)
            self.step += self.learner.skill(record.instruction).steps - before
            self._read = stop
            if record.closed:
                self._closed += 1
                self.successes.append(record.success)
                if self.step > self._logged:
                    self._log(store, record)

    def _log(self, store: EpisodeStore, record: EpisodeRecord) -> None:
        skill = self.learner.skill(record.instruction)
        versions = store.read(record.start, record.start + record.length, ["policy_version"])
        row = {
            "episode_success": float(record.success),
            "episode_return": record.total_reward,
            "episode_length": record.length,
            "intervention_rate": float(np.mean(sources_of(store, record) == HUMAN)),
            **self._rates(),
            "staleness_updates": float(skill.agent.updates - versions["policy_version"].mean()),
            **skill.scalars(),
        }
        if self.config.reward:  # where the actor has written it down already
            row |= wrongly_called(store, record)
        if len(self.learner.skills) > 1:
            row["skill"] = list(self.learner.skills.values()).index(skill)
        self.metrics.write(step=self.step, update=self.learner.updates, **row)
        self.progress.update(step=self.step, **row)

    def _rates(self) -> dict[str, float]:
        """Since this learner has read what was there before it."""
        if self._began is None:
            return {}
        when, step, update = self._began
        elapsed = max(time.monotonic() - when, 1e-9)
        return {
            "env_steps_per_s": (self.step - step) / elapsed,
            "updates_per_s": (self.learner.updates - update) / elapsed,
        }

    def _publish(self, since: float = 0.0) -> None:
        """Publish what is newer than what is published, unless that was less than `since` seconds ago."""
        now = (self.learner.updates, self._settled)
        if now > self._public and time.monotonic() - self._published >= since:
            saved = checkpoint_if_room(lambda: publish(self.run, self.learner, self.step, self._settled), self.progress)
            self._public = now if saved else self._public
            self._published = time.monotonic() + (0.0 if saved else TRY_AGAIN_S)

    def _checkpoint(self) -> None:
        counted = {"step": self.step, "rows": self._read, "episode": self._closed, "successes": list(self.successes)}
        facts = {**counted, **self.learner.facts()}

        def save() -> None:
            self._checkpoints.save(self.learner.policy.state_dict(), facts)
            mark_best(self._checkpoints, self.successes)
            self._publish()

        checkpoint_if_room(save, self.progress) if self._checkpoints.exists else save()
        self._checkpointed = time.monotonic()
