import cv2
import numpy as np
import pytest

from robot_rl.errors import ConfigError, StoreError
from robot_rl.plots import compare_curves, learning_curve, running_success, steps_to_success


def episodes(outcomes, length=100):
    return [{"step": length * (i + 1), "update": i, "episode_success": ok} for i, ok in enumerate(outcomes)]


def whole_run(seed=0, count=60):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        step = 80 * (i + 1)
        rows.append({"wall_time": 1e9 + i, "step": step, "update": i, "episode_success": i > 20, "episode_return": 1.0})
        rows.append({"wall_time": 1e9 + i, "step": step, "update": i, "critic_loss": rng.uniform(0.001, 1)})
        rows.append({"wall_time": 1e9 + i, "step": step, "update": i, "entropy": -2.0, "temperature": 0.1})
        rows.append({"wall_time": 1e9 + i, "step": step, "update": i, "utd_ratio": 4.0, "env_steps_per_s": None})
    return [*rows, {"wall_time": 2e9, "step": 80 * count, "update": count, "eval_success_rate": 0.9}]


def test_running_success_by_hand():
    steps, rates = running_success(episodes([0, 1, 1, 0, 1]), window=2)
    np.testing.assert_array_equal(steps, [100, 200, 300, 400, 500])
    np.testing.assert_allclose(rates, [0, 0.5, 1, 0.5, 0.5])


def test_steps_to_success_needs_a_whole_window():
    """One failure, then 19 successes fill the window at 19/20 = 95 % with the 20th episode."""
    assert steps_to_success(episodes([0] + [1] * 30)) == 2000
    assert steps_to_success(episodes([1] * 19)) is None
    assert steps_to_success(episodes([0, 1] * 50)) is None
    assert steps_to_success([]) is None


def test_learning_curve_is_a_picture_of_the_promised_size(tmp_path):
    path = learning_curve(whole_run(), tmp_path / "plots" / "curve.png", "reach, state preset, seed 0")
    picture = cv2.imread(str(path))
    assert picture.shape == (806, 1495, 3)
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_learning_curve_of_several_runs_shows_a_colour_each(tmp_path):
    path = learning_curve({"a": whole_run(0), "b": whole_run(1)}, tmp_path / "curve.png", "reach")
    pixels = cv2.imread(str(path)).reshape(-1, 3)[:, ::-1]
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (pixels == colour).all(axis=1).sum() > 100


@pytest.mark.parametrize(
    ("rows", "empty_panels"), [([], 6), (episodes([1]), 5), ([{"step": 5, "update": 0, "critic_loss": None}], 6)]
)
def test_a_run_that_has_just_begun_can_be_drawn(tmp_path, rows, empty_panels):
    svg = learning_curve(rows, tmp_path / "curve.svg", "reach").read_text()
    assert svg.count("<!-- not recorded -->") == empty_panels
    assert compare_curves({"reach": [rows]}, tmp_path / "compare.png", "reach").stat().st_size > 0


def test_compare_curves_says_the_median_steps(tmp_path):
    """Windows fill with successes at episodes 20, 30 and never: the median of 2000, 3000 and never is 3000."""
    runs = [episodes([1] * 40), episodes([0] * 11 + [1] * 29), episodes([0] * 40)]
    path = compare_curves({"state": runs, "vision": [episodes([0] * 40)]}, tmp_path / "compare.svg", "reach")
    text = path.read_text()
    assert "state (3 seeds): 95% after 3k steps" in text
    assert "vision (1 seed): 95% not reached" in text


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no runs"):
        learning_curve({}, tmp_path / "curve.png", "reach")
    with pytest.raises(ConfigError, match="Nothing to compare"):
        compare_curves({"state": []}, tmp_path / "curve.png", "reach")
    with pytest.raises(ConfigError, match="png"):
        learning_curve([], tmp_path / "curve.xyz", "reach")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write"):
        learning_curve([], tmp_path / "file" / "curve.png", "reach")
