"""The agent: schedules, random streams, saving, and that it learns what is known to be optimal."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robot_rl.agents.sac import AgentConfig, Batch, SACAgent
from robot_rl.errors import ConfigError, ShapeError
from robot_rl.vision import kernels as kernels_of_vision
from robot_rl.vision import keypoints
from robot_rl.vision.encoders import FeatureEncoder

SMALL = {"hidden_sizes": (32, 32), "critics": 4, "policy_delay": 2}


def random_batch(seed: int = 0, rows: int = 64, observation_dim: int = 3, action_dim: int = 2) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(rows, observation_dim, generator=g),
        torch.rand(rows, action_dim, generator=g) * 2 - 1,
        torch.randn(rows, generator=g),
        torch.full((rows,), 0.9),
        torch.randn(rows, observation_dim, generator=g),
        (torch.arange(rows) < rows // 2).float(),
    )


def agent(seed: int = 0, **changes: object) -> SACAgent:
    return SACAgent(3, 2, AgentConfig(**(SMALL | changes)), seed)


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


VARIANTS = [
    {},
    {"fused": False},
    {"critic_weight_decay": 10.0},
    {"entropy_backup": True},
    {"gripper": "discrete", "bc_weight": 1.0},
    {"bc_weight": 1.0, "bc_loss": "nll", "actor_value": "min", "activation": "relu"},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_agent_continues_bit_for_bit(variant: dict[str, object]):
    one = agent(warmup_steps=5, **variant)
    one.pretrain_bc(random_batch())
    for i in range(5):
        one.update(random_batch(i))
        one.act(np.zeros(3, np.float32))
    other = agent(seed=99, warmup_steps=5, **variant)
    other.load_state_dict(load(save(one.state_dict())))
    for i in range(5, 12):
        one.update(random_batch(i))
        other.update(random_batch(i))
        np.testing.assert_array_equal(one.act(np.ones(3, np.float32)), other.act(np.ones(3, np.float32)))
    assert_same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("threads", [1, 2])
def test_same_seed_same_numbers_whatever_the_threads(threads: int):
    runs = []
    before = torch.get_num_threads()
    for count in (threads, 2):
        torch.set_num_threads(count)
        one = agent(seed=7, critics=3)
        for i in range(6):
            one.update(random_batch(i, rows=128))
        runs.append(one.state_dict())
    torch.set_num_threads(before)
    assert_same(*runs)


def test_fused_and_plain_agents_agree():
    one, other = agent(), agent(fused=False)
    for i in range(6):
        fused, plain = one.update(random_batch(i)), other.update(random_batch(i))
        for name in fused:
            torch.testing.assert_close(fused[name], plain[name], rtol=2e-3, atol=1e-4)


class Tape(TorchDispatchMode):
    """Every tensor operation with the very tensors it took and gave: what a CUDA graph keeps of the work it records."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a number is read back to the host"
        out = func(*args, **(kwargs or {}))
        drawn = any(isinstance(argument, torch.Generator) for argument in (*args, *(kwargs or {}).values()))
        if not drawn:  # a replay does not draw: what was drawn on the host stays
            self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for one, other in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if (
                    isinstance(one, torch.Tensor)
                    and one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr()
                ):
                    one.copy_(other)


def as_on_a_tape(recorded_agent):
    """Stands for `record_cuda_graph`: recording changes nothing, replaying repeats what was done on the same memory."""

    def record(work):
        before, tape = recorded_agent.state_dict(), Tape()
        with tape:
            metrics = work()
        recorded_agent.load_state_dict(before)
        return tape.replay, metrics

    return record


@pytest.mark.parametrize("variant", VARIANTS)
def test_recorded_updates_are_those_carried_out_as_written(variant: dict[str, object]):
    """All that a recording needs lies at fixed places: batch, draws, rates. A batch of another size is not replayed."""
    one, other = (agent(**{**variant, "fused": False}, warmup_steps=20) for _ in range(2))
    other.record(as_on_a_tape(other))
    for i in range(24):
        batch = random_batch(i, rows=32 if i == 20 else 64)
        left, right = one.update(batch), other.update(batch)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert_same(one.state_dict(), other.state_dict())


