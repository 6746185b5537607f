"""What success looks like: a frozen pretrained trunk, spatial embeddings and keypoints a camera, one number out.

The same class trains, is judged and serves, so that what it sees is prepared the same way everywhere: the file holds
the fitted projection, the way of seeing, the cameras and the threshold beside the weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from robot_rl.errors import ConfigError, StoreError
from robot_rl.observation import ObservationLayout
from robot_rl.rewards.frames import Frames
from robot_rl.rewards.scores import Scores, score, threshold_at
from robot_rl.store.layout import space_from_json, space_to_json
from robot_rl.tensor_files import load_tensors, save_tensors
from robot_rl.vision.config import VisionConfig
from robot_rl.vision.perception import Perception

__all__ = ["Seen", "SuccessClassifier"]

UPDATES = 400
BATCH = 64
RATE, DECAY = 1e-3, 0.05  # of AdamW
FOLDS = 4
SMOOTHING = 0.02  # of the labels: a frame just before success looks like one just after
TYPICAL = 400  # frames that the projection is fitted on
FILE = "reward.safetensors"

OnProgress = Callable[[str, int, int], None]


class SuccessClassifier:
    """Probability that an observation shows success.

    Args:
        space: Of the observations; its cameras are the eyes.
        vision: How pictures are seen.
        seed: Of everything.
        task: What it is trained for.
        eyes: Another classifier's, fitted on the same frames, so that the trunk looks once for both.

    Attributes:
        threshold: Above which it is success.
        task: What it was trained for.
        stages: The stage that counts as success; 1 where there is but one.
    """

    def __init__(
        self,
        space: gym.Space[Any],
        vision: VisionConfig,
        seed: int = 0,
        task: str = "",
        eyes: Perception | None = None,
    ) -> None:
        torch.set_num_threads(1)
        if vision.encoder == "conv":
            raise ConfigError("A success classifier sees through a pretrained trunk; vision.encoder=conv has none.")
        self._space, self.vision, self._seed, self.task = space, vision, seed, task
        self.layout = ObservationLayout(space)
        self.eyes = eyes or Perception(vision, self.layout, seed)
        self.threshold, self.stages = 0.5, 1
        self._make(seed)

    def _make(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._random = torch.Generator().manual_seed(seed + 1)
        self._encoder = self.eyes.encoder(0, generator)
        self._head = torch.zeros(self._encoder.output_dim + 1)  # the last is the bias
        self._head[:-1] = torch.randn(self._encoder.output_dim, generator=generator) / self._encoder.output_dim**0.5

    def _logits(self, images: Mapping[str, Tensor], train: bool = False) -> Tensor:
        count = len(next(iter(images.values())))
        latent = self._encoder(torch.zeros(count, 0), images, self._random if train else None)
        return latent @ self._head[:-1] + self._head[-1]

    # Serving

    def probability(self, observation: Any) -> float:
        """That one observation, as the environment gives it, shows success."""
        leaves = self.layout.split(observation)
        seen = {n: torch.from_numpy(self.eyes.look_newest(n, leaves[n])[:, 0]) for n in self.eyes.cameras}
        with torch.no_grad():
            return float(torch.sigmoid(self._logits(seen))[0])

    def probabilities(self, frames: Frames) -> NDArray[np.float64]:
        """Of many frames, shape (N,)."""
        seen = {n: torch.from_numpy(self.eyes.look(n, frames.pictures[n])[:, 0]) for n in self.eyes.cameras}
        with torch.no_grad():
            return torch.sigmoid(self._logits(seen)).double().numpy()

    # Training

    def fit(
        self, frames: Frames, false_positive_rate: float, on_progress: OnProgress = lambda _what, _done, _of: None
    ) -> tuple[Scores, NDArray[np.float64]]:
        """Train on frames; judge by folds of whole episodes that each were left out once; set the threshold by them.

        Args:
            frames: Marked.
            false_positive_rate: That the threshold is chosen for.
            on_progress: Called with what is done, how much of it, and of how much.

        Returns:
            Scores on frames of episodes that were left out, and their probabilities, shape (N,).

        Raises:
            ConfigError: Fewer than two episodes with success, or without.
        """
        self.fit_eyes(frames)
        return self.learn(self.look_at(frames, on_progress), false_positive_rate, on_progress)

    def fit_eyes(self, frames: Frames) -> None:
        """Choose what of the trunk's features to keep, by typical frames."""
        every = max(1, len(frames) // TYPICAL)
        self.eyes.fit({name: pictures[::every] for name, pictures in frames.pictures.items()})

    def learn(
        self,
        seen: "Seen",
        false_positive_rate: float,
        on_progress: OnProgress = lambda _what, _done, _of: None,
    ) -> tuple[Scores, NDArray[np.float64]]:
        """As `fit`, on frames already looked at; the projection stays as it is."""
        fold = _folds(seen)
        left_out = np.zeros(len(seen.success))
        for number in range(int(fold.max()) + 1):
            train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            self._train(seen, train, lambda n, k=number: on_progress(f"fold {k + 1}", n, UPDATES))
            with torch.no_grad():
                images = {name: values[test, 0] for name, values in seen.kept.items()}
                left_out[test] = torch.sigmoid(self._logits(images)).numpy()
        judged = seen.judged
        self.threshold = threshold_at(left_out[judged], seen.success[judged], false_positive_rate)
        self._train(seen, np.arange(len(seen.success)), lambda n: on_progress("all frames", n, UPDATES))
        return score(left_out[judged], seen.success[judged], self.threshold), left_out

    def look_at(
        self, frames: Frames, on_progress: OnProgress = lambda _what, _done, _of: None, *, judged: bool = True
    ) -> "Seen":
        """Pass frames through the trunk, once and for all; `judged` says whether the threshold heeds them."""
        kept = self._remember(frames, on_progress)
        return Seen(kept, frames.success, frames.episode, np.full(len(frames), judged))

    def _remember(self, frames: Frames, on_progress: OnProgress) -> dict[str, Tensor]:
        """By camera, uint8, shape (N, shifts, channels, cells)."""
        kept: dict[str, Tensor] = {}
        for name in self.eyes.cameras:
            parts: list[NDArray[Any]] = []
            for i in range(len(frames)):
                parts.append(self.eyes.remember(name, frames.pictures[name][i : i + 1]))
                on_progress(f"looking through {name.rsplit('/', 1)[-1]}", i + 1, len(frames))
            kept[name] = torch.from_numpy(np.concatenate(parts))
        return kept

    def _train(
        self,
        seen: "Seen",
        rows: NDArray[np.int64],
        told: Callable[[int], None],
    ) -> None:
        """From scratch on some rows: half of every batch shows success."""
        self._make(self._seed)
        rng = np.random.default_rng(self._seed)
        yes, no = rows[seen.success[rows]], rows[~seen.success[rows]]
        self._head.requires_grad_()
        parameters = [*self._encoder.parameters(), self._head]
        adam = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
        shifts = next(iter(seen.kept.values())).shape[1]
        target = torch.cat([torch.full((BATCH // 2,), 1.0 - SMOOTHING), torch.full((BATCH // 2,), SMOOTHING)])
        for update in range(UPDATES):
            chosen = np.concatenate([rng.choice(yes, BATCH // 2), rng.choice(no, BATCH // 2)])
            images = {name: values[chosen, rng.integers(0, shifts, BATCH)] for name, values in seen.kept.items()}
            loss = functional.binary_cross_entropy_with_logits(self._logits(images, train=True), target)
            adam.zero_grad()
            loss.backward()
            adam.step()
            told(update + 1)
        self._head = self._head.detach()
        self._encoder.requires_grad_(False)

    # On disk

    def save(self, path: str | Path, facts: Mapping[str, Any]) -> Path:
        """Write everything that serving needs, and `facts`, into a directory.

        Raises:
            StoreError: The disk failed or is full.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"Cannot make {path}: {error.strerror}.", path=path) from error
        tensors = {**self.eyes.state(), "head": self._head.clone()}
        tensors |= {f"encoder.{name}": value.clone() for name, value in self._encoder.state_dict().items()}
        own = {
            "space": space_to_json(self._space), "vision": asdict(self.vision), "threshold": self.threshold,
            "task": self.task, "seed": self._seed, "stages": self.stages,
        }  # fmt: skip
        save_tensors(path / FILE, tensors, {**facts, **own})
        return path / FILE

    @classmethod
    def load(cls, path: str | Path, eyes: Perception | None = None) -> tuple["SuccessClassifier", dict[str, Any]]:
        """What `save` wrote, and its facts; with the `eyes` of another that was fitted on the same frames.

        Raises:
            StoreError: There is none, or it is damaged.
        """
        tensors, facts = load_tensors(Path(path) / FILE)
        facts["vision"].setdefault("keypoints", 0)  # files of before there were any do not say
        space, vision = space_from_json(facts["space"]), VisionConfig(**facts["vision"])
        one = cls(space, vision, facts["seed"], facts["task"], eyes)
        one.stages = int(facts.get("stages", 1))
        one.eyes.load(tensors)
        one._make(facts["seed"])  # with the fitted projection
        one._encoder.load_state_dict(
            {n.removeprefix("encoder."): v for n, v in tensors.items() if n.startswith("encoder.")}
        )
        one._encoder.requires_grad_(False)
        one._head, one.threshold = tensors["head"], float(facts["threshold"])
        return one, facts

    def check_fits(self, space: gym.Space[Any]) -> None:
        """Whether it can see what an environment shows.

        Raises:
            ConfigError: Another set of cameras, or of other sizes.
        """
        theirs = ObservationLayout(space)
        own = {name: self.layout.leaves[name].shape for name in self.layout.images}
        given = {name: theirs.leaves[name].shape for name in theirs.images}
        if own != given:
            raise ConfigError(
                f"The reward was trained on the cameras {own}, this environment has {given or 'none'}. Train with "
                "--set env.observations=vision (or --preset pixels), or train a reward on these cameras."
            )


@dataclass(frozen=True)
class Seen:
    """N frames as the trunk saw them.

    Attributes:
        kept: By camera, uint8, shape (N, shifts, channels, cells).
        success: Whether each shows success, shape (N,).
        episode: What belongs together, shape (N,).
        judged: Whether the threshold heeds it, shape (N,).
    """

    kept: dict[str, Tensor]
    success: NDArray[np.bool_]
    episode: NDArray[np.int64]
    judged: NDArray[np.bool_]

    def of(self, rows: NDArray[np.int64]) -> "Seen":
        """Some of them."""
        if len(rows) == len(self.success):
            return self
        kept = {name: values[rows] for name, values in self.kept.items()}
        return Seen(kept, self.success[rows], self.episode[rows], self.judged[rows])

    def __add__(self, more: "Seen") -> "Seen":
        """Both; an episode of one is none of the other's."""
        return Seen(
            {name: torch.cat([values, more.kept[name]]) for name, values in self.kept.items()},
            np.concatenate([self.success, more.success]),
            np.concatenate([self.episode, more.episode + self.episode.max() + 1]),
            np.concatenate([self.judged, more.judged]),
        )


def _folds(frames: Frames | Seen) -> NDArray[np.int64]:
    """For each frame the fold that its episode is left out in; episodes with success are spread evenly."""
    with_success = np.unique(frames.episode[frames.success])
    without = np.setdiff1d(np.unique(frames.episode), with_success)
    if len(with_success) < 2:
        raise ConfigError(f"{len(with_success)} episodes with frames of success are too few to judge by; collect more.")
    folds = min(FOLDS, len(with_success))
    of = {int(e): i % folds for group in (with_success, without) for i, e in enumerate(group)}
    return np.array([of[int(e)] for e in frames.episode])
