"""How good a classifier is: precision, recall, AUROC, calibration; and a threshold for a stated rate of alarms."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scores", "score", "threshold_at"]

Array = NDArray[np.float64]
BINS = 10


@dataclass(frozen=True)
class Scores:
    """Of probabilities against truth, at a threshold.

    Attributes:
        frames: How many, and of them `successes`.
        successes: Frames that show success.
        precision: Of what is called success, the share that is.
        recall: Of success, the share that is called so.
        false_positive_rate: Of the rest, the share that is called success.
        auroc: The chance that a success scores above another frame.
        calibration_error: Expected difference of probability and frequency, over ten bins of equal width.
        threshold: At which they are called.
    """

    frames: int
    successes: int
    precision: float
    recall: float
    false_positive_rate: float
    auroc: float
    calibration_error: float
    threshold: float

    def __str__(self) -> str:
        return (
            f"{self.frames} frames, {self.successes} of success; at threshold {self.threshold:.3f}: precision "
            f"{self.precision:.3f}, recall {self.recall:.3f}, false positives {self.false_positive_rate:.2%}; AUROC "
            f"{self.auroc:.4f}, calibration error {self.calibration_error:.3f}"
        )

    def to_json(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def score(probability: Array, success: NDArray[np.bool_], threshold: float) -> Scores:
    """Score probabilities, shape (N,), against truth, shape (N,)."""
    called = probability >= threshold
    hits, alarms = int((called & success).sum()), int((called & ~success).sum())
    positives, negatives = int(success.sum()), int((~success).sum())
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [
        abs(probability[bins == b].mean() - success[bins == b].mean()) * (bins == b).mean()
        for b in range(BINS)
        if (bins == b).any()
    ]
    return Scores(
        frames=len(success),
        successes=positives,
        precision=hits / max(hits + alarms, 1),
        recall=hits / max(positives, 1),
        false_positive_rate=alarms / max(negatives, 1),
        auroc=_auroc(probability, success),
        calibration_error=float(sum(gaps)),
        threshold=threshold,
    )


def threshold_at(probability: Array, success: NDArray[np.bool_], false_positive_rate: float) -> float:
    """The lowest threshold at which no larger share of the other frames is called success."""
    others = np.sort(probability[~success])[::-1]
    allowed = int(np.floor(false_positive_rate * len(others)))
    if allowed >= len(others):
        return 0.0
    return float(np.clip(np.nextafter(others[allowed], np.inf), 0.5, 0.999))


def _auroc(probability: Array, success: NDArray[np.bool_]) -> float:
    """By ranks (Mann-Whitney), ties counting half."""
    values, inverse, counts = np.unique(probability, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - 0.5 * (counts - 1))[inverse]
    positives, negatives = int(success.sum()), int((~success).sum())
    del values
    if not positives or not negatives:
        return float("nan")
    return float((ranks[success].sum() - positives * (positives + 1) / 2) / (positives * negatives))
