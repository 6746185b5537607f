"""What a network sees of the past: rows by hand, the same for the learner and whoever acts, and that it pays."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl import cli
from robot_rl.actor import Actor
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.sac import SACAgent
from robot_rl.config import TrainConfig
from robot_rl.errors import ShapeError
from robot_rl.evaluation import evaluate, load_policy
from robot_rl.policy import Policy
from robot_rl.preparation import resolve
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.run_directory import RunDirectory
from robot_rl.store import EpisodeStore
from robot_rl.vision.config import VisionConfig
from tests.robot_rl import toy
from tests.robot_rl.test_cloning import clone
from tests.robot_rl.test_cloning import config as cloning
from tests.robot_rl.test_perception import FRONT, SPACE, eyes, pictures
from tests.robot_rl.test_replay import ACTION, CODE, PIXELS, add_episode, pixels
from tests.robot_rl.test_training import RICH, SMALL, Quiet, assert_same, config, result, train


@pytest.fixture(autouse=True)
def _registered():
    toy.register()


def stacks(batch) -> dict[tuple[int, int], tuple[list[int], list[int]]]:
    """(Episode, t) -> the times seen at the transition's start, and at its end; each stack is of one episode."""
    seen = {}
    for before, after in zip(batch.observation, batch.next_observation, strict=True):
        episodes, times = before.view(-1, 2).int().T.tolist()
        following, ends = after.view(-1, 2).int().T.tolist()
        assert len({*episodes, *following}) == 1
        seen[episodes[0], times[-1]] = (times, ends)
    return seen


def drawn(buffer, n_step=1, count=300):
    return stacks(buffer.sample(count, np.random.default_rng(0), n_step=n_step))


def test_the_rows_of_each_stack_by_hand():
    """History 3, two episodes: of three steps, and of two."""
    buffer = ReplayBuffer(CODE, ACTION, 100, history=3)
    add_episode(buffer, 0, 3, "terminated")
    add_episode(buffer, 1, 2, "truncated")
    first = {(0, 0): [0, 0, 0], (0, 1): [0, 0, 1], (0, 2): [0, 1, 2], (1, 0): [0, 0, 0], (1, 1): [0, 0, 1]}
    one = {(0, 0): [0, 0, 1], (0, 1): [0, 1, 2], (0, 2): [1, 2, 3], (1, 0): [0, 0, 1], (1, 1): [0, 1, 2]}
    assert drawn(buffer) == {key: (first[key], one[key]) for key in first}
    two = {(0, 0): [0, 1, 2], (0, 1): [1, 2, 3], (0, 2): [1, 2, 3], (1, 0): [0, 1, 2], (1, 1): [0, 1, 2]}
    assert drawn(buffer, n_step=2) == {key: (first[key], two[key]) for key in first}


def test_a_ring_that_overwrote_an_episodes_beginning_repeats_the_oldest_row_it_holds():
    """Six rows of one open episode in a ring of four: t = 2 to 5 are there."""
    buffer = ReplayBuffer(CODE, ACTION, 4, history=3)
    add_episode(buffer, 0, 6, "open")
    assert drawn(buffer) == {
        (0, 2): ([2, 2, 2], [2, 2, 3]),
        (0, 3): ([2, 2, 3], [2, 3, 4]),
        (0, 4): ([2, 3, 4], [3, 4, 5]),
    }


ENDINGS = st.sampled_from(["terminated", "truncated", "open"])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), ENDINGS), min_size=1, max_size=20),
    st.integers(2, 40), st.integers(1, 4), st.integers(2, 5),
)  # fmt: skip
def test_any_episodes_in_any_ring_give_the_newest_rows_of_their_own(episodes, capacity, n_step, history):
    buffer = ReplayBuffer(CODE, ACTION, capacity, history=history)
    rows: list[tuple[int, int]] = []
    for index, (length, ending) in enumerate(episodes):
        add_episode(buffer, index, length, ending)
        closed = ending != "open" or index < len(episodes) - 1
        rows += [(index, t) for t in range(length + closed)]
    oldest = dict(reversed(rows[-capacity:]))
    if not len(buffer):
        return
    for (episode, t), (before, after) in drawn(buffer, n_step, 100).items():
        least = oldest[episode]
        assert before == [max(t - k, least) for k in reversed(range(history))]
        assert after == [max(after[-1] - k, least) for k in reversed(range(history))]


