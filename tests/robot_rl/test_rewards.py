"""Learned rewards: marked frames, episodes left out, a threshold for a promise, a verdict in place of the task's."""

import numpy as np
import pytest
from scipy import stats

from robot_rl import cli
from robot_rl.errors import ConfigError, StoreError
from robot_rl.metrics import read_metrics
from robot_rl.rewards import SuccessClassifier, read_frames
from robot_rl.rewards.classifier import _folds
from robot_rl.rewards.collecting import collect_frames
from robot_rl.rewards.frames import MARK
from robot_rl.rewards.learned import LearnedReward, make_with_reward
from robot_rl.rewards.scores import score, threshold_at
from robot_rl.vision.config import VisionConfig

SMALL = {"image_size": 48, "max_steps": 25}


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "frames"
    collect_frames("reach", path, episodes=8, options=SMALL).close()
    return path


@pytest.fixture(scope="module")
def trained(collected, tmp_path_factory):
    """A reward on disk, its scores on episodes that were left out, and the frames."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robot_rl.rewards.classifier.UPDATES", 120)
        frames, store = read_frames([collected])
        one = SuccessClassifier(store.observation_space, VisionConfig(shifts=2, dropout=0.1), 0, "reach")
        scores, left_out = one.fit(frames, 0.02)
    path = tmp_path_factory.mktemp("reward") / "reach"
    one.save(path, {"stores": [str(collected)]})
    return path, scores, left_out, frames, one


def test_a_threshold_keeps_its_promise():
    """Of 1,000 others 10 lie above 0.9: at most one in a hundred is called success from there on."""
    rng = np.random.default_rng(0)
    others = np.concatenate([rng.uniform(0.0, 0.89, 990), rng.uniform(0.91, 0.95, 10)])
    probability, success = np.concatenate([others, [0.99] * 50]), np.repeat([False, True], [1000, 50])
    for rate in (0.0, 0.005, 0.01):
        threshold = threshold_at(probability, success, rate)
        assert (others >= threshold).mean() <= rate
    assert 0.5 <= threshold_at(probability, success, 0.01) <= 0.9
    assert threshold_at(probability, success, 0.005) > 0.91


def test_scores_by_hand_and_against_scipy():
    probability = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
    success = np.array([True, False, True, True, False, False])
    scored = score(probability, success, 0.5)
    assert (scored.precision, scored.recall, scored.false_positive_rate) == (2 / 3, 2 / 3, 1 / 3)
    expected = stats.mannwhitneyu(probability[success], probability[~success]).statistic / 9
    assert scored.auroc == pytest.approx(expected)
    rng = np.random.default_rng(0)
    probability = rng.uniform(0, 1, 20_000)
    assert score(probability, rng.uniform(0, 1, 20_000) < probability, 0.5).calibration_error < 0.02


def test_frames_of_an_episode_stay_together_when_they_are_split(trained):
    _, _, _, frames, _ = trained
    fold = _folds(frames)
    for episode in np.unique(frames.episode):
        assert len(np.unique(fold[frames.episode == episode])) == 1
    assert all(frames.success[fold == f].any() for f in np.unique(fold))


def test_without_marks_the_last_frame_of_a_success_is_one(tmp_path):
    assert cli.main(["demo", "reach", "--episodes", "2", "--out", str(tmp_path / "demos"), "--set",
                     "observations=vision", "image_size=48"]) == 0  # fmt: skip
    frames, store = read_frames([tmp_path / "demos"])
    assert frames.success.sum() == 2
    ends = [record.stop - 1 for record in store.episode_table()]
    assert np.flatnonzero(frames.success).tolist() == ends


def test_where_success_begins_a_scripted_person_marks_nothing(collected):
    from robot_rl.store import EpisodeStore

    store = EpisodeStore.open(collected)
    for record in store.episode_table():
        marks = store.read(record.start, record.stop, [MARK])[MARK]
        known = marks[~np.isnan(marks)]
        assert (np.diff(known) != 0).sum() <= np.isnan(marks).sum() / 2


def test_it_tells_success_on_episodes_it_was_not_trained_on(trained):
    _, scores, left_out, frames, one = trained
    assert scores.auroc > 0.85
    assert scores.false_positive_rate <= 0.02
    assert ((left_out >= one.threshold)[~frames.success]).mean() <= 0.02


def test_what_serves_is_what_was_trained(trained):
    path, _, _, frames, one = trained
    other, facts = SuccessClassifier.load(path)
    np.testing.assert_array_equal(other.probabilities(frames), one.probabilities(frames))
    assert (other.threshold, other.task) == (one.threshold, "reach")
    assert facts["stores"]
    pictures = {name.split("/")[-1]: values[0] for name, values in frames.pictures.items()}
    state = np.zeros(one.layout.leaves["observation/state"].shape, np.float32)
    single = other.probability({"state": state, "images": pictures})
    assert single == pytest.approx(one.probabilities(frames)[0], abs=1e-6)


def test_it_ends_the_episode_and_the_oracle_is_only_heard(trained):
    path = trained[0]
    env = make_with_reward("reach", {"observations": "vision", **SMALL}, str(path))
    try:
        classifier = env
        while not isinstance(classifier, LearnedReward):
            classifier = classifier.env
        classifier.classifiers[-1].threshold = 2.0  # never
        env.reset(seed=0)
        expert = env.unwrapped.expert(np.random.default_rng(0), 0.0)
        oracle, over = [], False
        while not over:
            _, reward, terminated, truncated, info = env.step(expert.act(None))
            oracle.append(info["oracle_success"])
            over = terminated or truncated
        assert any(oracle), "the marker was reached"
        assert truncated
        assert not terminated
        classifier.classifiers[-1].threshold = 0.0  # always: after as many steps as it must be sure for
        env.reset(seed=0)
        assert env.step(np.zeros(6, np.float32))[1:4] == (0.0, False, False)
        _, reward, terminated, truncated, info = env.step(np.zeros(6, np.float32))
        assert (reward, terminated, info["success"], info["oracle_success"]) == (1.0, True, True, False)
    finally:
        env.close()


def test_from_the_command_line_to_a_policy(trained, tmp_path, capsys):
    path = trained[0]
    settings = ["steps=40", "demos=2", "bc_updates=2", "batch_size=16", "utd_ratio=0.2", "eval_episodes=2",
                "env.image_size=48", "env.max_steps=15", "vision.shifts=1"]  # fmt: skip
    arguments = ["train", "reach", "--preset", "pixels", "--reward", str(path), "--run", str(tmp_path / "run")]
    assert cli.main([*arguments, "--set", *settings]) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all({"oracle_success", "reward_hacked"} <= row.keys() for row in rows)
    collect_frames("reach", tmp_path / "test", episodes=3, seed=900, options=SMALL).close()
    capsys.readouterr()
    assert cli.main(["reward", "test", str(path), str(tmp_path / "test")]) == 0
    assert "AUROC" in capsys.readouterr().out
    assert (path / "test_mistakes.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reward", "train", "{collected}", "--out", "{tmp}/r", "--false-positives", "2"], "between 0 and 1"),
        (["reward", "train", "{tmp}/absent", "--out", "{tmp}/r"], "not an episode store"),
        (["reward", "test", "{trained}", "{collected}"], "never seen"),
        (["reward", "test", "{tmp}", "{collected}"], "Cannot read"),
        (["reward", "collect", "reach", "--episodes", "0"], "at least 1"),
        (["reward", "collect", "reach", "--seed", "-1"], "at least 0 and 1"),
        (["reward", "collect", "reach", "--stages", "0"], "at least 0 and 1"),
        (["reward", "train", "{collected}", "--out", "{tmp}/r", "--seed", "-1"], "at least 0"),
        (["reward", "train", "{collected}", "--out", "{collected}/zarr.json"], "is a file"),
        (["reward", "collect", "reach", "--out", "{collected}", "--episodes", "1"], "not empty"),
        (["train", "reach", "--reward", "{trained}"], "observations=vision"),
    ],
)
def test_what_is_wrong_is_said(arguments, said, trained, collected, tmp_path, capsys):
    filled = [a.format(collected=collected, trained=trained[0], tmp=tmp_path) for a in arguments]
    assert cli.main(filled) == 2
    assert said in capsys.readouterr().err


def test_a_store_without_pictures_or_of_one_kind_is_refused(tmp_path, collected):
    assert cli.main(["demo", "reach", "--episodes", "1", "--out", str(tmp_path / "blind")]) == 0
    with pytest.raises(ConfigError, match="no pictures"):
        read_frames([tmp_path / "blind"])
    with pytest.raises(ConfigError, match="Which stores"):
        read_frames([])
    with pytest.raises(StoreError):
        read_frames([tmp_path])