def test_recorded_updates_see_new_pictures(monkeypatch):
    monkeypatch.setattr("robot_rl.vision.keypoints.locate", keypoints.locate_anywhere)
    monkeypatch.setattr("robot_rl.vision.encoders.embed", kernels_of_vision.embed_anywhere)
    config = AgentConfig(**SMALL, bc_weight=1.0, fused=False)
    one, other = (SACAgent(3, 2, config, 0, encoder=partial(eyes, dropout=0.0)) for _ in range(2))
    other.record(as_on_a_tape(other))
    for i in range(16):
        one.update(seen_batch(i))
        other.update(seen_batch(i))
    assert_same(one.state_dict(), other.state_dict())


def test_updates_that_draw_are_not_recorded():
    one = SACAgent(3, 2, AgentConfig(**SMALL), 0, encoder=eyes)
    with pytest.raises(ConfigError, match=r"vision\.dropout"):
        one.record(as_on_a_tape(one))


def test_acting_does_not_change_what_is_learnt():
    one, other = agent(), agent()
    for i in range(4):
        one.act(np.zeros(3, np.float32))
        one.update(random_batch(i))
        other.update(random_batch(i))
    assert torch.equal(one.critics.parameters, other.critics.parameters)


def test_no_optimiser_steps_without_gradients():
    """SERL's fault 6: Adam on zero gradients moved actor and temperature on critic-only updates."""
    one = agent()
    one.update(random_batch(), update_actor=True)
    before = one.state_dict()
    for i in range(3):
        metrics = one.update(random_batch(i), update_actor=False)
        assert "actor_loss" not in metrics
    after = one.state_dict()
    for name in ("actor", "adam.actor.m", "adam.actor.v", "adam.actor.steps", "raw_temperature", "adam.temperature.m"):
        assert torch.equal(before[name], after[name]), name
    assert int(after["adam.critics.steps"]) == int(before["adam.critics.steps"]) + 3


def test_the_actor_moves_once_in_policy_delay_updates():
    one = agent(policy_delay=3)
    moved = ["actor_loss" in one.update(random_batch(i)) for i in range(6)]
    assert moved == [False, False, True, False, False, True]


def test_only_the_drawn_target_critics_are_evaluated_and_all_are_drawn_in_time():
    one = agent(critics_in_target=2)
    drawn = []
    original = one.target_critics.mlp.evaluate_subset

    def spy(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        drawn.append(tuple(sorted(index.tolist())))
        return original(x, index)

    one.target_critics.mlp.evaluate_subset = spy
    for i in range(40):
        one.update(random_batch(i))
    assert all(len(set(index)) == 2 for index in drawn)
    assert len(set(drawn)) == 6  # all pairs of 4


def test_targets_do_not_bootstrap_at_discount_zero():
    one = agent()
    with torch.no_grad():
        one.target_critics.parameters.fill_(float("nan"))
    batch = random_batch()._replace(discount=torch.zeros(64))
    with torch.no_grad():
        one.target_critics.parameters.fill_(1e6)
        target = one._target(batch, one.encode(batch.next_observation), one.draw(64, actor=False).target)
    torch.testing.assert_close(target, batch.reward)


def test_polyak_moves_targets_by_tau():
    one = agent(tau=0.25)
    before = one.target_critics.parameters.clone()
    one.update(random_batch())
    expected = 0.75 * before + 0.25 * one.critics.parameters.detach()
    torch.testing.assert_close(one.target_critics.parameters, expected)


def test_observation_statistics_are_applied_and_travel_with_the_policy():
    one, plain = agent(), agent()
    one.scale.set(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 4.0]))
    observation = np.array([3.0, 2.0, -1.0], np.float32)
    normalised = np.array([1.0, 0.0, -1.0], np.float32)  # by hand
    np.testing.assert_array_equal(one.act(observation, True), plain.act(normalised, True))
    other = agent(seed=5)
    other.load_policy_state(load(save(one.policy_state())))
    np.testing.assert_array_equal(other.act(observation, True), one.act(observation, True))


def test_published_policy_is_a_copy():
    one = agent()
    published = one.policy_state()
    before = published["actor"].clone()
    one.update(random_batch(), update_actor=True)
    assert torch.equal(published["actor"], before)


def test_cloning_reproduces_the_demonstrator_and_ignores_the_rest():
    one = agent(learning_rate=3e-3)
    critics = one.critics.parameters.clone()
    for i in range(300):
        batch = random_batch(i)
        expert = 0.5 * torch.tanh(batch.observation[:, :2])
        action = torch.where(batch.is_demo[:, None] > 0, expert, batch.action)
        one.pretrain_bc(batch._replace(action=action))
    test = random_batch(1000).observation
    with torch.no_grad():
        error = (one.actor(one.encode(test)).mode() - 0.5 * torch.tanh(test[:, :2])).abs().mean()
    assert error < 0.06
    assert torch.equal(critics, one.critics.parameters)