def test_a_copied_part_of_an_episode_keeps_what_came_before_it():
    """A person had steps 3 and 4, then step 1 of the next episode; what was seen before is no transition of theirs."""
    source, copy = ReplayBuffer(CODE, ACTION, 50, history=3), ReplayBuffer(CODE, ACTION, 50, history=3)
    add_episode(source, 0, 6, "truncated")
    copy.copy_rows(source, 3, 6)
    add_episode(source, 1, 4, "terminated")
    copy.copy_rows(source, 7 + 1, 7 + 3)
    assert len(copy) == 3
    assert drawn(copy) == {
        (0, 3): ([1, 2, 3], [2, 3, 4]),
        (0, 4): ([2, 3, 4], [3, 4, 5]),
        (1, 1): ([0, 0, 1], [0, 1, 2]),
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(2, 5)), min_size=1, max_size=25), st.integers(6, 20))
def test_a_small_ring_of_copied_parts_draws_all_that_it_still_holds(parts, capacity):
    """Each part is rows `first` to `first + length` of an episode of twelve; history 3 brings up to two rows along."""
    source, copy = ReplayBuffer(CODE, ACTION, 50, history=3), ReplayBuffer(CODE, ACTION, capacity, history=3)
    add_episode(source, 0, 12, "truncated")
    rows: list[tuple[int, bool]] = []  # of the copy: t, and whether it begins a transition
    for first, length in parts:
        copy.copy_rows(source, first, first + length)
        ahead = min(first, 2, capacity - length)
        rows += [(t, first <= t < first + length - 1) for t in range(first - ahead, first + length)]
    expected = [t for t, transition in rows[-capacity:] if transition]
    assert len(copy) == len(expected)
    if expected:
        assert {t for _, t in drawn(copy)} == set(expected)


def test_pictures_are_stacked_as_their_vectors_are():
    buffer = ReplayBuffer(PIXELS, ACTION, 12, history=2)
    for episode in range(5):
        buffer.begin_episode(pixels(episode, 0))
        for t in range(3):
            buffer.add([0.0], 0.0, False, t == 2, pixels(episode, t + 1))
    batch = buffer.sample(100, np.random.default_rng(0), n_step=2)
    for states, frames in ((batch.observation, batch.images), (batch.next_observation, batch.next_images)):
        wrist = frames["observation/images/wrist"]
        assert wrist.shape == (100, 2 * 2, 3, 3)
        episodes, times = states.view(100, 2, 2).unbind(-1)
        expected = (10 * episodes + times).to(torch.uint8)
        assert (wrist.view(100, 2, 2, 3, 3) == expected[:, :, None, None, None]).all()


def test_all_pictures_of_an_episode_are_shifted_alike(monkeypatch):
    """One bright pixel each: how far it moved is read off."""
    one, rng = eyes(shifts=4), np.random.default_rng(0)
    monkeypatch.setattr(one, "look", lambda _, shown: shown[:, None])
    shown, (y, x) = np.zeros((9, 64, 64, 3), np.uint8), rng.integers(8, 56, (2, 9))
    shown[np.arange(9), y, x] = 255
    kept = one.remember(FRONT, shown, [7] * 4 + [8] * 5)[..., 0]
    moved = np.stack([np.argwhere(k)[0] for k in kept.reshape(-1, 64, 64)]).reshape(9, 4, 2) - np.c_[y, x][:, None]
    assert (moved[:4] == moved[0]).all()
    assert (moved[4:] == moved[4]).all()
    assert not moved[:, 0].any(), "the first is not shifted"
    assert (moved[0] != moved[4]).any()
    assert len(np.unique(moved[:, 1:].reshape(-1, 2), axis=0)) > 3


