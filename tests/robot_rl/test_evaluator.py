"""Evaluation beside training: every policy that is due, on a twin of its own, and nothing left running."""

import subprocess
import sys

import pytest

from robot_rl import cli
from robot_rl.beside import working_beside
from robot_rl.config import overlay, preset
from robot_rl.errors import ConfigError
from robot_rl.evaluator import EPISODES, Evaluator
from robot_rl.metrics import read_metrics
from robot_rl.policy import Policy
from robot_rl.progress import TrainingProgress
from robot_rl.run_directory import RunDirectory
from tests.robot_rl import toy

SETTINGS = [
    "demos=none",
    "steps=120",
    "agent.hidden_sizes=[16,16]",
    "batch_size=16",
    "learning_starts=5",
    "utd_ratio=1",
]

QUIET = TrainingProgress("test", plain_interval_s=1e9)


def evaluator(run):
    directory, config = RunDirectory.open(run)
    return Evaluator(config, directory, TrainingProgress("test", plain_interval_s=1e9))


@pytest.fixture
def run(tmp_path):
    """A finished run of the toy, whose policy was published."""
    toy.register()
    arguments = ["train", "toy/Point-v0", "--run", str(tmp_path / "run"), "--no-evaluate", "--set", *SETTINGS]
    assert cli.main(arguments) == 0
    return tmp_path / "run"


def test_a_policy_is_scored_once(run):
    one = evaluator(run)
    one.watch()
    (row,) = read_metrics(one.run.evaluations)
    assert (row["step"], row["eval_episodes"]) == (120, EPISODES)
    assert 0.0 <= row["eval_success_rate"] <= 1.0
    again = evaluator(run)
    assert again.evaluated == 120
    again.watch()
    assert len(read_metrics(one.run.evaluations)) == 1


def test_an_evaluation_that_is_interrupted_leaves_nothing(run, monkeypatch):
    one, real, acted = evaluator(run), Policy.act, []

    def act(self, observation, instruction=""):
        acted.append(1)
        one.stop_requested = len(acted) == 3
        return real(self, observation, instruction)

    monkeypatch.setattr(Policy, "act", act)
    one.watch()
    assert len(acted) == 3
    assert read_metrics(one.run.evaluations) == []


def test_training_starts_one_beside_and_ends_it(run, monkeypatch):
    started = []
    real = subprocess.Popen

    def popen(*arguments, **options):
        started.append(real(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    directory, config = RunDirectory.open(run)
    with working_beside(config, directory, QUIET):
        assert not started
    with working_beside(overlay(config, {"eval_every": 50}, "here"), directory, QUIET):
        assert started[0].args[:4] == [sys.executable, "-m", "robot_rl.cli", "evaluator"]
    assert started[0].returncode is not None


def test_the_arm_is_never_shared():
    config = overlay(preset("fast", "reach"), {"eval_every": 50, "env": {"cell": "fr3.yaml"}}, "here")
    with pytest.raises(ConfigError, match="never with an arm in use"):
        Evaluator(config, RunDirectory(None), TrainingProgress("test"))
