"""Cloned policies: Gaussian and by flow matching, from demonstrations to a policy, and as where learning begins."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from robot_rl import cli
from robot_rl.agents.batch import Batch
from robot_rl.agents.config import AgentConfig
from robot_rl.agents.flow import FlowAgent
from robot_rl.agents.sac import SACAgent
from robot_rl.cloning import Cloning
from robot_rl.config import TrainConfig, cloned
from robot_rl.errors import ConfigError
from robot_rl.metrics import read_metrics
from robot_rl.progress import TrainingProgress
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.run_directory import RunDirectory, load_tensors
from tests.robot_rl import toy


@pytest.fixture(autouse=True)
def _toy():
    toy.register()


def config(kind, **changes):
    agent = AgentConfig(kind=kind, hidden_sizes=(32, 32), critics=2, chunk=4, chunk_executed=2, learning_rate=1e-3)
    chosen = {"task": "toy/Point-v0", "demos": "8", "bc_updates": 150, "batch_size": 64, "normalise": True}
    return TrainConfig(agent=agent, **(chosen | changes))


def clone(path, settings, stop_at=None):
    with TrainingProgress("test") as progress:
        run = RunDirectory(path) if path.is_dir() else RunDirectory.create(settings, path)
        one = Cloning(settings, run, progress)
        if stop_at is not None:
            real = progress.update

            def update(**scalars):
                one.stop_requested |= scalars.get("step") == stop_at and "imitation_loss" in scalars
                real(**scalars)

            progress.update = update
        return one.train(), run


def test_chunks_end_where_their_episode_does():
    """Two episodes of three and two steps, whose actions are numbered 1 to 5."""
    space = gym.spaces.Box(-9, 9, (1,), np.float32)
    buffer = ReplayBuffer(space, gym.spaces.Box(-9, 9, (1,), np.float32), 100)
    number = 0
    for length in (3, 2):
        buffer.begin_episode(np.array([number], np.float32))
        for i in range(length):
            number += 1
            action = np.array([number], np.float32)
            buffer.add(action, 0.0, i == length - 1, False, np.array([number], np.float32))
    batch = buffer.sample_chunks(np.random.default_rng(0), 3, buffer.empty_batch(64))
    assert batch.chunks is not None
    assert batch.chunks_there is not None
    seen = {
        tuple(int(a) for a in actions[there > 0, 0])
        for actions, there in zip(batch.chunks.numpy(), batch.chunks_there.numpy(), strict=True)
    }
    assert seen == {(1, 2, 3), (2, 3), (3,), (4, 5), (5,)}
    np.testing.assert_array_equal(batch.chunks[:, 0], batch.action)
    assert not batch.chunks[batch.chunks_there == 0].any(), "and nothing of other episodes or of unwritten memory"


def fork(count, rng):
    """At the same place half of the demonstrators go left at 0.8 and half right: chunks of two actions."""
    side = rng.choice([-0.8, 0.8], count).astype(np.float32)
    chunks = torch.from_numpy(np.repeat(side, 2).reshape(count, 2, 1))
    zeros = torch.zeros(count, 1)
    return Batch(
        zeros, chunks[:, 0].contiguous(), zeros[:, 0], zeros[:, 0], zeros, torch.ones(count),
        chunks=chunks, chunks_there=torch.ones(count, 2),
    )  # fmt: skip


def test_a_flow_holds_both_ways_where_a_gaussian_takes_neither():
    torch.set_num_threads(1)  # as Policy does
    rng = np.random.default_rng(0)
    settings = AgentConfig(kind="flow", chunk=2, chunk_executed=2, hidden_sizes=(32,), learning_rate=1e-3)
    flow, gaussian = FlowAgent(1, 1, settings, 0), SACAgent(1, 1, settings, 0)
    for _ in range(800):
        batch = fork(128, rng)
        flow.pretrain_bc(batch)
        gaussian.pretrain_bc(batch)
    here = np.zeros(1, np.float32)
    drawn = np.array([[flow.act(here)[0], flow.act(here)[0]] for _ in range(60)])
    assert (np.abs(np.abs(drawn) - 0.8) < 0.2).mean() > 0.85
    assert 10 < (drawn[:, 0] > 0).sum() < 50
    assert (np.sign(drawn[:, 0]) == np.sign(drawn[:, 1])).mean() > 0.95, "the two actions of a chunk are of one mind"
    assert abs(gaussian.act(here, deterministic=True)[0]) < 0.2


def test_a_chunk_is_executed_in_part_and_dropped_with_its_episode():
    settings = AgentConfig(kind="flow", chunk=4, chunk_executed=2)
    agent, here, elsewhere = FlowAgent(1, 1, settings, 0), np.zeros(1, np.float32), np.full(1, 5.0, np.float32)
    first = agent.act(here, deterministic=True)
    second = agent.act(elsewhere, deterministic=True)  # planned before
    agent.begin_episode()
    assert agent.act(here, deterministic=True) == first
    assert agent.act(here, deterministic=True) == second
    assert agent.act(elsewhere, deterministic=True) != first, "looked again"


@pytest.mark.parametrize("kind", ["bc", "flow"])
def test_cloned_demonstrations_reach_the_goal(kind, tmp_path, capsys):
    """The command, and what it says; the script always reaches the origin within its twelve steps."""
    arguments = ["train", "toy/Point-v0", "--agent", kind, "--demos", "20", "--run", str(tmp_path / "run"),
                 "--set", "agent.hidden_sizes=[32,32]", "bc_updates=600", "batch_size=64", "agent.learning_rate=0.001",
                 "agent.chunk=4", "agent.chunk_executed=2", "eval_episodes=20"]  # fmt: skip
    assert cli.main(arguments) == 0
    assert "Cloned in 600 updates." in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["successes"] >= 18
    losses = [row["imitation_loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert len(losses) == 12
    assert (tmp_path / "run" / "plots" / "learning_curve.png").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["bc", "flow"])
def test_cloning_goes_on_with_the_same_numbers(kind, tmp_path):
    reason, whole = clone(tmp_path / "whole", config(kind))
    assert reason == "cloned"
    reason, cut = clone(tmp_path / "cut", config(kind), stop_at=50)
    assert reason == "stopped"
    assert not cut.policy.exists()
    clone(tmp_path / "cut", config(kind))
    one, other = load_tensors(whole.policy)[0], load_tensors(cut.policy)[0]
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=0)


def test_learning_begins_with_a_cloned_policy(tmp_path):
    """With no update of the actor, what a run publishes is what it began with."""
    _, first = clone(tmp_path / "first", config("bc"))
    arguments = ["train", "toy/Point-v0", "--init", str(tmp_path / "first"), "--demos", "4", "--run",
                 str(tmp_path / "run"), "--steps", "10", "--no-evaluate", "--set", "agent.hidden_sizes=[32,32]",
                 "batch_size=16", "actor_starts=1000"]  # fmt: skip
    assert cli.main(arguments) == 0
    one, other = (load_tensors(RunDirectory(tmp_path / n).policy)[0] for n in ("first", "run"))
    for name in ("actor", "observation_mean", "observation_std"):
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=0)
    assert first.policy.is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--agent", "dagger"], "sac, bc (Gaussian) or flow"),
        (["--agent", "bc", "--demos", "none"], "there are none. Give --demos PATH"),
        (["--agent", "bc", "--eval-every", "10"], "nobody acts meanwhile"),
        (["--agent", "flow", "--async"], "nobody acts meanwhile"),
        (["--set", "agent.chunk_executed=9"], "between 1 and agent.chunk (8)"),
        (["--init", "nowhere"], "is no run directory"),
    ],
)
def test_what_cannot_be_is_said(more, said, tmp_path, capsys):
    assert cli.main(["train", "toy/Point-v0", "--run", str(tmp_path / "run"), *more]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists(), "nothing was begun"


def test_a_cloned_run_is_only_gone_on_with_as_one(tmp_path, capsys):
    """Learning step by step in it would overwrite the policy that was cloned."""
    _, run = clone(tmp_path / "run", config("bc"))
    before, settings, resumed = run.policy.read_bytes(), run.config.read_bytes(), ["train", "--resume", str(run.path)]
    for arguments in (
        [*resumed, "--async"], [*resumed, "--eval-every", "5"], ["actor", str(run.path)], ["learner", str(run.path)],
    ):  # fmt: skip
        assert cli.main(arguments) == 2, arguments
        assert "only clone" in capsys.readouterr().err
    assert (run.policy.read_bytes(), run.config.read_bytes()) == (before, settings)
    assert not run.episodes.exists()


def test_what_is_asked_for_beats_a_file(tmp_path):
    clone(tmp_path / "sac", config("bc"))
    text = (tmp_path / "sac" / "config.yaml").read_text()
    (tmp_path / "sac.yaml").write_text(text.replace("kind: bc", "kind: sac"))
    arguments = ["train", "--config", str(tmp_path / "sac.yaml"), "--agent", "flow", "--run", str(tmp_path / "run"),
                 "--no-evaluate", "--set", "bc_updates=20", "agent.hidden_sizes=[8]"]  # fmt: skip
    assert cli.main(arguments) == 0
    assert RunDirectory.open(tmp_path / "run")[1].agent.kind == "flow"


def test_a_policy_of_other_widths_is_no_beginning(tmp_path, capsys):
    clone(tmp_path / "first", config("bc"))
    arguments = ["train", "toy/Point-v0", "--init", str(tmp_path / "first"), "--run", str(tmp_path / "run")]
    assert cli.main(arguments) == 2
    assert "agent.* settings differ" in " ".join(capsys.readouterr().err.split())


def test_what_a_preset_becomes():
    with pytest.raises(ConfigError, match="sac, bc"):
        cloned(config("sac"), "ppo")
    assert cloned(config("sac"), "flow").agent.kind == "flow"
