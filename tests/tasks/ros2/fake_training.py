"""A process that leaves what training leaves, in a moment: `fake_training.py RUN [--resume] end|fail|quiet|wait`.

It writes a run's episodes and metrics, and ends by itself, with an error, or on SIGTERM with a checkpoint.
"""

import signal
import sys
import threading
from pathlib import Path

import gymnasium as gym
import numpy as np

from robot_rl.store import EpisodeStore


def create(run):
    space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    return EpisodeStore.create(run / "episodes", observation_space=space, action_space=gym.spaces.Box(-1.0, 1.0, (2,)))


def add(store, rewards, *, source="policy", version=0, over=True):
    """One episode, a step a reward."""
    seen = np.zeros(3, np.float32)
    store.begin_episode(seen)
    for i, reward in enumerate(rewards):
        last = over and i == len(rewards) - 1
        store.append(
            action=np.zeros(2, np.float32), reward=reward, terminated=last, truncated=False, next_observation=seen,
            source=source, policy_version=version,
        )  # fmt: skip
    store.commit()


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(run, *words):
    resumed, how = "--resume" in words, words[-1]
    say(f"{how}, {'resumed' if resumed else 'begun'}")
    if how == "fail":
        say("Traceback ...\nLinkError: the learner was lost\nGoodbye.")
        return 2
    if how == "quiet":
        return 3
    run.mkdir(exist_ok=True)
    with EpisodeStore.open(run / "episodes", write=True) if resumed else create(run) as store:
        add(store, [0.0, 1.0], version=int(resumed) + 1)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {4 if resumed else 2}, "update": 8, "episode_success": 1.0, "note": null}}\n')
    (run / "config.yaml").write_text("steps: 100\n")
    if how == "wait":
        ended = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        say("waiting")
        while not ended.wait(0.05):
            pass
        (run / "saved").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
