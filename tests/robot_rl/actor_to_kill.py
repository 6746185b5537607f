"""A process that appends and commits one step after another until it is killed, and what each row must hold.

Run as a program it is the parent of such processes, so that each begins at once, with everything imported. It reads
`<store> <sync>` lines; for each it forks an actor and says `pid <n>`, then the actor says `rows <n>` after each
commit, and when it has been killed the parent says `ended <status>`.

Which row holds what follows from its number alone, so a row that is lost, repeated, torn or mixed up shows itself.
"""

import os
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

from robot_rl.store import EpisodeStore

ACTION = gym.spaces.Box(-1, 1, (2,), np.float32)
SPACE = gym.spaces.Dict(
    {
        "state": gym.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        "images": gym.spaces.Dict({name: gym.spaces.Box(0, 255, (32, 32, 3), np.uint8) for name in ("front", "wrist")}),
    }
)
FRONT, WRIST = "observation/images/front", "observation/images/wrist"


def length(episode: int) -> int:
    """Steps of an episode: 1 to 29."""
    return 1 + 7 * episode % 29


def place(row: int) -> tuple[int, int]:
    """Return the episode and the step in it that a row of the store holds."""
    cycles, row = divmod(row, 29 * (15 + 1))  # 29 episodes of 15 steps on average, each with its final row
    episode = 29 * cycles
    while row > length(episode):
        row -= length(episode) + 1
        episode += 1
    return episode, row


def pictures(episode: int, t: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng((episode, t))
    return {name: rng.integers(0, 256, (32, 32, 3), np.uint8) for name in ("front", "wrist")}


def observation(episode: int, t: int) -> dict[str, object]:
    return {"state": np.array([episode, t, 0.5], np.float32), "images": pictures(episode, t)}


def act(path: Path, sync: bool) -> None:
    """Go on where the store ends; say after each commit how many rows are committed."""
    store = EpisodeStore.open(path, write=True, sync=sync)
    while True:
        episode, t = place(store.rows)
        if store.open_episode is None:
            assert t == 0
            store.begin_episode(observation(episode, 0))
        assert store.open_episode == episode
        store.append(
            action=[t / 100, episode / 1000],
            reward=t,
            terminated=t + 1 == length(episode),
            truncated=False,
            next_observation=observation(episode, t + 1),
            policy_version=episode,
        )
        store.commit()
        say(f"rows {store.rows}")


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one write to a pipe is whole or absent


def main() -> None:
    for line in sys.stdin:
        path, sync = line.split()
        pid = os.fork()
        if pid == 0:
            act(Path(path), bool(int(sync)))
        say(f"pid {pid}")
        say(f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


if __name__ == "__main__":
    main()
