"""How far a counted success rate can be trusted."""

import math

from robot_rl.errors import ConfigError


def wilson_interval(successes: int, episodes: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a success rate (Wilson's score interval, without continuity correction).

    It stays inside [0, 1] and remains meaningful at 0 and at all successes, where the textbook
    interval shrinks to a point.

    Args:
        successes: Episodes that succeeded.
        episodes: Episodes counted.
        z: Standard normal quantile; 1.96 is 95 % confidence.

    Returns:
        Lower and upper bound of the success rate, each in [0, 1]. Without episodes nothing is known: (0, 1).

    Raises:
        ConfigError: The counts contradict each other or `z` is not a positive number.

    Source: Wilson (1927); compared in Newcombe, Statistics in Medicine 17 (1998), method 3.
    """
    if not 0 <= successes <= episodes:
        raise ConfigError(
            f"{successes} successes in {episodes} episodes is impossible; expected 0 <= successes <= episodes.",
            successes=successes,
            episodes=episodes,
        )
    if not (math.isfinite(z) and z > 0):
        raise ConfigError(f"z is {z}; expected a positive number such as 1.96 for 95 % confidence.", z=z)
    if episodes == 0:
        return 0.0, 1.0
    rate = successes / episodes
    shrink = 1 + z**2 / episodes
    centre = (rate + z**2 / (2 * episodes)) / shrink
    half_width = z / shrink * math.sqrt(rate * (1 - rate) / episodes + (z / (2 * episodes)) ** 2)
    # Rounding would otherwise leave 1e-17 where the bound is exactly 0 or 1.
    low = 0.0 if successes == 0 else max(0.0, centre - half_width)
    high = 1.0 if successes == episodes else min(1.0, centre + half_width)
    return low, high
