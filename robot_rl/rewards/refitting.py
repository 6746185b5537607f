"""A reward that learns from the run it judges: a process beside training that mines its mistakes and fits it anew."""

import os
import shutil
import time
from pathlib import Path

from robot_rl.config import TrainConfig
from robot_rl.errors import ConfigError, StoreError
from robot_rl.progress import TrainingProgress
from robot_rl.rewards.classifier import FILE, Seen, SuccessClassifier
from robot_rl.rewards.frames import read_frames
from robot_rl.rewards.mining import mine
from robot_rl.run_directory import RunDirectory
from robot_rl.store import EpisodeStore
from robot_rl.store.commit import COMMIT
from robot_rl.store.files import WriterLock

__all__ = ["Refitter", "reward_of"]

LOOK_EVERY_S = 1.0


def reward_of(config: TrainConfig, run: RunDirectory) -> str | Path:
    """Where the reward that a run learns from lies: the run's own copy, where it is fitted anew meanwhile.

    Raises:
        StoreError: The copy cannot be made.
    """
    if not config.reward or not config.reward_refit:
        return config.reward
    own = run.path / "reward"
    if not (own / FILE).is_file():
        try:
            part = run.path / f".reward.{os.getpid()}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(config.reward, part)
            shutil.rmtree(own, ignore_errors=True)
            part.rename(own)
        except OSError as error:
            raise StoreError(f"Cannot copy the reward {config.reward} to {own}: {error}.", path=own) from error
    return own


class Refitter:
    """Fits a run's reward anew whenever it has `reward_refit` episodes more.

    Args:
        config: Of the run, resolved.
        run: The run; its `reward/` is replaced, atomically.
        progress: Shown to a person.

    Attributes:
        stop_requested: Set it to end; a fit under way is dropped.
        fits: Made so far.

    Raises:
        ConfigError: The run's reward is not to be fitted anew.
        StoreError: There is no reward, or what it was trained on is gone.
    """

    def __init__(self, config: TrainConfig, run: RunDirectory, progress: TrainingProgress) -> None:
        if not config.reward or not config.reward_refit:
            raise ConfigError(
                f"{run.path} has no reward to be fitted anew; train with --reward REWARD --refit-every N."
            )
        self.config, self.run, self.progress = config, run, progress
        self.stop_requested = False
        self.fits = 0
        self._place = Path(reward_of(config, run))
        self._classifier, self._facts = SuccessClassifier.load(self._place)
        self._rate = float(self._facts.get("false_positives", 0.001))
        self._run_name = str(run.path.resolve())
        own = self._facts.get("mined_run") == self._run_name  # another run's count is of its own episodes
        self._mined = int(self._facts.get("mined_episodes", 0)) if own else 0

    def watch(self) -> None:
        """Fit until `stop_requested`.

        Raises:
            RobotRLError: The disk failed, or the stores that the reward was trained on are gone.
        """
        lock = WriterLock(self.run.path / "reward.lock")
        try:
            marked = self._marked()
            self.progress.phase("waiting for episodes")
            while not self.stop_requested:
                more = self._newly_mined()
                if more is None:
                    time.sleep(LOOK_EVERY_S)
                    continue
                if self.config.reward_teacher == "known":
                    marked = marked + more
                self._fit(marked if self.config.reward_teacher == "known" else marked + more)
        except _Stopped:
            pass
        finally:
            lock.release()

    def _marked(self) -> Seen:
        """What the reward was trained on before the run."""
        frames, _ = read_frames(self._facts["stores"])
        seen = self._classifier.look_at(frames, self._tell)
        if self._mined and self.config.reward_teacher == "known":  # by an earlier start of this process
            store = EpisodeStore.open(self.run.episodes)
            mined = mine(store, self._classifier, last=self._mined)
            seen = seen if mined is None else seen + self._classifier.look_at(mined, self._tell)
        return seen

    def _newly_mined(self) -> Seen | None:
        """Frames of the episodes since the last fit, once there are enough of them and somebody knows of them."""
        if not (self.run.episodes / COMMIT).is_file():
            return None
        store = EpisodeStore.open(self.run.episodes)
        # What is said of an episode is written down just after it is closed: the newest one waits.
        episodes = sum(record.closed for record in store.episode_table()) - 1
        if episodes < self._mined + self.config.reward_refit:
            return None
        teacher = self.config.reward_teacher
        frames = mine(store, self._classifier, teacher=teacher, first=self._mined, last=episodes, seed=episodes)
        self._mined = episodes
        if frames is None:
            self.progress.log(
                f"{episodes} episodes, and nobody has said of any whether it succeeded: nothing to fit the reward on. "
                "Say success or failure from the device, or set reward_teacher=policy."
            )
            return None
        return self._classifier.look_at(frames, self._tell, judged=teacher == "known")

    def _fit(self, seen: Seen) -> None:
        scores, _ = self._classifier.learn(seen, self._rate, self._tell)
        self.fits += 1
        mined = {"mined_episodes": self._mined, "mined_run": self._run_name}
        facts = {"scores": scores.to_json(), "frames": len(seen.success), **mined}
        self._classifier.save(self._place, {**self._facts, **facts})
        self.run.event("reward_refit", episodes=self._mined, **scores.to_json())
        self.progress.log(f"After {self._mined} episodes the reward is fitted anew. On frames left out: {scores}")

    def _tell(self, what: str, done: int, of: int) -> None:
        if self.stop_requested:
            raise _Stopped
        if done == 1:
            self.progress.phase(what, of)
        self.progress.update(step=done)


class _Stopped(Exception):  # noqa: N818 (no error: a wish)
    pass
