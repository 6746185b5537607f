"""Rewards that learn from a run: who said what of its episodes, what is mined from that, a fit beside training."""

import json
import shutil
import threading
import time

import numpy as np
import pytest

from robot_rl import cli
from robot_rl.beside import working_beside
from robot_rl.config import load_config, preset
from robot_rl.errors import ConfigError
from robot_rl.metrics import read_metrics
from robot_rl.progress import TrainingProgress
from robot_rl.rewards import SuccessClassifier, read_frames
from robot_rl.rewards.collecting import collect_frames
from robot_rl.rewards.conditions import parse_conditions
from robot_rl.rewards.learned import LearnedReward, make_with_reward
from robot_rl.rewards.mining import known, mine
from robot_rl.rewards.refitting import Refitter, reward_of
from robot_rl.run_directory import RunDirectory
from robot_rl.store import EpisodeStore
from robot_rl.verdicts import ORACLE, PERSON, Verdicts, verdict, wrongly_called
from robot_rl.vision.config import VisionConfig

SMALL = {"image_size": 48, "max_steps": 25}
LAYOUT = {"gripper_opening": slice(0, 1), "tcp_pose": slice(1, 8)}
SETTINGS = ["demos=none", "bc_updates=2", "batch_size=16", "utd_ratio=0.1", "eval_episodes=0", "env.image_size=48",
            "env.max_steps=12", "vision.shifts=1"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robot_rl.rewards.classifier.UPDATES", 30)
        yield


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    collect_frames("reach", folder / "frames", episodes=6, options=SMALL).close()
    frames, store = read_frames([folder / "frames"])
    one = SuccessClassifier(store.observation_space, VisionConfig(shifts=1), 0, "reach")
    one.fit(frames, 0.02)
    one.save(folder / "reach", {"stores": [str(folder / "frames")], "false_positives": 0.02})
    return folder / "reach"


@pytest.fixture(scope="module")
def run(reward, tmp_path_factory):
    """A short run that learns from the classifier, with its own copy of it."""
    path = tmp_path_factory.mktemp("run") / "run"
    arguments = ["train", "reach", "--preset", "pixels", "--reward", str(reward), "--run", str(path), "--steps", "60"]
    assert cli.main([*arguments, "--set", *SETTINGS]) == 0
    return path


def refitted(run, **changes):
    """The run's configuration, with a reward that is fitted anew."""
    config = load_config(run / "config.yaml", preset("pixels", "reach"))
    return type(config)(**{**vars(config), "reward_refit": 2, **changes})


def test_the_oracle_is_written_down_of_every_frame_it_saw(run):
    store = EpisodeStore.open(run / "episodes")
    for record in store.episode_table():
        said = verdict(store, record, ORACLE)
        assert np.isnan(said[0]), "nobody judges the frame that an episode begins with"
        assert np.isin(said[1:], (0.0, 1.0)).all()
    rows = read_metrics(run / "metrics.jsonl")
    assert len(rows) == len(store.episode_table())
    hacked = [row["reward_hacked"] for row in rows]
    expected = [wrongly_called(store, record)["reward_hacked"] for record in store.episode_table()]
    assert hacked == expected


def test_in_two_processes_as_in_one(reward, tmp_path):
    """The actor writes the oracle's words down; what the learner logs agrees with them."""
    arguments = ["train", "reach", "--preset", "pixels", "--reward", str(reward), "--run", str(tmp_path / "run"),
                 "--steps", "40", "--async"]  # fmt: skip
    assert cli.main([*arguments, "--set", *SETTINGS]) == 0
    store = EpisodeStore.open(tmp_path / "run" / "episodes")
    closed = [record for record in store.episode_table() if record.closed]
    assert all("oracle_success" in wrongly_called(store, record) for record in closed)
    logged = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "episode_success" in row]
    for row, record in zip(logged, closed, strict=False):
        if "oracle_success" in row:
            assert row["oracle_success"] == wrongly_called(store, record)["oracle_success"]


def spoken(tmp_path, *said):
    """A store of three-step episodes, of which was said what is given: oracle's words, or a person's one."""
    import gymnasium as gym

    images = gym.spaces.Dict({"front": gym.spaces.Box(0, 255, (48, 48, 3), np.uint8)})
    space = gym.spaces.Dict({"state": gym.spaces.Box(-9, 9, (1,), np.float32), "images": images})
    store = EpisodeStore.create(
        tmp_path / "spoken", observation_space=space, action_space=gym.spaces.Box(-1, 1, (1,), np.float32), metadata={}
    )
    seen = {"state": np.zeros(1, np.float32), "images": {"front": np.zeros((48, 48, 3), np.uint8)}}
    with TrainingProgress("test") as progress:
        for one in said:
            verdicts = Verdicts()
            store.begin_episode(seen)
            for step in range(3):
                last = step == 2
                info = {"oracle_success": one[step]} if isinstance(one, tuple) else {"label": one} if last else {}
                verdicts.hear(info)
                store.append(action=np.zeros(1, np.float32), reward=0.0, terminated=last, truncated=False,
                             next_observation=seen, success=True)  # fmt: skip
            store.commit()
            verdicts.write(store, progress)
    return store


