"""A report on demonstrations: numbers that are known for data that is made up, and advice that follows."""

import gymnasium as gym
import numpy as np
import pytest

from robot_rl import cli
from robot_rl.data.quality import measure
from robot_rl.errors import ConfigError
from robot_rl.store import EpisodeStore

SPACE = gym.spaces.Dict({"state": gym.spaces.Box(-9, 9, (2,), np.float32)})
ACTION = gym.spaces.Box(-1, 1, (2,), np.float32)


def made_up(path, act, episodes=30, steps=12, success=lambda _: True, starts=1.0):
    """Walks on a plane from random starts; `act(state, rng)` says where to."""
    rng = np.random.default_rng(0)
    store = EpisodeStore.create(path, observation_space=SPACE, action_space=ACTION)
    for episode in range(episodes):
        state = rng.uniform(-starts, starts, 2)
        store.begin_episode({"state": state.astype(np.float32)})
        for step in range(steps):
            action = np.clip(act(state, rng), -1, 1).astype(np.float32)
            state = state + 0.1 * action
            last, won = step == steps - 1, success(episode)
            store.append(
                action=action,
                reward=float(last and won),
                terminated=last,
                truncated=False,
                next_observation={"state": state.astype(np.float32)},
                success=last and won,
                source="human",
            )
    store.close()
    return EpisodeStore.open(path)


def home(state, _):
    return -0.8 * state


def test_one_way_of_doing_it_diverges_less_than_many(tmp_path):
    steady = measure(made_up(tmp_path / "steady", home))
    wild = measure(made_up(tmp_path / "wild", lambda s, rng: rng.uniform(-1, 1, 2)))
    assert steady.action_divergence < 0.1
    assert wild.action_divergence == pytest.approx(1.0, abs=0.15), "independent of the state: all of the variance"
    assert any("one way" in text for text in wild.advice)
    assert not any("one way" in text for text in steady.advice)


def test_counts_are_those_of_the_store(tmp_path):
    quality = measure(made_up(tmp_path / "s", home, success=lambda episode: episode % 4 != 0))
    assert (quality.episodes, quality.steps, quality.median_length) == (30, 360, 12)
    assert quality.success_rate == quality.tq == pytest.approx(22 / 30)
    assert quality.sources == {"human": 360}
    assert quality.duplicate_episodes == 0
    assert any("fail" in text for text in quality.advice)


def test_full_speed_and_one_place_are_seen(tmp_path):
    fast = measure(made_up(tmp_path / "fast", lambda s, _: -50 * np.sign(s)))
    assert max(fast.saturation) > 0.5
    assert any("limit" in text for text in fast.advice)
    one = made_up(tmp_path / "one", home, starts=0.0)
    quality = measure(one)
    assert quality.start_coverage == 0.0
    assert quality.duplicate_episodes == 29
    assert any("copies" in text for text in quality.advice)


def test_a_store_covers_itself_and_a_part_of_it_less(tmp_path):
    whole = made_up(tmp_path / "whole", home)
    part = made_up(tmp_path / "part", home, episodes=5, starts=0.3)
    assert measure(whole, whole).saco == 1.0
    assert measure(part, whole).saco < 0.5


def test_the_command_prints_and_draws(tmp_path, capsys):
    made_up(tmp_path / "s", home, episodes=3)
    picture = tmp_path / "report.png"
    assert cli.main(["data", "report", str(tmp_path / "s"), "--out", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "action divergence" in said
    assert "record 20" in said
    assert picture.stat().st_size > 20_000
    empty = EpisodeStore.create(tmp_path / "empty", observation_space=SPACE, action_space=ACTION)
    with pytest.raises(ConfigError, match="no finished episode"):
        measure(empty)
    empty.close()
