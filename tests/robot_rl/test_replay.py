"""Batches by hand on tiny episodes, and exactly right transitions on random ones."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.errors import ConfigError, ShapeError, StoreError
from robot_rl.replay import buffer as replay
from robot_rl.replay.buffer import ReplayBuffer, sample_mixed
from robot_rl.store import EpisodeStore

CODE = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)  # (episode, t)
ACTION = gym.spaces.Box(-1, 1, (1,), np.float32)
PIXELS = gym.spaces.Dict(
    {"state": CODE, "images": gym.spaces.Dict({"wrist": gym.spaces.Box(0, 255, (2, 3, 3), np.uint8)})}
)


def observation(episode: int, t: int) -> np.ndarray:
    return np.array([episode, t], np.float32)


def reward_of(episode: int, t: int) -> float:
    return float((7 * episode + 3 * t) % 11)


def add_episode(buffer: ReplayBuffer, episode: int, length: int, ending: str) -> None:
    """`ending` is terminated, truncated, or open."""
    buffer.begin_episode(observation(episode, 0))
    for t in range(length):
        last = t == length - 1
        buffer.add(
            [t / 100],
            reward_of(episode, t),
            last and ending == "terminated",
            last and ending == "truncated",
            observation(episode, t + 1),
        )


def by_time(batch, episode: int = 0) -> dict[int, tuple[float, float, float]]:
    """t -> (reward, discount, t of the next observation)."""
    return {
        int(o[1]): (float(r), float(d), float(n[1]))
        for o, r, d, n in zip(batch.observation, batch.reward, batch.discount, batch.next_observation, strict=True)
        if int(o[0]) == episode
    }


def three_steps(ending: str) -> ReplayBuffer:
    """Rewards 1, 2, 4."""
    buffer = ReplayBuffer(CODE, ACTION, 100)
    buffer.begin_episode(observation(0, 0))
    for t, reward in enumerate((1.0, 2.0, 4.0)):
        last = t == 2
        buffer.add(
            [0.0], reward, last and ending == "terminated", last and ending == "truncated", observation(0, t + 1)
        )
    return buffer


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        # gamma 0.5, n 2: 1 + 0.5*2 = 2, then 2 + 0.5*4 = 4, then 4 alone
        ("terminated", {0: (2.0, 0.25, 2.0), 1: (4.0, 0.0, 3.0), 2: (4.0, 0.0, 3.0)}),
        ("truncated", {0: (2.0, 0.25, 2.0), 1: (4.0, 0.25, 3.0), 2: (4.0, 0.5, 3.0)}),
        # the third step has no next row yet, so what there is bootstraps from the newest row, t = 2
        ("open", {0: (2.0, 0.25, 2.0), 1: (2.0, 0.5, 2.0)}),
    ],
)
def test_two_step_returns_by_hand(ending, expected):
    buffer = three_steps(ending)
    assert len(buffer) == len(expected)
    assert by_time(buffer.sample(200, np.random.default_rng(0), n_step=2, gamma=0.5)) == expected


def test_gamma_zero_keeps_the_first_reward_only():
    batch = three_steps("truncated").sample(50, np.random.default_rng(0), n_step=3, gamma=0.0)
    assert {k: v[:2] for k, v in by_time(batch).items()} == {0: (1.0, 0.0), 1: (2.0, 0.0), 2: (4.0, 0.0)}


def test_an_abandoned_episode_keeps_its_last_step():
    buffer = three_steps("open")
    buffer.begin_episode(observation(1, 0))
    assert by_time(buffer.sample(200, np.random.default_rng(0), n_step=1, gamma=0.5))[2] == (4.0, 0.5, 3.0)


def check_transitions(batch, episodes: list[tuple[int, str]], n_step: int, gamma: float) -> None:
    """Every item against the episodes it was made from: (length, ending) each."""
    for o, a, r, d, n in zip(*batch[:5], strict=True):
        episode, t = int(o[0]), int(o[1])
        length, ending = episodes[episode]
        reached = length - (ending == "open" and episode == len(episodes) - 1)
        k = min(n_step, reached - t)
        assert k >= 1
        assert n.tolist() == [episode, t + k]
        assert float(a[0]) == pytest.approx(t / 100)
        assert float(r) == pytest.approx(sum(gamma**i * reward_of(episode, t + i) for i in range(k)), abs=1e-4)
        ended = ending == "terminated" and t + k == length
        assert float(d) == pytest.approx(0.0 if ended else gamma**k)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from(["terminated", "truncated", "open"])), min_size=1, max_size=30
    ),
    st.integers(2, 40),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
def test_random_episodes_give_exact_transitions_before_and_after_the_ring_wraps(episodes, capacity, n_step, seed):
    buffer = ReplayBuffer(CODE, ACTION, capacity)
    kept: list[tuple[int, int, bool]] = []
    for index, (length, ending) in enumerate(episodes):
        add_episode(buffer, index, length, ending)
        closed = ending != "open" or index < len(episodes) - 1
        kept += [(index, t, t < length - (not closed)) for t in range(length + closed)]
    if episodes[-1][1] == "open":  # its newest row has no next one
        kept[-1] = (*kept[-1][:2], False)
    valid = {(e, t) for e, t, transition in kept[-capacity:] if transition and t < episodes[e][0]}
    assert len(buffer) == len(valid)
    if not valid:
        return
    batch = buffer.sample(300, np.random.default_rng(seed), n_step=n_step, gamma=0.9)
    assert {(int(o[0]), int(o[1])) for o in batch.observation} <= valid
    check_transitions(batch, episodes, n_step, 0.9)


def test_every_transition_is_drawn_about_equally_often():
    buffer = ReplayBuffer(CODE, ACTION, 64)
    for episode in range(20):
        add_episode(buffer, episode, 4, "truncated")
    batch = buffer.sample(100_000, np.random.default_rng(0))
    _, counts = np.unique(batch.observation.numpy(), axis=0, return_counts=True)
    assert len(counts) == len(buffer)
    chi2 = ((counts - 100_000 / len(counts)) ** 2).sum() / (100_000 / len(counts))
    assert chi2 < 100  # 51 or so degrees of freedom: the 0.9999 quantile is 98


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 7), st.sampled_from(["terminated", "truncated", "open"])), min_size=1, max_size=8
    ),
    st.integers(2, 50),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_rebuilt_from_the_store_it_draws_the_same_batches(tmp_path_factory, episodes, capacity, cuts):
    path = tmp_path_factory.mktemp("store") / "episodes"
    live = ReplayBuffer(CODE, ACTION, capacity)
    with EpisodeStore.create(path, observation_space=CODE, action_space=ACTION, metadata={}, sync=False) as store:
        for index, (length, ending) in enumerate(episodes):
            add_episode(live, index, length, ending)
            store.begin_episode(observation(index, 0))
            for t in range(length):
                last = t == length - 1
                store.append(
                    action=[t / 100],
                    reward=reward_of(index, t),
                    terminated=last and ending == "terminated",
                    truncated=last and ending == "truncated",
                    next_observation=observation(index, t + 1),
                )
        store.commit()
        whole, tailed = ReplayBuffer(CODE, ACTION, capacity), ReplayBuffer(CODE, ACTION, capacity)
        whole.extend_from_store(store)
        cursor = 0
        for cut in [*sorted(cut for cut in cuts if cut < store.rows), store.rows]:
            cursor = tailed.extend_from_store(store, cursor, cut)
        assert len(live) == len(whole) == len(tailed)
        if len(live):
            batches = [b.sample(64, np.random.default_rng(5), n_step=3, gamma=0.9) for b in (live, whole, tailed)]
            for other in batches[1:]:
                for ours, theirs in zip(batches[0], other, strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_block_as_long_as_the_ring_is_not_tied_to_the_row_it_overwrote(tmp_path: Path):
    """Rows 2 to 5 of an open episode fill a ring of 4: t = 2, 3, 4 lead on and t = 5 does not yet (by hand)."""
    with EpisodeStore.create(tmp_path / "s", observation_space=CODE, action_space=ACTION, metadata={}) as store:
        store.begin_episode(observation(0, 0))
        for t in range(6):
            store.append(
                action=[0.0], reward=0.0, terminated=False, truncated=False, next_observation=observation(0, t + 1)
            )
        store.commit()
        buffer = ReplayBuffer(CODE, ACTION, 4)
        buffer.extend_from_store(store, buffer.extend_from_store(store, 0, 2))
    assert len(buffer) == 3
    transitions = by_time(buffer.sample(100, np.random.default_rng(0), n_step=1))
    assert {t: following for t, (_, _, following) in transitions.items()} == {2: 3.0, 3: 4.0, 4: 5.0}


def pixels(episode: int, t: int) -> dict[str, object]:
    return {"state": observation(episode, t), "images": {"wrist": np.full((2, 3, 3), 10 * episode + t, np.uint8)}}


def test_images_belong_to_the_observations_of_the_same_batch():
    buffer = ReplayBuffer(PIXELS, ACTION, 30)
    for episode in range(10):
        buffer.begin_episode(pixels(episode, 0))
        for t in range(5):
            buffer.add([0.0], 0.0, False, t == 4, pixels(episode, t + 1))
    assert buffer.layout.images == ["observation/images/wrist"]
    batch = buffer.sample(100, np.random.default_rng(0), n_step=3)
    for states, frames in ((batch.observation, batch.images), (batch.next_observation, batch.next_images)):
        wrist = frames["observation/images/wrist"]
        assert wrist.dtype == torch.uint8
        expected = (10 * states[:, 0] + states[:, 1]).to(torch.uint8)
        assert (wrist == expected[:, None, None, None]).all()


def test_a_copied_episode_gives_the_same_transitions():
    """Rows, links, rewards and pictures: what is drawn of the copy is what the source holds of that episode."""
    source, copy = ReplayBuffer(PIXELS, ACTION, 30), ReplayBuffer(PIXELS, ACTION, 30)
    for episode in range(3):
        source.begin_episode(pixels(episode, 0))
        for t in range(4):
            source.add([0.1 * t], float(t), t == 3, False, pixels(episode, t + 1))
        if episode != 1:
            copy.copy_rows(source, source.rows - 5, source.rows)
    assert len(copy) == 8
    batch = copy.sample(300, np.random.default_rng(0), n_step=2, gamma=0.5)
    assert set(batch.observation[:, 0].tolist()) == {0.0, 2.0}
    assert torch.equal(batch.next_observation[:, 0], batch.observation[:, 0])
    t = batch.observation[:, 1]
    torch.testing.assert_close(batch.reward, torch.where(t < 3, t + 0.5 * (t + 1), t))
    expected = (10 * batch.next_observation[:, 0] + batch.next_observation[:, 1]).to(torch.uint8)
    assert (batch.next_images["observation/images/wrist"] == expected[:, None, None, None]).all()


def test_a_large_ring_lies_in_a_file(monkeypatch):
    monkeypatch.setattr(replay, "RAM_BYTES", 100)
    test_images_belong_to_the_observations_of_the_same_batch()


def test_observations_are_copied_when_added():
    buffer, reused = ReplayBuffer(CODE, ACTION, 10), np.zeros(2, np.float32)
    buffer.begin_episode(reused)
    for t in range(3):
        reused[:] = (0, t + 1)
        buffer.add([0.0], 0.0, False, t == 2, reused)
    batch = buffer.sample(100, np.random.default_rng(0), n_step=1)
    assert torch.equal(batch.next_observation[:, 1], batch.observation[:, 1] + 1)


def test_vectors_are_joined_in_the_space_s_order_without_images():
    space = gym.spaces.Dict(
        {"b": gym.spaces.Box(-9, 9, (2,), np.float64), "a": gym.spaces.Box(-9, 9, (), np.float32), **PIXELS}
    )
    layout = ReplayBuffer(space, ACTION, 2).layout
    assert list(layout.vectors) == [f"observation/{key}" for key in space.spaces if key != "images"]
    values = {**pixels(5, 6), "a": np.float32(1), "b": np.array([2.0, 3.0])}
    parts = {"a": [1.0], "b": [2.0, 3.0], "state": [5.0, 6.0]}
    assert layout.flatten(values).tolist() == [x for key in space.spaces if key != "images" for x in parts[key]]


def test_sampling_into_a_batch_reuses_it_and_otherwise_is_fresh():
    buffer, rng = three_steps("truncated"), np.random.default_rng(0)
    out = buffer.empty_batch(8)
    first = buffer.sample(8, rng, out=out)
    assert first is out
    fresh = buffer.sample(8, rng)
    kept = fresh.observation.clone()
    buffer.sample(8, rng)
    buffer.sample(8, rng, out=out)
    assert torch.equal(fresh.observation, kept)
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in fresh[:6])


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 8), (0.25, 4), (0.0, 0), (1.0, 16)])
def test_mixed_batches_have_the_fraction_of_demonstrations(fraction, expected):
    demo, online = ReplayBuffer(CODE, ACTION, 50), ReplayBuffer(CODE, ACTION, 50)
    add_episode(demo, 1, 5, "terminated")
    add_episode(online, 2, 5, "truncated")
    batch = sample_mixed(demo, online, 16, np.random.default_rng(0), demo_fraction=fraction, n_step=2)
    assert batch.is_demo.tolist() == [1.0] * expected + [0.0] * (16 - expected)
    assert torch.equal(batch.observation[:, 0], 2 - batch.is_demo)


def test_a_mixed_batch_is_all_from_the_buffer_that_has_something():
    demo, empty = three_steps("terminated"), ReplayBuffer(CODE, ACTION, 50)
    assert sample_mixed(demo, empty, 16, np.random.default_rng(0)).is_demo.sum() == 16
    assert sample_mixed(empty, demo, 16, np.random.default_rng(0)).is_demo.sum() == 0
    with pytest.raises(StoreError, match="no transition"):
        sample_mixed(empty, empty, 16, np.random.default_rng(0))


def test_wrong_input_is_refused_by_name_and_adds_nothing():
    buffer = ReplayBuffer(CODE, ACTION, 10)
    with pytest.raises(StoreError, match="begin_episode"):
        buffer.add([0.0], 0.0, False, False, observation(0, 1))
    buffer.begin_episode(observation(0, 0))
    for action, reward, following, named in [
        ([0.0, 0.0], 0.0, observation(0, 1), "action.*shape"),
        ([np.nan], 0.0, observation(0, 1), "action.*finite"),
        ([0.0], np.inf, observation(0, 1), "reward"),
        ([0.0], 0.0, np.zeros(3, np.float32), r"observation.*\(3,\)"),
    ]:
        with pytest.raises(ShapeError, match=named):
            buffer.add(action, reward, False, False, following)
    assert buffer.rows == 0
    with pytest.raises(StoreError, match="no transition"):
        buffer.sample(1, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="capacity"):
        ReplayBuffer(CODE, ACTION, 1)
    with pytest.raises(ConfigError, match="Box"):
        ReplayBuffer(CODE, gym.spaces.Discrete(3), 10)


def test_a_store_of_another_task_is_refused(tmp_path: Path):
    space = gym.spaces.Box(-1, 1, (3,), np.float32)
    store = EpisodeStore.create(tmp_path / "s", observation_space=space, action_space=ACTION, metadata={})
    with store, pytest.raises(ConfigError, match=r"float32 \(3,\) stored, float32 \(2,\) wanted"):
        ReplayBuffer(CODE, ACTION, 10).extend_from_store(store)
