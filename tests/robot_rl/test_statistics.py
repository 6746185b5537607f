import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from robot_rl.errors import ConfigError
from robot_rl.statistics import wilson_interval


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_intervals(successes, episodes, low, high):
    """Newcombe (1998), table I, method 3, to its four digits."""
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=5e-5)


def test_twenty_of_twenty_by_hand():
    """With no failure the lower bound is n / (n + z^2) = 20 / 23.8416."""
    low, high = wilson_interval(20, 20)
    assert low == pytest.approx(0.83887, abs=1e-5)
    assert high == 1.0


@given(st.integers(1, 500), st.data())
def test_agrees_with_scipy(episodes, data):
    successes = data.draw(st.integers(0, episodes))
    expected = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, episodes) == pytest.approx((expected.low, expected.high), abs=2e-5)


def test_no_episodes_say_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "episodes", "z"), [(3, 2, 1.96), (-1, 2, 1.96), (1, 2, 0.0), (1, 2, math.nan)])
def test_impossible_input_is_refused(successes, episodes, z):
    with pytest.raises(ConfigError, match="expected"):
        wilson_interval(successes, episodes, z)
