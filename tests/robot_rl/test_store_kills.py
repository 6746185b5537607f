"""The actor killed at random moments while a learner tails its store: nothing acknowledged is lost or repeated."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.store import EpisodeStore
from robot_rl.store.check import check_store
from tests.robot_rl.actor_to_kill import ACTION, FRONT, SPACE, WRIST, length, pictures, place

ROOT = Path(__file__).parents[2]


@dataclass
class Learner:
    """Tails the store by cursor, as training does, and compares every row with what it must hold.

    Attributes:
        seen: Rows taken over, each once: the cursor.
        wrong: What did not agree, in words.
        looks: How often it looked.
    """

    path: Path
    seen: int = 0
    wrong: list[str] = field(default_factory=list)
    looks: int = 0
    stop: bool = False

    def run(self) -> None:
        store = EpisodeStore.open(self.path)
        self.replay = ReplayBuffer(store.observation_space, store.action_space, 200_000)
        last = False
        while not last:
            last = self.stop  # one look more once the last actor is dead
            self.look(store)

    def look(self, store: EpisodeStore) -> None:
        before, self.looks = store.rows, self.looks + 1
        store.refresh()
        if store.rows < before:
            self.wrong.append(f"rows went from {before} to {store.rows}")
        if store.rows == self.seen:
            time.sleep(0.002)
            return
        start = self.seen
        self.seen = self.replay.extend_from_store(store, start)
        rows = store.read(start, self.seen)
        for i in range(self.seen - start):
            episode, t = place(start + i)
            final = t == length(episode)
            expected = {
                "observation/state": [episode, t, 0.5],
                "action": [0, 0] if final else [np.float32(t / 100), np.float32(episode / 1000)],
                "reward": 0 if final else t,
                "final": final,
                "terminated": t + 1 == length(episode),
                "episode": episode,
                "policy_version": 0 if final else episode,
                FRONT: pictures(episode, t)["front"],
                WRIST: pictures(episode, t)["wrist"],
            }
            self.wrong += [
                f"row {start + i}: {name}"
                for name, value in expected.items()
                if not np.array_equal(rows[name][i], np.asarray(value, rows[name].dtype))
            ]


def kill_often(path: Path, kills: int, longest_s: float) -> tuple[int, Learner]:
    """Start an actor and kill it, `kills` times; returns the rows it acknowledged last, and the learner."""
    EpisodeStore.create(path, observation_space=SPACE, action_space=ACTION).close()
    learner = Learner(path)
    thread = threading.Thread(target=learner.run)
    thread.start()
    rng = np.random.default_rng(0)
    acknowledged = 0
    program = [sys.executable, "-m", "tests.robot_rl.actor_to_kill"]
    with subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        try:
            for kill in range(kills):
                print(path, int(kill % 4 == 0), file=parent.stdin, flush=True)  # without fsync it writes more often
                words = parent.stdout.readline().split()
                while words[0] != "pid":  # the actor may be quicker to speak than its parent
                    acknowledged, words = int(words[1]), parent.stdout.readline().split()
                time.sleep(rng.uniform(0, longest_s))
                os.kill(int(words[1]), signal.SIGKILL)
                while (words := parent.stdout.readline().split())[0] == "rows":
                    acknowledged = int(words[1])
                assert words == ["ended", str(-signal.SIGKILL)], f"kill {kill}: the actor ended by itself"
                rows = EpisodeStore.open(path).rows
                assert rows >= acknowledged, f"kill {kill}: {acknowledged} acknowledged, {rows} there"
        finally:
            learner.stop = True
            thread.join()
            parent.stdin.close()
    return acknowledged, learner


def check_everything(path: Path, acknowledged: int, learner: Learner) -> None:
    store = EpisodeStore.open(path)
    assert learner.wrong == []
    assert learner.seen == store.rows >= acknowledged > 0
    assert learner.replay.rows == store.rows, "each row once"
    steps = int((~store.read(columns=["final"])["final"]).sum())
    assert len(learner.replay) == steps - (not store.read(columns=["final"])["final"][-1])
    assert check_store(path).ok
    assert [record.index for record in store.episode_table()] == list(range(store.episodes))
    assert all(record.complete for record in store.episode_table()[:-1])


def test_ten_kills_of_the_actor(tmp_path):
    acknowledged, learner = kill_often(tmp_path / "s", 10, 0.4)
    check_everything(tmp_path / "s", acknowledged, learner)


@pytest.mark.slow
def test_two_hundred_kills_of_the_actor(tmp_path, capsys):
    acknowledged, learner = kill_often(tmp_path / "s", 200, 0.6)
    check_everything(tmp_path / "s", acknowledged, learner)
    with capsys.disabled():
        print(  # noqa: T201 (the figure that is published)
            f"\n200 kills: {acknowledged} rows acknowledged, {learner.seen} seen in {learner.looks} looks, 0 wrong"
        )
