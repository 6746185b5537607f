"""What ties an arm that follows to one that leads: from where both are, and until it is let go."""

import numpy as np
from numpy.typing import NDArray

from robot_rl.geometry import compose, invert, quat_conjugate, quat_multiply, rotvec_from_quat

__all__ = ["Clutch"]

Array = NDArray[np.float64]


class Clutch:
    """How far an arm has yet to go behind another one.

    It is measured against where the follower is, not summed up from how the leader moves: an arm that lags, or that is
    held up for a while, catches up.

    Args:
        frame: `base`: what the leader does in its base, the follower does in its own. `tcp`: as their tools stood when
            they were tied.
    """

    def __init__(self, frame: str) -> None:
        self._frame = frame
        self._tied: tuple[Array, Array] | None = None
        self._lay: Array | None = None

    def release(self, leader: Array | None = None) -> None:
        """Let go; the next look ties them anew, from where they are then.

        Args:
            leader: Where it lies now, shape (7,): tied from there, what it moves until the next look is not lost.
        """
        self._tied, self._lay = None, leader

    def to_go(self, leader: Array, follower: Array) -> Array:
        """From where the follower is to where the leader has led it since they were tied.

        Args:
            leader: Its tcp pose in its base, shape (7,).
            follower: Its tcp pose in its own, shape (7,).

        Returns:
            Translation [m] and rotation vector [rad] in the follower's tcp, shape (6,).
        """
        if self._tied is None:
            self._tied = (leader if self._lay is None else self._lay).copy(), follower.copy()
        leader_then, follower_then = self._tied
        if self._frame == "base":
            turn = quat_multiply(leader[3:], quat_conjugate(leader_then[3:]))
            moved = leader[:3] - leader_then[:3]
            goal = np.concatenate([follower_then[:3] + moved, quat_multiply(turn, follower_then[3:])])
        else:
            goal = compose(follower_then, compose(invert(leader_then), leader))
        away = compose(invert(follower), goal)
        return np.concatenate([away[:3], rotvec_from_quat(away[3:])])