def test_who_says_what(tmp_path):
    """A failure shows success nowhere; a success shows it at its end, and of the rest nothing is known."""
    store = spoken(tmp_path, (False, True, True), "failure", "success")
    first, failed, succeeded = store.episode_table()
    np.testing.assert_array_equal(known(store, first), [np.nan, 0, 1, 1])
    np.testing.assert_array_equal(known(store, failed), [0, 0, 0, 0])
    np.testing.assert_array_equal(known(store, succeeded), [np.nan, np.nan, np.nan, 1])
    assert verdict(store, failed, PERSON)[-1] == 0.0
    assert wrongly_called(store, first) == {"oracle_success": 1.0, "reward_hacked": 0.0}
    assert wrongly_called(store, failed) == {}
    store.close()


def test_the_hardest_frames_are_mined(reward, run):
    one, _ = SuccessClassifier.load(reward)
    store = EpisodeStore.open(run / "episodes")
    mined = mine(store, one)
    assert mined is not None
    probability = one.probabilities(mined)
    for record in store.episode_table():
        of_it = [i for i, where in enumerate(mined.where) if f"episode {record.index} " in where]
        truth, frames = known(store, record), read_all(store, record)
        for kind in (False, True):
            rows = np.flatnonzero(~np.isnan(truth) & ((truth > 0.5) == kind))
            wrong = np.abs(one.probabilities(frames.of(rows)) - kind) if len(rows) else np.zeros(0)
            taken = np.abs(probability[of_it] - kind)[mined.success[of_it] == kind]
            np.testing.assert_allclose(np.sort(taken), np.sort(wrong)[-3:][: len(taken)], atol=1e-6)
            assert len(taken) == min(3, len(rows))


def read_all(store, record):
    from robot_rl.observation import ObservationLayout
    from robot_rl.rewards.frames import Frames

    cameras = ObservationLayout(store.observation_space).images
    columns = store.read(record.start, record.stop, cameras)
    count = record.stop - record.start
    zeros = np.zeros(count, np.int64)
    return Frames(columns, zeros > 0, zeros, [""] * count, zeros)


def test_mining_from_the_command_line_marks_the_run(reward, run, tmp_path, capsys):
    assert cli.main(["reward", "mine", str(reward), str(run)]) == 0
    said = capsys.readouterr().out
    assert "wrongly called" in said
    assert (reward / "mined.png").stat().st_size > 10_000
    stores = [str(reward.parent / "frames"), str(run / "episodes")]
    before, _ = read_frames(stores[:1])
    both, _ = read_frames(stores)
    mined = mine(EpisodeStore.open(run / "episodes"), SuccessClassifier.load(reward)[0])
    assert mined is not None
    assert len(both) == len(before) + len(mined)
    arguments = ["reward", "train", *stores, "--out", str(tmp_path / "again"), "--when", "gripper_opening < 9"]
    assert cli.main(arguments) == 0
    assert SuccessClassifier.load(tmp_path / "again")[1]["conditions"] == ["gripper_opening < 9"]


@pytest.mark.parametrize("teacher", ["known", "policy"])
def test_a_reward_is_fitted_anew_and_counts_from_the_next_episode(run, teacher, tmp_path):
    """The fit is dropped in atomically, says so in the events, and an environment takes it at its next reset."""
    copy = RunDirectory(run)
    (run / "reward").mkdir(exist_ok=True)
    for file in (run / "reward").iterdir():
        file.unlink()
    config = refitted(run, reward_teacher=teacher)
    env = make_with_reward("reach", {"observations": "vision", **SMALL}, reward_of(config, copy))
    try:
        judge = env
        while not isinstance(judge, LearnedReward):
            judge = judge.env
        before = judge.classifiers[-1]
        with TrainingProgress("test") as progress:
            one = Refitter(config, copy, progress)
            thread = threading.Thread(target=one.watch)
            thread.start()
            end = time.monotonic() + 120
            while not one.fits and thread.is_alive():
                assert time.monotonic() < end, "never fitted"
                time.sleep(0.05)
            one.stop_requested = True
            thread.join(60)
        assert one.fits == 1
        assert judge.classifiers[-1] is before
        env.reset(seed=0)
        assert judge.classifiers[-1] is not before
    finally:
        env.close()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "reward_refit"
    before, _ = read_frames([str(store) for store in SuccessClassifier.load(run / "reward")[1]["stores"]])
    if teacher == "known":
        assert events[-1]["frames"] > len(before)
    else:  # nobody vouches for what VICE calls failure, so nothing is judged by it
        assert events[-1]["frames"] == len(before)


