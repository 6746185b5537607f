"""What the trunk saw, kept on disk: the same features, and no picture looked at twice."""

import gymnasium as gym
import numpy as np
import pytest

from robot_rl import cli
from robot_rl.observation import ObservationLayout
from robot_rl.vision.config import VisionConfig
from robot_rl.vision.perception import Perception
from robot_rl.vision.seen import SeenLog

CAMERA = "observation/images/front"


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)


def eyes(folder, seed=0):
    images = gym.spaces.Dict({"front": gym.spaces.Box(0, 255, (48, 48, 3), np.uint8)})
    space = gym.spaces.Dict({"images": images})
    one = Perception(VisionConfig(shifts=2), ObservationLayout(space), seed)
    looked = []
    real = one._features
    one._features = lambda shown: (looked.extend(shown), real(shown))[1]
    if folder is not None:
        one.keep(folder)
    return one, looked


def test_what_was_seen_is_seen_again_without_looking(tmp_path, pictures):
    without, _ = eyes(None)
    expected = without.remember(CAMERA, pictures)
    first, looked = eyes(tmp_path / "seen")
    np.testing.assert_array_equal(first.remember(CAMERA, pictures[:4]), expected[:4])
    assert len(looked) == 8, "four pictures, each as it is and shifted"
    del first
    again, looked = eyes(tmp_path / "seen")
    np.testing.assert_array_equal(again.remember(CAMERA, pictures), expected)
    assert len(looked) == 2, "only the fifth"


def test_a_run_that_goes_on_looks_at_nothing_twice(tmp_path, monkeypatch):
    """Resumed after 30 steps for 5 more: only those, and the frame they begin with, are new."""
    looked = []
    real = Perception._remember
    monkeypatch.setattr(Perception, "_remember", lambda self, camera, shown, alike: (
        looked.extend([camera] * len(shown)), real(self, camera, shown, alike))[1])  # fmt: skip
    arguments = ["train", "reach", "--preset", "pixels", "--demos", "2", "--run", str(tmp_path / "run"), "--steps",
                 "30", "--no-evaluate", "--set", "env.image_size=48", "bc_updates=2", "utd_ratio=0.1", "batch_size=16",
                 "vision.shifts=2"]  # fmt: skip
    assert cli.main(arguments) == 0
    assert len(looked) > 2 * 30
    looked.clear()
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--steps", "35", "--no-evaluate"]) == 0
    assert len(looked) <= 2 * 8


def test_other_eyes_share_nothing(tmp_path, pictures):
    eyes(tmp_path / "seen")[0].remember(CAMERA, pictures)
    other, looked = eyes(tmp_path / "seen", seed=1)
    other.remember(CAMERA, pictures)
    assert len(looked) == 10


def test_a_torn_record_is_cut_and_looked_at_again(tmp_path, pictures):
    eyes(tmp_path / "seen")[0].remember(CAMERA, pictures)
    file = tmp_path / "seen" / "front"
    size = file.stat().st_size // 5
    with file.open("r+b") as torn:
        torn.truncate(4 * size + 7)
    again, looked = eyes(tmp_path / "seen")
    expected = eyes(None)[0].remember(CAMERA, pictures)
    np.testing.assert_array_equal(again.remember(CAMERA, pictures), expected)
    assert len(looked) == 2
    assert file.stat().st_size == 5 * size


def test_a_disk_that_refuses_costs_nothing_but_time(tmp_path, pictures):
    (tmp_path / "file").write_text("in the way")
    log = SeenLog(tmp_path / "file" / "front", (3,), b"salt")
    log.put(pictures[0], 0, np.zeros(3, np.uint8))
    log.put(pictures[1], 0, np.zeros(3, np.uint8))
    assert log.get(pictures[0]) is None
