"""Which rows of the ring a batch is made of. The inner loop is compiled: n-step transitions gathered from the ring."""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True)
def gather(  # noqa: PLR0913 - a compiled kernel takes arrays, not a configuration
    rows: NDArray[np.int64],
    n_step: int,
    gamma: float,
    observation: NDArray[np.float32],
    action: NDArray[np.float32],
    reward: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    linked: NDArray[np.bool_],
    out_observation: NDArray[Any],
    out_action: NDArray[Any],
    out_reward: NDArray[Any],
    out_discount: NDArray[Any],
    out_next: NDArray[Any],
) -> NDArray[np.int64]:
    """Fill a batch with the transitions that start at `rows` (ring positions, all linked to the row after them).

    Returns:
        Ring position of each transition's last observation.
    """
    capacity = reward.shape[0]
    ends = np.empty_like(rows)
    for item in range(rows.shape[0]):
        row = rows[item]
        end = row
        total = 0.0
        discount = 1.0
        for _ in range(n_step):
            total += discount * reward[end]
            discount *= 0.0 if terminated[end] else gamma
            end = end + 1 if end + 1 < capacity else 0
            if discount == 0.0 or not linked[end]:
                break
        ends[item] = end
        out_reward[item] = total
        out_discount[item] = discount
        for column in range(observation.shape[1]):
            out_observation[item, column] = observation[row, column]
            out_next[item, column] = observation[end, column]
        for column in range(action.shape[1]):
            out_action[item, column] = action[row, column]
    return ends


def history_rows(newest: NDArray[np.int64], history: int, linked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """What came before each of some rows in its episode, as far as the ring still holds it.

    Args:
        newest: Ring positions, shape (B,).
        history: Rows wanted of each.
        linked: Whether the row after each position continues its episode.

    Returns:
        Ring positions, shape (B, history), the oldest first; where an episode has no row before, its first is repeated.
    """
    if history == 1:
        return newest[:, None]
    rows = np.empty((len(newest), history), np.int64)
    rows[:, -1] = newest
    for i in range(history - 1, 0, -1):
        before = (rows[:, i] - 1) % len(linked)  # what lies before the oldest row is the newest, which leads nowhere
        rows[:, i - 1] = np.where(linked[before], before, rows[:, i])
    return rows