def test_a_stack_is_of_one_cached_shift_whether_live_or_from_a_store(tmp_path):
    """Of two episodes that show the same picture in the middle, shifted as each began."""
    one, shown = eyes(shifts=3), pictures(6)[[0, 1, 2, 3, 1, 5]]

    def seen(t):
        return {"state": np.full(3, t, np.float32), "images": {"front": shown[t]}}

    live, again = (ReplayBuffer(SPACE, gym.spaces.Box(-1, 1, (2,), np.float32), 20, one, 2) for _ in range(2))
    with EpisodeStore.create(
        tmp_path / "s", observation_space=SPACE, action_space=live.action_space, metadata={}
    ) as store:
        for first in (0, 3):
            live.begin_episode(seen(first))
            store.begin_episode(seen(first))
            for t in (first + 1, first + 2):
                live.add([0.0, 0.0], 0.0, t == first + 2, False, seen(t))
                store.append(action=[0.0, 0.0], reward=0.0, terminated=t == first + 2, truncated=False,
                             next_observation=seen(t))  # fmt: skip
            store.commit()
        again.extend_from_store(store, again.extend_from_store(store, 0, 2))  # cut within the first episode
    kept = live._images[FRONT]
    np.testing.assert_array_equal(kept[:6], again._images[FRONT][:6])
    assert (kept[1] == kept[4]).all((1, 2)).tolist() == [True, False, False]
    batch = live.sample(200, np.random.default_rng(0))
    found = set()
    for vector, stack in zip(batch.observation.view(-1, 2, 3), batch.images[FRONT].view(-1, 2, 32, 16), strict=True):
        before, now = (
            {i for i in range(3) if np.array_equal(kept[int(v[0]), i], features)}
            for v, features in zip(vector, stack.numpy(), strict=True)
        )
        assert before & now
        found |= before & now
    assert found == {0, 1, 2}


@pytest.mark.parametrize("encoder", ["efficientnet_lite0", "conv"])
def test_acting_sees_what_is_learnt_from(encoder, monkeypatch):
    """What reaches the actor at each step of an episode is what replay draws for that step, also after going on."""
    settings_ = TrainConfig(
        task="", history=3, vision=VisionConfig(encoder=encoder, shifts=1),
        agent=AgentConfig(hidden_sizes=(16,), critics=2),
    )  # fmt: skip
    action_space, shown = gym.spaces.Box(-1, 1, (2,), np.float32), pictures(5)
    policy, resumed = Policy(settings_, SPACE, action_space), Policy(settings_, SPACE, action_space)
    buffer = ReplayBuffer(SPACE, action_space, 20, policy.perception, 3)
    reached = []
    act = SACAgent.act
    monkeypatch.setattr(
        SACAgent, "act", lambda self, v, d, images: (reached.append((v, images[FRONT])), act(self, v, d, images))[1]
    )

    def seen(t):
        return {"state": np.full(3, t, np.float32), "images": {"front": shown[t]}}

    policy.act(seen(4))
    policy.begin_episode()
    buffer.begin_episode(seen(0))
    for t in range(4):
        policy.see(seen(t)) if t == 1 else policy.act(seen(t))
        buffer.add([0.0, 0.0], 0.0, t == 3, False, seen(t + 1))
    resumed.begin_episode([seen(t) for t in range(3)])
    resumed.act(seen(3))
    batch = buffer.sample(100, np.random.default_rng(0))
    for t, (vector, images) in zip((0, 2, 3, 3), reached[1:], strict=True):
        i = int((batch.observation[:, -1] == t).nonzero()[0, 0])
        np.testing.assert_array_equal(vector, batch.observation[i])
        torch.testing.assert_close(images[0], batch.images[FRONT][i], rtol=0, atol=0)
    agent = policy.agent("")
    agent.update(buffer.sample(8, np.random.default_rng(0)), update_actor=True)
    agent.pretrain_bc(buffer.sample(8, np.random.default_rng(0))._replace(is_demo=torch.ones(8)))
    resumed.load_state_dict(policy.state_dict())
    policy.begin_episode([seen(2)])
    resumed.begin_episode([seen(1), seen(2)])
    one, other = (p.act(seen(3)) for p in (policy, resumed))
    assert (one != other).any(), "the oldest of the three counts"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    toy.register()
    path = tmp_path_factory.mktemp("whole") / "run"
    train(config(**RICH, history=3), path)
    return result(path)


@pytest.mark.parametrize("stops", [(2,), (8,), (23, 24, 25)])
def test_stopped_at_any_step_it_goes_on_with_the_same_numbers(tmp_path, stops, uninterrupted):
    for stop in stops:
        train(config(**RICH, history=3), tmp_path / "run", stop_at=stop)
    assert train(config(**RICH, history=3), tmp_path / "run")[0] == "steps"
    assert_same(result(tmp_path / "run"), uninterrupted)


