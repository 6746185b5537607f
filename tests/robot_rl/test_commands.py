"""The command line: bad input is one message, exit code 2, nothing overwritten."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from robot_rl import cli
from robot_rl.demonstrations import record, scripted_expert
from robot_rl.metrics import read_metrics
from robot_rl.run_directory import RunDirectory, load_tensors
from robot_rl.store import EpisodeStore
from tests.robot_rl import toy

SMALL = ["--demos", "none", "--no-evaluate", "--set", "agent.hidden_sizes=[16,16]", "agent.critics=2", "batch_size=16",
         "learning_starts=5", "utd_ratio=1"]  # fmt: skip


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    toy.register()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def other_demos(tmp_path):
    """A store of a task with other shapes."""
    env = gym.make("toy/Point-v0", dimensions=2)
    expert = scripted_expert(env, np.random.default_rng(0), 0.0)
    record(env, expert, tmp_path / "other", episodes=1, seed=0, task="toy").close()
    return tmp_path / "other"


def files(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def refused(capsys, arguments):
    capsys.readouterr()
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as error:  # a flag that does not exist or does not parse
        code = error.code
    captured = capsys.readouterr()
    assert code == 2, captured
    assert "Traceback" not in captured.err
    assert captured.err.strip()
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trane"], ["'trane'", "train, eval"]),
        (["train"], ["Which task"]),
        (["train", "pick_cub"], ["'pick_cub'", "pick_cube, reach"]),
        (["train", "reach", "--preset", "best"], ["'best'", "fast, ", "serl, hil_serl"]),
        (["train", "reach", "--steps", "many"], ["steps"]),
        (["train", "reach", "--steps", "0"], ["steps is 0"]),
        (["train", "reach", "--seed", "-3"], ["seed is -3"]),
        (["train", "reach", "--stepz", "3"], ["stepz"]),
        (["train", "reach", "--set", "gama=0.9"], ["'gama'", "gamma"]),
        (["train", "reach", "--set", "gamma"], ["KEY=VALUE"]),
        (["train", "reach", "--set", "gamma=high"], ["--set", "gamma", "'high'"]),
        (["train", "reach", "--set", "gamma=high", "seed=1", "--set", "seed=2"], ["gamma", "'high'"]),
        (["train", "reach", "--eval-every", "100", "--cell", "fr3.yaml"], ["arm in use", "robot-rl eval"]),
        (["train", "reach", "--set", "agent.learning_rate=.nan"], ["agent.learning_rate", "between"]),
        (["train", "reach", "--set", "agent.critcs=3"], ["Did you mean agent.critics?"]),
        (["train", "reach", "--set", "utd_ratio=.inf"], ["utd_ratio", "at most 1000"]),
        (["train", "reach", "--set", "device=gpu"], ["cpu, cuda or cuda:N"]),
        (["train", "reach", "--demos", "-3"], ["at least 0"]),
        (["train", "reach", "--set", "env.arm=kuka"], ["kuka", "fr3"]),
        (["train", "reach", "--set", "env.colour=red"], ["colour"]),
        (["train", "reach", "--set", "env.max_steps=10s"], ["max_steps", "10s"]),
        (["train", "reach", "--set", "env.observations=vision", "vision.encoder=nonsense"], ["nonsense", "timm:NAME"]),
        (["train", "reach", "--set", "agent.gripper=discrete"], ["no gripper", "continuous"]),
        (["train", "reach", "--set", "vision.shifts=0"], ["vision.shifts", "at least 1"]),
        (["train", "reach", "--set", "utd=sometimes"], ["enforced or free"]),
        (["train", "reach", "--config", "absent.yaml"], ["absent.yaml"]),
        (["train", "reach", "--demos", "absent"], ["absent", "not an episode store"]),
        (["train", "CartPole-v1"], ["Discrete(2)", "continuous"]),
        (["train", "gymnasium:Nope-v0"], ["gymnasium:Nope-v0"]),
        (["train", "Pendulum-v1", "--demos", "5"], ["no script"]),
        (["train", "--resume", "absent"], ["no run directory"]),
        (["train", "reach", "--resume", "absent"], ["--resume"]),
        (["eval", "absent"], ["no run directory"]),
        (["render", "absent"], ["no run directory"]),
        (["demo", "pick_cub"], ["pick_cube, reach"]),
        (["demo", "Pendulum-v1"], ["no scripted expert"]),
        (["demo", "reach", "--episodes", "0"], ["at least 1"]),
        (["demo", "reach", "--noise", "-1"], ["noise"]),
        (["demo", "reach", "--seed", "-1"], ["seed"]),
        (["demo", "reach", "--set", "arm"], ["KEY=VALUE"]),
        (["bench", "nothing"], ["nothing", "learner"]),
    ],
)
def test_bad_input_is_one_message_and_makes_nothing(capsys, tmp_path, arguments, said):
    err = refused(capsys, arguments)
    assert [part for part in said if part not in err] == [], err
    assert files(tmp_path) == {}


def test_demonstrations_of_another_task_name_both_shapes(capsys, tmp_path, other_demos):
    before = files(tmp_path)
    err = refused(capsys, ["train", "toy/Point-v0", "--demos", other_demos])
    assert "(2,) stored" in err
    assert "(1,) wanted" in err
    assert err.count("\n") == 1
    assert files(tmp_path) == before


def test_an_existing_run_is_not_overwritten(capsys, tmp_path):
    arguments = ["train", "toy/Point-v0", "--run", "run", "--steps", "20", *SMALL]
    assert cli.main(arguments) == 0
    before = files(tmp_path)
    err = refused(capsys, arguments)
    assert "train --resume run" in err
    assert files(tmp_path) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    assert "nothing in it was touched" in refused(capsys, ["train", "toy/Point-v0", "--run", "mine", *SMALL])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_existing_demonstrations_are_not_overwritten(capsys, tmp_path, other_demos):
    before = files(tmp_path)
    refused(capsys, ["demo", "reach", "--out", other_demos])
    assert files(tmp_path) == before


def test_a_run_from_start_to_evaluation(capsys, tmp_path):
    arguments = [a for a in SMALL if a != "--no-evaluate"] + ["eval_episodes=3"]
    assert cli.main(["train", "toy/Point-v0", "--run", "run", "--steps", "40", *arguments]) == 0
    out = capsys.readouterr().out
    assert "all 40 steps are taken" in out
    for name in ("config.yaml", "metrics.jsonl", "evaluation.json", "policy/policy.safetensors",
                 "checkpoints/index.json", "videos/evaluation.mp4", "plots/learning_curve.png"):  # fmt: skip
        assert (tmp_path / "run" / name).stat().st_size > 0, name
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["episodes"] == 3
    assert cli.main(["train", "--resume", "run", "--steps", "60", "--no-evaluate"]) == 0
    assert "all 60 steps are taken" in capsys.readouterr().out
    store = EpisodeStore.open(tmp_path / "run" / "episodes")
    assert sum(r.length for r in store.episode_table()) == 60


def test_the_task_may_stand_in_the_file(capsys, tmp_path):
    cli.main(["train", "toy/Point-v0", "--run", "first", "--steps", "6", "--seed", "3", *SMALL])
    assert cli.main(["train", "--config", "first/config.yaml", "--run", "second", "--no-evaluate"]) == 0
    (_, one), (_, two) = RunDirectory.open("first"), RunDirectory.open("second")
    assert one == two
    (first, _), (second, _) = (load_tensors(Path(run) / "policy/policy.safetensors") for run in ("first", "second"))
    assert {name: t.numpy().tobytes() for name, t in first.items()} == {
        name: t.numpy().tobytes() for name, t in second.items()
    }


def test_resume_takes_no_other_settings(capsys):
    cli.main(["train", "toy/Point-v0", "--run", "run", "--steps", "6", *SMALL])
    for extra in (
        ["--seed", "1"],
        ["--preset", "serl"],
        ["--set", "gamma=0.5"],
        ["--demos", "none"],
        ["--run", "other"],
    ):
        assert "only --steps" in refused(capsys, ["train", "--resume", "run", *extra])


def test_evaluating_what_has_no_policy_yet(capsys, tmp_path):
    from robot_rl.config import preset

    RunDirectory.create(preset("serl", "toy/Point-v0"), tmp_path / "run")
    assert "right directory" in refused(capsys, ["eval", "run"])
    assert "at least 1" in refused(capsys, ["eval", "run", "--episodes", "0"])


def test_a_damaged_policy_is_one_message(capsys, tmp_path):
    cli.main(["train", "toy/Point-v0", "--run", "run", "--steps", "6", *SMALL])
    policy = tmp_path / "run/policy/policy.safetensors"
    policy.write_bytes(policy.read_bytes()[:100])
    assert "Cannot read" in refused(capsys, ["eval", "run"])


def test_demo_and_train_from_it(capsys, tmp_path):
    assert cli.main(["demo", "toy/Point-v0", "--episodes", "2", "--out", "demos/mine"]) == 0
    assert "2 episodes" in capsys.readouterr().out
    arguments = ["train", "toy/Point-v0", "--run", "run", "--steps", "8", *SMALL]
    arguments[arguments.index("none")] = "demos/mine"
    assert cli.main(arguments) == 0
    assert RunDirectory.open("run")[1].demos == str(tmp_path / "demos/mine")


def test_tasks_and_help_list_what_exists(capsys):
    assert cli.main(["tasks"]) == 0
    assert "robot_rl/PegInsert-v0" in capsys.readouterr().out
    assert cli.main([]) == cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"robot-rl {name}" in out for name in ("train", "eval", "render", "demo", "tasks", "bench"))


def test_every_command_has_help():
    for name, load in cli.commands().items():
        function = load()
        assert (function.__doc__ or "").strip(), name


def test_an_interrupt_outside_training_is_no_traceback(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "commands", lambda: {"tasks": interrupted})
    assert cli.main(["tasks"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_reader_that_goes_away_is_no_error():
    """As in `robot-rl --help | head -c 5`."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-m", "robot_rl.cli", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0
