"""The learner on a CUDA device: the same numbers as on the CPU, and a run from the command line to a policy."""

import numpy as np
import pytest
import torch

from robot_rl import cli
from robot_rl.agents.batch import Batch
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.sac import SACAgent
from tests.robot_rl import toy

pytestmark = pytest.mark.gpu

UPDATES = 20


@pytest.fixture(autouse=True)
def _cuda():
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")


def batch(rng):
    def draw(*shape):
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    rewards = torch.from_numpy((rng.uniform(size=256) < 0.1).astype(np.float32))
    actions, demo = torch.tanh(draw(256, 7)), torch.from_numpy(rng.integers(0, 2, 256).astype(np.float32))
    return Batch(draw(256, 25), actions, rewards, 0.95 * (1 - rewards), draw(256, 25), demo)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize(("precision", "tolerance"), [("highest", 1e-4), ("high", 2e-2)])
def test_twenty_updates_are_those_of_the_cpu(precision, tolerance, graphs):
    """Float32 to rounding; with TF32, as training has it, to its ten bits of mantissa; recorded updates the same."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        config = AgentConfig(critics=4, policy_delay=2, bc_weight=1.0, observation_clip=5.0, cuda_graphs=graphs)
        one, other = (SACAgent(25, 7, config, 0, device) for device in ("cpu", "cuda"))
        rng = np.random.default_rng(0)
        for _ in range(UPDATES):
            drawn = batch(rng)
            left = one.update(drawn)
            right = other.update(Batch(*(None if part is None else part.cuda() for part in drawn)))
    finally:
        torch.set_float32_matmul_precision(before)
    for name, value in left.items():
        assert float(right[name]) == pytest.approx(float(value), rel=tolerance, abs=tolerance), name
    mine, theirs = one.policy_state(), other.policy_state()
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["sac", "bc", "flow"])
def test_a_run_on_the_device_ends_in_a_policy(kind, tmp_path):
    toy.register()
    arguments = ["train", "toy/Point-v0", "--agent", kind, "--demos", "8", "--run", str(tmp_path / "run"), "--steps",
                 "100", "--set", "device=cuda", "bc_updates=300", "eval_episodes=20"]  # fmt: skip
    assert cli.main(arguments) == 0
    assert (tmp_path / "run" / "evaluation.json").is_file()


@pytest.mark.parametrize("graphs", ["false", "true"])
def test_pictures_are_learnt_from_on_the_device(graphs, tmp_path):
    arguments = ["train", "reach", "--preset", "pixels", "--demos", "2", "--run", str(tmp_path / "run"), "--steps",
                 "30", "--set", "device=cuda", "bc_updates=20", "eval_episodes=2", "env.image_size=48",
                 "actor_starts=0", f"agent.cuda_graphs={graphs}"]  # fmt: skip
    assert cli.main(arguments) == 0