def test_statistics_are_repeated_for_each_of_them(uninterrupted):
    mean = np.frombuffer(uninterrupted[0][0]["observation_mean"], np.float32)
    std = np.frombuffer(uninterrupted[0][0]["observation_std"], np.float32)
    assert mean.shape == (3,)
    assert (mean == mean[0]).all()
    assert (std == std[0]).all()
    assert std[0] not in (0.0, 1.0)


def told(run, first):
    """What a history of three says at each step of a run from the first of them on, by what is stored."""
    store, stacks = EpisodeStore.open(run.episodes), []
    for record in store.episode_table():
        column = store.read(record.start, record.start + record.length, ["observation"])["observation"][:, 0]
        stacks += [column[[max(t - 2, 0), max(t - 1, 0), t]] for t in range(record.length)]
    return np.stack(stacks[first:])


def test_training_and_an_actor_that_goes_on_act_on_what_was_seen(tmp_path, monkeypatch):
    """Also of the random steps. The actor is stopped and started again in the middle of an episode."""
    seen, act = [], SACAgent.act
    monkeypatch.setattr(SACAgent, "act", lambda self, v, d, images: (seen.append(v), act(self, v, d, images))[1])
    settings_ = config(random_steps=7, history=3, steps=40, utd="free")
    _, trainer, _ = train(settings_, tmp_path / "run")
    np.testing.assert_array_equal(seen, told(trainer.run, 7))
    settings_ = replace(settings_, random_steps=16)
    _, trainer, _ = train(settings_, tmp_path / "cut", stop_at=15)
    assert not EpisodeStore.open(trainer.run.episodes).episode_table()[-1].closed
    seen.clear()
    assert Actor(resolve(settings_), trainer.run, Quiet()).act() == "steps"
    np.testing.assert_array_equal(seen, told(trainer.run, 16))


def test_a_policy_of_another_history_is_one_message(tmp_path, capsys):
    clone(tmp_path / "first", cloning("bc", history=2))
    arguments = ["train", "toy/Point-v0", "--init", str(tmp_path / "first"), "--run", str(tmp_path / "run"),
                 "--set", "agent.hidden_sizes=[32,32]"]  # fmt: skip
    assert cli.main(arguments) == 2
    assert "trained with history=2, and here history is 1. Set history=2" in " ".join(capsys.readouterr().err.split())
    run = RunDirectory(tmp_path / "first")
    with pytest.raises(ShapeError, match="trained with history=2, and here history is 3"):
        load_policy(run, cloning("bc", history=3), gym.make("toy/Point-v0"))
    with pytest.raises(ShapeError, match="trained with history=2, and here history is 1"):
        Policy(cloning("bc"), gym.spaces.Box(-2, 2, (1,)), ACTION).load_state_dict(run.checkpoints.load()[0])


def settled(settings_, run):
    """Of thirty episodes."""
    env = gym.make(settings_.task)
    return sum(evaluate(env, load_policy(run, settings_, env), 30).successes)


@pytest.mark.parametrize(("history", "least", "most"), [(1, 0, 10), (2, 29, 30)])
def test_a_velocity_that_is_not_seen_is_cloned_from_two_positions_alone(tmp_path, history, least, most):
    """See `toy.Glide`: its script always settles, and no feedback of one position does."""
    settings_ = cloning("bc", task="toy/Glide-v0", demos="20", bc_updates=600, history=history)
    _, run = clone(tmp_path / "run", settings_)
    assert least <= settled(settings_, run) <= most


def test_chunks_by_flow_matching_see_it_too(tmp_path):
    settings_ = cloning("flow", task="toy/Glide-v0", demos="20", bc_updates=250, history=2)
    _, run = clone(tmp_path / "run", settings_)
    assert settled(settings_, run) >= 27


def test_reinforcement_learning_finds_it_too(tmp_path):
    agent = replace(SMALL, learning_rate=1e-3, target_entropy_per_action=-0.5)
    settings_ = config(task="toy/Glide-v0", history=2, demos="20", steps=700, utd_ratio=2.0, gamma=0.9, agent=agent,
                       batch_size=64)  # fmt: skip
    _, trainer, _ = train(settings_, tmp_path / "run")
    assert settled(settings_, trainer.run) >= 28
