"""Recording: only successes are kept, what is stored can be repeated, and the same seed records the same."""

import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from robot_rl.config import preset
from robot_rl.demonstrations import record, scripted_expert, succeeded
from robot_rl.environments import make
from robot_rl.errors import ConfigError, StoreError
from robot_rl.preparation import resolve
from robot_rl.store import EpisodeStore
from tests.robot_rl import toy


@pytest.fixture
def env():
    toy.register()
    env = gym.make("toy/Point-v0")
    yield env
    env.close()


def test_success_has_two_names():
    assert succeeded({"success": True})
    assert succeeded({"is_success": 1.0})
    assert not succeeded({"success": False, "is_success": 1.0})
    assert not succeeded({})


def test_what_is_recorded_leads_to_success_again(env, tmp_path):
    expert = scripted_expert(env, np.random.default_rng(0), 0.3)
    calls = []
    with record(
        env, expert, tmp_path / "d", episodes=4, seed=10, task="toy", on_episode=lambda k, t: calls.append((k, t))
    ) as store:
        table = store.episode_table()
    assert [r.success and r.terminated and r.closed for r in table] == [True] * 4
    assert table[0].sources == {"script": table[0].length}
    assert table[0].instruction == "go to the origin"
    assert calls[-1][0] == 4
    columns = EpisodeStore.open(tmp_path / "d").read(table[0].start, table[0].stop)
    observation, _ = env.reset(seed=10 if calls[0] == (1, 1) else None)
    for row in range(table[0].length):
        np.testing.assert_array_equal(columns["observation"][row], observation)
        observation, reward, terminated, _, _ = env.step(columns["action"][row])
        assert reward == columns["reward"][row]
    assert terminated
    np.testing.assert_array_equal(columns["observation"][-1], observation)


def test_the_same_seed_records_the_same_bytes(tmp_path):
    stores = []
    for name in ("a", "b"):
        env = make("reach")
        expert = scripted_expert(env, np.random.default_rng(3), 0.1)
        record(env, expert, tmp_path / name, episodes=2, seed=5, task="reach").close()
        stores.append({k: v.tobytes() for k, v in EpisodeStore.open(tmp_path / name).read().items() if k != "time"})
        env.close()
    assert stores[0] == stores[1]


def test_a_step_has_the_time_it_was_taken_at(env, tmp_path):
    """After its own action was asked for, before the next one was."""
    asked = []

    class Watched:
        def __init__(self):
            self.expert = scripted_expert(env, np.random.default_rng(0), 0.1)

        def act(self, observation, instruction=""):
            asked.append(time.time())
            return self.expert.act(observation, instruction)

    with record(env, Watched(), tmp_path / "d", episodes=1, seed=10, task="toy") as store:
        (episode,) = store.episode_table()
        times = store.read(0, episode.length)["time"]
    asked = asked[-episode.length :]
    assert (times >= asked).all()
    assert (times[:-1] <= asked[1:]).all()


class Hopeless:
    def act(self, observation, instruction=""):
        return np.zeros(1, np.float32)


def test_failures_are_not_kept_and_too_many_are_said(env, tmp_path):
    with pytest.raises(ConfigError, match="Only 0 of 10 attempts succeeded"):
        record(env, Hopeless(), tmp_path / "d", episodes=2, seed=0, task="toy")
    with EpisodeStore.open(tmp_path / "d", write=True) as store:
        assert store.rows == 0, "and the store can be written again"


def test_an_existing_store_is_not_touched(env, tmp_path):
    expert = scripted_expert(env, np.random.default_rng(0), 0.0)
    record(env, expert, tmp_path / "d", episodes=1, seed=0, task="toy").close()
    rows = EpisodeStore.open(tmp_path / "d").rows
    with pytest.raises(StoreError, match="exists and is not empty"):
        record(env, expert, tmp_path / "d", episodes=1, seed=0, task="toy")
    assert EpisodeStore.open(tmp_path / "d").rows == rows


def test_none_are_not_recorded(env, tmp_path):
    with pytest.raises(ConfigError, match="at least 1"):
        record(env, Hopeless(), tmp_path / "d", episodes=0, seed=0, task="toy")
    assert not (tmp_path / "d").exists()


def test_recording_stops_when_asked(env, tmp_path):
    expert = scripted_expert(env, np.random.default_rng(0), 0.0)
    kept = []
    record(
        env, expert, tmp_path / "d", episodes=9, seed=0, task="toy", on_episode=lambda k, _: kept.append(k),
        stop=lambda: len(kept) == 2,
    ).close()  # fmt: skip
    assert len(EpisodeStore.open(tmp_path / "d").episode_table()) == 2


def test_no_expert_is_none():
    assert scripted_expert(gym.make("Pendulum-v1"), np.random.default_rng(0), 0.1) is None


def test_demonstrations_of_another_task_or_arm_are_refused_even_where_the_shapes_agree(tmp_path: Path):
    """Reach and PegInsert have the same spaces, and an action of one is not an action of the other."""
    env = make("reach")
    expert = scripted_expert(env, np.random.default_rng(0), 0.05)
    assert expert is not None
    record(env, expert, tmp_path / "d", episodes=1, seed=0, task="reach").close()
    config = replace(preset("fast", "reach"), demos=str(tmp_path / "d"))
    assert resolve(config).demos == str((tmp_path / "d").resolve())
    with pytest.raises(ConfigError, match="holds demonstrations of reach, not of peg_insert"):
        resolve(replace(config, task="peg_insert"))
    with pytest.raises(ConfigError, match="recorded with arm=default, this run has arm=ur5e"):
        resolve(replace(config, env={"arm": "ur5e"}))
