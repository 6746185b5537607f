"""`robot-rl compare`: runs of several seeds in one picture, cloned ones as levels."""

import json

import pytest

from robot_rl import cli
from robot_rl.config import TrainConfig
from robot_rl.metrics import MetricsWriter
from robot_rl.run_directory import RunDirectory


def made(path, kind="sac", success=(), result=None):
    """A run whose training episodes, ten steps each, succeeded as given."""
    config = TrainConfig(task="reach", agent=TrainConfig(task="").agent.__class__(kind=kind))
    run = RunDirectory.create(config, path)
    if success:
        with MetricsWriter(run.metrics, False) as metrics:
            for number, value in enumerate(success, start=1):
                metrics.write(step=10 * number, update=0, episode_success=float(value))
    if result is not None:
        facts = {"seed": 0, "successes": result, "episodes": 100, "success_rate": result / 100}
        (path / "evaluation.json").write_text(json.dumps(facts))
    return str(path)


def test_runs_are_drawn_and_told(tmp_path, capsys):
    """The first seed has all of its last 20 episodes succeed after 300 steps, the second after 400."""
    one = made(tmp_path / "a", success=[0] * 10 + [1] * 30, result=97)
    two = made(tmp_path / "b", success=[0] * 20 + [1] * 20, result=93)
    bc = made(tmp_path / "bc", kind="bc", result=88)
    out = tmp_path / "curves.svg"
    arguments = ["compare", f"fast={one},{two}", f"BC on 100={bc}", "--out", str(out), "--target", "1"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "fast: 97/100 (seed 0), 93/100 (seed 0)" in said
    assert "BC on 100: 88/100" in said
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], "Which runs?"),
        (["fast={tmp}/nowhere"], "is no run directory"),
        (["fast={tmp}/fresh"], "has no metrics.jsonl"),
        (["bc={tmp}/bc"], "robot-rl eval"),
        (["a={tmp}/done", "a={tmp}/done"], "Two groups are called 'a'"),
        (["a={tmp}/done,{tmp}/bc"], "not both or none"),
        (["a=,"], "not both or none"),
        (["a={tmp}/torn"], "is no evaluation"),
    ],
)
def test_what_cannot_be_drawn_is_said(groups, said, tmp_path, capsys):
    made(tmp_path / "fresh")
    made(tmp_path / "bc", kind="bc")
    made(tmp_path / "done", success=[1] * 30, result=90)
    made(tmp_path / "torn", success=[1] * 30)
    (tmp_path / "torn" / "evaluation.json").write_text('{"episodes": 1')
    assert (
        cli.main(["compare", *(group.format(tmp=tmp_path) for group in groups), "--out", str(tmp_path / "x.png")]) == 2
    )
    assert said in capsys.readouterr().err