def test_it_works_beside_training_in_a_process_of_its_own(run, tmp_path):
    """Two fits, a second start that goes on where the first was, and nothing left running."""
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(run, copy.path)
    shutil.rmtree(copy.path / "reward", ignore_errors=True)
    config = refitted(run, reward_refit=1)
    copy.write_config(config)
    log = copy.path / "logs" / "refitter.log"
    with TrainingProgress("test") as progress:
        with working_beside(config, copy, progress):
            end = time.monotonic() + 120
            while not (log.is_file() and "fitted anew" in log.read_text()):
                assert time.monotonic() < end, "never fitted"
                time.sleep(0.1)
        first = SuccessClassifier.load(copy.path / "reward")[1]
        again = Refitter(config, copy, progress)
    assert "Traceback" not in log.read_text()
    closed = [record for record in EpisodeStore.open(copy.episodes).episode_table() if record.closed]
    assert first["mined_episodes"] == len(closed) - 1, "the newest one waits for what is said of it"
    assert again._newly_mined() is None, "nothing new to learn from"
    assert len(again._marked().success) == first["frames"], "and what was mined before is mined again"


def test_a_reward_that_was_fitted_in_another_run_begins_anew(run, reward, tmp_path):
    """Its count is of that run's episodes."""
    one, facts = SuccessClassifier.load(reward)
    one.save(tmp_path / "fitted", {**facts, "mined_episodes": 99, "mined_run": "/elsewhere"})
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(run, copy.path)
    shutil.rmtree(copy.path / "reward", ignore_errors=True)
    config = refitted(run, reward=str(tmp_path / "fitted"))
    with TrainingProgress("test") as progress:
        assert Refitter(config, copy, progress)._newly_mined() is not None


def test_one_that_fails_beside_is_said_at_once(run, tmp_path):
    """And not an hour later, when training ends."""
    copy = RunDirectory(tmp_path / "run")
    shutil.copytree(run, copy.path)
    config = refitted(run)
    copy.write_config(config)
    (copy.path / "reward").mkdir(exist_ok=True)
    (copy.path / "reward" / "reward.safetensors").write_bytes(b"torn")
    said = []
    with TrainingProgress("test") as progress:
        progress.log = said.append
        with working_beside(config, copy, progress):
            end = time.monotonic() + 60
            while not said:
                assert time.monotonic() < end, "nothing was said"
                time.sleep(0.1)
    assert "The refitter failed" in said[0]


def test_conditions_by_hand():
    state = np.arange(8.0)  # tcp_pose.2 is entry 3
    held = [c.holds(state) for c in parse_conditions(
        ["gripper_opening <= 0", "tcp_pose.2 > 2.9", "tcp_pose.2>3", "tcp_pose.6 < 1e1"], LAYOUT
    )]  # fmt: skip
    assert held == [True, True, False, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("height > 1", "no 'height'. It has gripper_opening, tcp_pose"),
        ("tcp_pose > 1", "7 entries; say which"),
        ("tcp_pose.7 > 1", "counted from 0"),
        ("gripper_opening = 1", "is no condition"),
        ("gripper_opening > --", "is no condition"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(text, said):
    with pytest.raises(ConfigError, match=said.replace("(", "\\(")):
        parse_conditions([text], LAYOUT)


def test_success_needs_the_conditions_too(reward, tmp_path):
    one, facts = SuccessClassifier.load(reward)
    one.threshold = 0.0
    one.save(tmp_path / "always", {**facts, "conditions": ["tcp_pose.0 > 9"]})
    env = make_with_reward("reach", {"observations": "vision", **SMALL}, tmp_path / "always")
    try:
        env.reset(seed=0)
        assert not any(env.step(np.zeros(6, np.float32))[4]["success"] for _ in range(4))
    finally:
        env.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "reach", "--refit-every", "5"], "Give --reward REWARD"),
        (["train", "reach", "--reward", "human"], "nobody is there. Give --teleop"),
        (["train", "reach", "--reward", "human", "--refit-every", "3"], "nothing is fitted"),
        (["reward", "mine", "{reward}", "{run}/../cloned"], "has no episodes yet"),
        (["train", "reach", "--reward", "{reward}", "--set", "env.reward=dense"], "one of the two"),
        (["train", "reach", "--set", "reward_teacher=oracle"], "known or policy"),
        (["refitter", "{run}"], "no reward to be fitted anew"),
        (["reward", "train", "{reward}/../frames", "--out", "{reward}2", "--when", "z > 1"], "the state has no 'z'"),
    ],
)
def test_what_is_wrong_is_said(arguments, said, reward, run, capsys):
    if not (run.parent / "cloned").exists():
        RunDirectory.create(preset("fast", "reach"), run.parent / "cloned")
    assert cli.main([argument.format(reward=reward, run=run) for argument in arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