PICTURES = {"front": (3, 1, 5), "wrist": (2, 7, 1)}  # channels, rows, columns


def eyes(vector_dim: int, generator: torch.Generator, actor: bool, dropout: float = 0.1) -> FeatureEncoder:
    spreads = {name: torch.full((channels,), 0.05) for name, (channels, *_) in PICTURES.items()}
    return FeatureEncoder(PICTURES, spreads, vector_dim, (2, 8, 3 * actor), dropout, generator)


def seen_batch(seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(1000 + seed)
    images, following = (
        {n: torch.randint(0, 256, (64, c, h * w), generator=g, dtype=torch.uint8) for n, (c, h, w) in PICTURES.items()}
        for _ in range(2)
    )
    return random_batch(seed)._replace(images=images, next_images=following)


def test_a_discrete_gripper_learns_when_to_close():
    """Closing pays 1 where the first entry is positive, opening elsewhere; staying never."""
    one = SACAgent(3, 2, AgentConfig(**(SMALL | {"learning_rate": 3e-3, "gripper": "discrete"})), 0)
    g = torch.Generator().manual_seed(3)
    for i in range(300):
        batch = random_batch(i)
        choice = torch.tensor([-1.0, 0.0, 1.0])[torch.randint(0, 3, (64,), generator=g)]
        paid = (choice * batch.observation[:, 0].sign() == -1.0).float()
        action = torch.stack((batch.action[:, 0], choice), -1)
        one.update(batch._replace(action=action, reward=paid, discount=torch.zeros(64)), update_actor=False)
    for x, wanted in ((1.0, -1.0), (-1.0, 1.0)):
        action = one.act(np.array([x, 0.0, 0.0], np.float32), deterministic=True)
        assert action.shape == (2,)
        assert action[1] == wanted


def test_a_discrete_gripper_is_cloned():
    one = SACAgent(3, 2, AgentConfig(**(SMALL | {"learning_rate": 3e-3, "gripper": "discrete"})), 0)
    for i in range(150):
        batch = random_batch(i)
        action = torch.stack((batch.action[:, 0], torch.where(batch.observation[:, 1] > 0, 1.0, -1.0)), -1)
        one.pretrain_bc(batch._replace(action=action, is_demo=torch.ones(64)))
    assert one.act(np.array([0.0, 1.0, 0.0], np.float32))[1] == 1.0
    assert one.act(np.array([0.0, -1.0, 0.0], np.float32))[1] == -1.0


def test_each_encoder_learns_from_its_own_loss_and_is_saved():
    one, other = (SACAgent(3, 2, AgentConfig(**SMALL), seed, encoder=eyes) for seed in (0, 1))
    before = {name: value.clone() for name, value in one.state_dict().items() if name.startswith("encoder.")}

    def moved() -> set[str]:
        now = one.state_dict()
        return {name.split(".")[1] for name, value in before.items() if not torch.equal(value, now[name])}

    one.update(seen_batch(), update_actor=False)
    assert moved() == {"critics", "target_critics"}
    one.update(seen_batch(1), update_actor=True)
    assert moved() == {"actor", "critics", "target_critics"}
    other.load_state_dict(load(save(one.state_dict())))
    one.update(seen_batch(2))
    other.update(seen_batch(2))
    assert_same(one.state_dict(), other.state_dict())


def test_the_target_encoder_follows_by_tau():
    """One update at tau 0.25: the target moved a quarter of the way (by hand)."""
    one = SACAgent(3, 2, AgentConfig(**(SMALL | {"tau": 0.25})), 0, encoder=eyes)
    before = one.state_dict()
    one.update(seen_batch(), update_actor=False)
    after = one.state_dict()
    for name in (n for n in after if n.startswith("encoder.critics") and "spread" not in n):
        target = name.replace("critics", "target_critics")
        torch.testing.assert_close(after[target], before[target] + 0.25 * (after[name] - before[target]))


def test_cloning_sees_what_only_the_pictures_show():
    """The demonstrated action is +0.5 or -0.5 by one cell of one picture."""
    one = SACAgent(3, 2, AgentConfig(**(SMALL | {"learning_rate": 3e-3})), 0, encoder=eyes)
    for i in range(150):
        batch = seen_batch(i)
        bright = (batch.images["front"][:, 1, 2] > 127).float()[:, None]
        one.pretrain_bc(batch._replace(action=(bright - 0.5).expand(-1, 2), is_demo=torch.ones(64)))
    batch = seen_batch(999)
    bright = batch.images["front"][:, 1, 2] > 127
    with torch.no_grad():
        action = one.actor(one.encode(batch.observation, batch.images)).mode()[:, 0]
    assert ((action > 0) == bright).float().mean() > 0.85


def test_critics_find_the_value_of_a_chain():
    """Five states in a row, reward 1 at the end, discount 0.9: Q = 1, 0.9, 0.81, 0.729, 0.6561 (by hand)."""
    config = AgentConfig(critics=3, hidden_sizes=(64,), tau=0.05, learning_rate=3e-3)
    learner = SACAgent(5, 1, config, 0)
    states = torch.eye(5).repeat(16, 1)
    following = torch.roll(torch.eye(5), -1, dims=0).repeat(16, 1)
    last = states[:, 4]
    g = torch.Generator().manual_seed(0)
    for _ in range(700):
        action = torch.rand(80, 1, generator=g) * 2 - 1
        learner.update(Batch(states, action, last, 0.9 * (1 - last), following, torch.zeros(80)))
    values = learner.critics.values(torch.eye(5), torch.zeros(5, 1)).detach().mean(0)
    torch.testing.assert_close(values, torch.tensor([0.6561, 0.729, 0.81, 0.9, 1.0]), rtol=0, atol=0.05)


def test_the_actor_finds_the_best_action_of_a_bandit():
    """Reward -(a - 0.6 s)^2 with s in {-1, 1}: the best action is 0.6 s."""
    learner = SACAgent(1, 1, AgentConfig(critics=2, hidden_sizes=(64, 64), policy_delay=1, learning_rate=1e-3), 0)
    g = torch.Generator().manual_seed(0)
    for _ in range(600):
        state = torch.randint(0, 2, (64, 1), generator=g) * 2.0 - 1
        action = torch.rand(64, 1, generator=g) * 2 - 1
        reward = -(action - 0.6 * state).square()[:, 0]
        learner.update(Batch(state, action, reward, torch.zeros(64), state, torch.zeros(64)))
    for state in (-1.0, 1.0):
        action = learner.act(np.array([state], np.float32), deterministic=True)
        assert action[0] == pytest.approx(0.6 * state, abs=0.12)


def test_errors_name_what_is_wrong():
    with pytest.raises(ShapeError, match=r"\(3,\).*\(4,\)"):
        agent().act(np.zeros(4, np.float32))
    with pytest.raises(ShapeError, match="1 non-finite"):
        agent().act(np.array([0, np.nan, 0], np.float32))
    with pytest.raises(ConfigError, match="critics_in_target"):
        AgentConfig(critics=2, critics_in_target=3)
    with pytest.raises(ConfigError, match="tanh, relu"):
        AgentConfig(activation="swish")
    with pytest.raises(ShapeError, match="std must be positive"):
        agent().scale.set(np.zeros(3), np.array([1.0, 0.0, 1.0]))
    with pytest.raises(ShapeError, match="critics"):
        agent().load_state_dict(agent(critics=5).state_dict())


def test_observations_are_normalised_and_clipped():
    """Mean 1 and std 2 make 5 a 2, and 101 a 50 that is clipped to 4."""
    trained = SACAgent(2, 1, AgentConfig(hidden_sizes=(8,), observation_clip=4.0), 0)
    trained.scale.set(np.ones(2, np.float32), np.full(2, 2.0, np.float32))
    encoded = trained.encode(torch.tensor([[5.0, 101.0], [1.0, 1.02]]))
    torch.testing.assert_close(encoded, torch.tensor([[2.0, 4.0], [0.0, 0.01]]), rtol=1e-4, atol=1e-6)


def test_targets_stay_within_the_possible_returns():
    """A reward of 5 where at most 1 can be returned is a target of 1, whatever the target critics say."""
    bounded = SACAgent(3, 2, AgentConfig(hidden_sizes=(8,), critics=2, return_min=0.0, return_max=1.0), 0)
    metrics = bounded.update(random_batch()._replace(reward=torch.full((64,), 5.0)))
    assert float(metrics["target_value"]) == 1.0
    metrics = bounded.update(random_batch()._replace(reward=torch.full((64,), -5.0)))
    assert float(metrics["target_value"]) == 0.0
