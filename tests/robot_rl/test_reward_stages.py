"""Rewards of several stages: marked by how far a frame is, a classifier for each, a share of the reward for each."""

import gymnasium as gym
import numpy as np
import pytest

from robot_rl import cli
from robot_rl.environments import make
from robot_rl.errors import ConfigError
from robot_rl.rewards import SuccessClassifier, read_frames
from robot_rl.rewards.collecting import collect_frames
from robot_rl.rewards.frames import MARK
from robot_rl.rewards.learned import LearnedReward, make_with_reward
from robot_rl.rewards.stages import fit_stages, load_stages
from robot_rl.store import EpisodeStore
from robot_rl.vision.config import VisionConfig

SMALL = {"image_size": 48, "max_steps": 45}


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """A reward of two stages of pick_cube (held; lifted), by the command that a user would give."""
    folder = tmp_path_factory.mktemp("staged")
    collect_frames("pick_cube", folder / "frames", episodes=8, stages=2, options=SMALL).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robot_rl.rewards.classifier.UPDATES", 60)
        assert cli.main(["reward", "train", str(folder / "frames"), "--out", str(folder / "reward")]) == 0
    return folder


def test_frames_are_marked_by_how_far_they_are(staged):
    """In a store of scripted episodes: nothing, held, lifted, in that order wherever it went well."""
    frames, store = read_frames([staged / "frames"])
    assert set(frames.stage) == {0, 1, 2}
    np.testing.assert_array_equal(frames.success, frames.stage == 2)
    np.testing.assert_array_equal(frames.at(1).success, frames.stage >= 1)
    assert store.metadata["stages"] == 2
    marks = EpisodeStore.open(staged / "frames")
    for record in marks.episode_table():
        shown = marks.read(record.start, record.stop, [MARK])[MARK]
        reached = shown[~np.isnan(shown)]
        if 2 in reached:
            first = [int(np.flatnonzero(reached == stage)[0]) for stage in (0, 1, 2) if stage in reached]
            assert first == sorted(first)


def test_each_stage_has_a_classifier_and_one_pair_of_eyes(staged):
    classifiers, facts = load_stages(staged / "reward")
    assert len(classifiers) == 2
    assert classifiers[0].eyes is classifiers[1].eyes
    assert facts["stages"] == 2
    frames, _ = read_frames([staged / "frames"])
    held, lifted = (one.probabilities(frames) for one in classifiers)
    assert held[frames.stage >= 1].mean() > held[frames.stage == 0].mean() + 0.2
    assert lifted[frames.stage == 2].mean() > lifted[frames.stage == 0].mean() + 0.2


def test_stores_of_other_stages_are_not_mixed(staged, tmp_path):
    """What is success in one would be a stage on the way in the other."""
    collect_frames("pick_cube", tmp_path / "one", episodes=1, options=SMALL).close()
    with pytest.raises(ConfigError, match="1 and 2 stages"):
        read_frames([staged / "frames", tmp_path / "one"])


def test_what_is_only_known_to_be_no_success_teaches_nothing_of_the_stages_before(staged, tmp_path):
    """Demonstrations without marks: their last frame is success, of the others only that they are none."""
    assert cli.main(["demo", "pick_cube", "--episodes", "2", "--out", str(tmp_path / "demos"), "--set",
                     "observations=vision", "image_size=48"]) == 0  # fmt: skip
    frames, _ = read_frames([staged / "frames", tmp_path / "demos"])
    own, _ = read_frames([staged / "frames"])
    theirs = frames.stage[len(own) :]
    assert set(theirs) == {-1, 2}
    assert (theirs == 2).sum() == 2
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SuccessClassifier, "learn", lambda _s, given, _r, _t: seen.append(given) or (None, None))
        fit_stages(frames, own_space(staged), VisionConfig(shifts=1), "pick_cube", seed=0, false_positive_rate=0.01,
                   on_progress=lambda *_: None)  # fmt: skip
    assert [len(given.success) for given in seen] == [len(own) + 2, len(frames)]


def own_space(staged):
    return EpisodeStore.open(staged / "frames").observation_space


class Told(SuccessClassifier):
    """A classifier that says what it is told to."""

    def __init__(self, said):
        self.said, self.threshold = list(said), 0.5

    def probability(self, observation):
        return self.said.pop(0)


def test_a_stage_is_paid_once_and_the_last_one_ends_it(staged):
    """Sure for two steps on end: stage 1 from step 3 on, lost and found again, success at step 8. Half and half."""
    env = make_with_reward("pick_cube", {"observations": "vision", **SMALL}, staged / "reward")
    judge = env
    assert isinstance(judge, LearnedReward)
    try:
        env.reset(seed=0)
        judge.classifiers = [Told([0, 1, 1, 0, 1, 1, 0, 0]), Told([0, 0, 0, 1, 0, 0, 1, 1])]
        steps = [env.step(np.zeros(7, np.float32)) for _ in range(8)]
    finally:
        env.close()
    assert [step[1] for step in steps] == [0, 0, 0.5, 0, 0, 0, 0, 0.5]
    assert [step[4]["stage"] for step in steps] == [0, 0, 1, 1, 1, 1, 1, 2]
    assert [step[2] for step in steps] == [False] * 7 + [True]


def test_whoever_skips_a_stage_is_paid_for_it_too(staged):
    env = make_with_reward("pick_cube", {"observations": "vision", **SMALL}, staged / "reward")
    try:
        env.reset(seed=0)
        env.classifiers = [Told([0, 0]), Told([1, 1])]
        assert [env.step(np.zeros(7, np.float32))[1] for _ in range(2)] == [0, 1.0]
    finally:
        env.close()


@pytest.mark.parametrize(("word", "paid"), [("success", 0.5), ("failure", 0.0)])
def test_a_persons_word_pays_what_is_left(word, paid, staged):
    """Stage 1 of 2 was paid by the classifiers: an episode's return is 1 and never more."""

    class Saying(gym.Wrapper):
        def step(self, action):
            observation, _, _, _, info = self.env.step(action)
            done = len(judge.classifiers[0].said) == 0
            told = info | {"label": word} if done else info
            return observation, float(done and word == "success"), done, False, told

    env = make("pick_cube", {"observations": "vision", "reward": "external", **SMALL})
    judge = LearnedReward(Saying(env), staged / "reward")
    try:
        judge.reset(seed=0)
        judge.classifiers = [Told([1, 1]), Told([0, 0])]
        assert [judge.step(np.zeros(7, np.float32))[1] for _ in range(3)] == [0, 0.5, paid]
    finally:
        judge.close()


@pytest.mark.parametrize("task", ["pick_cube", "peg_insert"])
def test_stages_of_a_task_rise_to_success(task):
    """Driven by its script, an episode passes every stage in order."""
    env = make(task, {"reward": "external"})
    try:
        env.reset(seed=3)
        expert = env.unwrapped.expert(np.random.default_rng(0), 0.0)
        reached = [0]
        while reached[-1] < 2:
            _, _, terminated, truncated, info = env.step(expert.act(None))
            assert (info["oracle_stage"] == 2) == info["oracle_success"]
            reached.append(info["oracle_stage"])
            assert not terminated
            assert not truncated, "the script succeeds"
    finally:
        env.close()
    assert [stage for stage, before in zip(reached[1:], reached[:-1], strict=True) if stage != before] == [1, 2]


def test_stages_that_an_oracle_does_not_tell_are_refused(tmp_path, capsys):
    arguments = ["reward", "collect", "reach", "--stages", "3", "--out", str(tmp_path / "f")]
    assert cli.main(arguments) == 2
    assert "the oracle of reach tells 1" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()
