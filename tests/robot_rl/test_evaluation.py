"""Evaluation: seeded, counted, with its interval; a video that decodes, or a sentence why there is none."""

import json
import os
import subprocess
import sys

import av
import gymnasium as gym
import numpy as np
import pytest

from robot_rl import cli
from robot_rl.errors import DeviceError, ShapeError
from robot_rl.evaluation import Evaluation, evaluate, film, load_policy, write_report
from robot_rl.run_directory import RunDirectory
from tests.robot_rl import toy


@pytest.fixture(scope="module")
def reach_run(tmp_path_factory):
    """A run of a few steps on the Reach twin."""
    path = tmp_path_factory.mktemp("runs") / "reach"
    arguments = ["train", "reach", "--run", str(path), "--steps", "12", "--demos", "2", "--no-evaluate",
                 "--set", "agent.hidden_sizes=[32,32]", "agent.critics=2", "batch_size=16", "bc_updates=5",
                 "env.max_steps=10"]  # fmt: skip
    assert cli.main(arguments) == 0
    return path


class Expert:
    def __init__(self, env, noise=0.0):
        self.script = env.unwrapped.expert(np.random.default_rng(0), noise)

    def act(self, observation, instruction=""):
        return self.script.act(observation, instruction)


def test_an_operator_that_plans_is_told_of_every_episode(tmp_path):
    """So that no plan outlives its episode: evaluated and filmed alike."""
    from robot_rl.config import preset

    toy.register()

    class Planner:
        heard = ()

        def begin_episode(self):
            self.heard = (*self.heard, 0)

        def act(self, observation, instruction=""):
            self.heard = (*self.heard[:-1], self.heard[-1] + 1)
            return np.ones(1, np.float32)

    planner, env = Planner(), gym.make("toy/Point-v0")
    assert evaluate(env, planner, 3).lengths == list(planner.heard)
    film(preset("serl", "toy/Point-v0"), planner, tmp_path, "film", 2)
    assert len(planner.heard) == 5
    env.close()


def test_numbers_by_hand():
    """3 of 4: Wilson's interval is 0.3006 to 0.9544 (Newcombe's formula by hand); the median of 4, 6, 9 steps is 6."""
    facts = Evaluation([True, False, True, True], [4, 20, 9, 6], [1.0, 0.0, 1.0, 1.0], 0.1).to_json()
    assert (facts["episodes"], facts["successes"], facts["success_rate"]) == (4, 3, 0.75)
    assert facts["interval_95"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert facts["median_steps_to_success"] == 6
    assert facts["median_time_to_success_s"] == pytest.approx(0.6)
    assert facts["mean_return"] == 0.75


def test_no_success_has_no_time():
    result = Evaluation([False] * 3, [5] * 3, [0.0] * 3, 0.1)
    facts = result.to_json()
    assert facts["median_time_to_success_s"] is None
    assert facts["interval_95"][0] == 0.0
    assert "0/3" in str(result)


def test_the_optimum_is_counted_right():
    """The script reaches the origin from x in ceil((|x| - 0.15) / 0.25) steps; every seed's start is known."""
    toy.register()
    env = gym.make("toy/Point-v0")
    result = evaluate(env, Expert(env), 20)
    starts = [abs(float(env.reset(seed=2_000_000 + i)[0][0])) for i in range(20)]
    assert result.successes == [True] * 20
    assert result.lengths == [int(np.ceil((s - 0.15) / toy.STEP)) for s in starts]
    assert result == evaluate(env, Expert(env), 20)


def test_fault_19_evaluation_twice_is_the_same_file(reach_run, capsys):
    outputs = []
    for _ in range(2):
        capsys.readouterr()
        assert cli.main(["eval", str(reach_run), "--episodes", "5", "--no-video", "--json"]) == 0
        outputs.append((capsys.readouterr().out, (reach_run / "evaluation.json").read_text()))
    assert outputs[0] == outputs[1]
    printed, written = json.loads(outputs[0][0]), json.loads(outputs[0][1])
    assert printed["episodes"] == 5
    assert {k: written[k] for k in printed} == printed
    assert len(printed["interval_95"]) == 2
    assert written["task"] == "reach"


def test_standard_output_is_json_alone_with_a_video_too(reach_run):
    out = subprocess.run(
        [sys.executable, "-m", "robot_rl.cli", "eval", str(reach_run), "--episodes", "2", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(out.stdout)["episodes"] == 2
    assert "Video:" in out.stderr
    with av.open(str(reach_run / "videos" / "evaluation.mp4")) as video:
        frames = list(video.decode(video=0))
    assert len(frames) > 5
    picture = frames[3].to_ndarray(format="rgb24")
    assert picture.shape[0] >= 3 * 240
    assert picture.std() > 10
    assert (reach_run / "videos" / "evaluation.png").stat().st_size > 1000


def test_without_open_gl_the_numbers_come_and_the_video_is_declined(reach_run):
    """EGL finds no vendor: no display, no graphics driver, as on a bare server."""
    environment = {**os.environ, "MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}
    environment.pop("DISPLAY", None)
    arguments = ["eval", str(reach_run), "--episodes", "2", "--json"]
    out = subprocess.run(
        [sys.executable, "-m", "robot_rl.cli", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout)["episodes"] == 2
    said = [line for line in out.stderr.splitlines() if "No video" in line]
    assert len(said) == 1
    assert "OpenGL" in said[0]
    assert "Traceback" not in out.stderr
    out = subprocess.run(
        [sys.executable, "-m", "robot_rl.cli", "render", str(reach_run)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert out.returncode == 2
    assert "OpenGL" in out.stderr
    assert "Traceback" not in out.stderr


def test_any_environment_that_renders_is_filmed(tmp_path):
    from robot_rl.config import preset

    toy.register()
    env = gym.make("toy/Point-v0")

    class Forward:
        def act(self, observation, instruction=""):
            return np.ones(1, np.float32)

    video, sheet = film(preset("serl", "toy/Point-v0"), Forward(), tmp_path, "film", 2)
    with av.open(str(video)) as container:
        assert len(list(container.decode(video=0))) >= toy.HORIZON
    assert sheet.is_file()
    env.close()


def test_an_environment_that_cannot_render_is_a_device_error(tmp_path, monkeypatch):
    from robot_rl.config import preset

    toy.register()

    def no_pygame(self):
        raise gym.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr(toy.Point, "render", no_pygame)
    with pytest.raises(DeviceError, match="pygame is not installed"):
        film(preset("serl", "toy/Point-v0"), Expert(gym.make("toy/Point-v0")), tmp_path, "film", 1)
    assert not (tmp_path / "evaluation.mp4").exists()


def test_a_policy_of_another_environment_is_refused(reach_run):
    from dataclasses import replace

    from robot_rl.environments import make

    run, config = RunDirectory.open(reach_run)
    env = make("pick_cube")
    with pytest.raises(ShapeError, match="differ"):
        load_policy(run, replace(config, task="pick_cube"), env)
    env.close()


def test_the_report_replaces_the_last_one_whole(tmp_path):
    from robot_rl.config import preset

    run = RunDirectory.create(preset("serl", "reach"), tmp_path / "run")
    for successes in ([True], [False]):
        path = write_report(run, preset("serl", "reach"), Evaluation(successes, [1], [0.0], None))
    assert json.loads(path.read_text())["successes"] == 0
    assert sorted(p.name for p in run.path.glob("evaluation*")) == ["evaluation.json"]
