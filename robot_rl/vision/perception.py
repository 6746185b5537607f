"""What a picture becomes before replay and policy see it: features of a frozen trunk, several shifts of each, cached.

A frozen trunk gives the same features for the same picture for ever, so each picture passes it once, in a few random
shifts (DrQ's augmentation, arXiv 2004.13649), and an update costs little more than one from state. The features are
projected onto their leading principal directions and kept in eight bits: 2 kB a picture and shift instead of 49.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robot_rl.errors import ConfigError
from robot_rl.observation import ObservationLayout
from robot_rl.tensor_state import copy_into, to_cpu
from robot_rl.vision.config import VisionConfig
from robot_rl.vision.encoders import ConvEncoder, Encoder, FeatureEncoder
from robot_rl.vision.seen import SeenLog
from robot_rl.vision.trunks import Trunk, load_trunk

__all__ = ["Perception"]

TRAINABLE = "conv"
AT_ONCE = 1  # pictures that pass the trunk together on a CPU: no slower, and the numbers depend on no neighbour
QUANTISED_RANGE = 4.0  # standard deviations that 8 bits span, each side
FITTED_ROWS = 40_000  # map cells the principal directions are fitted on, at most


class Perception:
    """The frozen part of seeing; the trained part is made by `encoder`.

    Args:
        config: How.
        layout: Of the observations; its images are the cameras.
        seed: Of the shifts, and of the projection where there is nothing to fit it on. The same picture is always
            shifted the same, so that a resumed run learns from the same numbers.
        device: Where the trunk runs.
        history: Pictures of each camera that the encoder sees together.

    Attributes:
        shapes: Leaf name of each camera to the shape of one picture as replay keeps it: (shifts, channels, cells) of
            features, or (1, H, W, 3) of pixels where the encoder is trained.
    """

    def __init__(
        self, config: VisionConfig, layout: ObservationLayout, seed: int, device: str = "cpu", history: int = 1
    ) -> None:
        self.config, self.device, self.history = config, device, history
        self.cameras = list(layout.images)
        self._trunk: Trunk | None = None if config.encoder == TRAINABLE else load_trunk(config.encoder).to(device)
        self._seed = seed
        self._logs: dict[str, SeenLog] = {}
        self._newest: dict[str, tuple[NDArray[Any], NDArray[np.uint8]]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._maps: dict[str, tuple[int, int]] = {}
        self._tensors: dict[str, Tensor] = {}
        for name in self.cameras:
            box = layout.leaves[name]
            if len(box.shape) != 3 or box.shape[-1] != 3 or box.dtype != np.uint8:
                raise ConfigError(f"{name!r} is {box.dtype} {box.shape}; cameras give uint8 pictures (H, W, 3).")
            if self._trunk is None:
                self.shapes[name] = (1, *box.shape)
                continue
            cells, channels = self._trunk(torch.zeros(1, *box.shape, dtype=torch.uint8, device=device)).shape[1:]
            kept = min(config.channels, channels)
            self.shapes[name] = (config.shifts, kept, cells)
            self._maps[name] = _map_shape(cells, box.shape[0] / box.shape[1])
            generator = torch.Generator().manual_seed(seed)
            basis = torch.linalg.qr(torch.randn(channels, kept, generator=generator))[0]
            self._set(name, torch.zeros(channels), basis, torch.ones(kept))

    def _set(self, camera: str, mean: Tensor, basis: Tensor, std: Tensor) -> None:
        parts = {"mean": mean, "basis": basis, "std": std}
        for part, value in parts.items():
            self._tensors[f"vision.{camera}.{part}"] = value.to(self.device, torch.float32).contiguous()

    def _of(self, camera: str) -> tuple[Tensor, Tensor, Tensor]:
        mean, basis, std = (self._tensors[f"vision.{camera}.{part}"] for part in ("mean", "basis", "std"))
        return mean, basis, std

    def fit(self, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Choose the directions in which the features of typical pictures, each (N, H, W, 3), vary most."""
        for name in self.cameras if self._trunk is not None else ():
            features = self._features(pictures[name]).flatten(0, 1)
            features = features[:: max(1, len(features) // FITTED_ROWS)]
            mean = features.mean(0)
            _, sizes, directions = torch.linalg.svd(features - mean, full_matrices=False)
            kept = self.shapes[name][1]
            self._set(name, mean, directions[:kept].T, (sizes[:kept] / len(features) ** 0.5).clamp(min=1e-6))

    def _features(self, pictures: NDArray[np.uint8]) -> Tensor:
        assert self._trunk is not None
        images = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device)
        size = AT_ONCE if self.device == "cpu" else 256
        return torch.cat([self._trunk(images[i : i + size]) for i in range(0, len(images), size)])

    def look(self, camera: str, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pictures as they are, ready for the encoder: uint8, shape (N, 1, channels, cells), or (N, 1, H, W, 3)."""
        if self._trunk is None:
            return pictures[:, None]
        mean, basis, std = self._of(camera)
        projected = (self._features(pictures) - mean) @ (basis / std)
        steps = (projected * (127.0 / QUANTISED_RANGE) + 128.0).round_().clamp_(0, 255)
        return steps.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()[:, None]

    def look_newest(self, camera: str, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As `look` for one picture, (H, W, 3) to (1, 1, ...); asked again for the same one, it remembers."""
        seen = self._newest.get(camera)
        if seen is None or not np.array_equal(seen[0], picture):
            picture = picture.copy()  # an environment may draw the next one over it
            seen = self._newest[camera] = (picture, self.look(camera, picture[None]))
        return seen[1]

    def keep(self, folder: Path) -> None:
        """From now on keep on disk what is remembered, and look at no picture twice that is there already."""
        if self._trunk is None:
            return
        for name in self.cameras:
            salt = blake2b(repr((self.config, self._seed)).encode(), digest_size=16)
            for part in self._of(name):
                salt.update(part.cpu().numpy().tobytes())
            self._logs[name] = SeenLog(folder / name.rsplit("/", 1)[-1], self.shapes[name], salt.digest())

    def remember(
        self, camera: str, pictures: NDArray[np.uint8], alike: Sequence[int] | None = None
    ) -> NDArray[np.uint8]:
        """What replay keeps of pictures.

        Args:
            camera: Whose.
            pictures: Shape (N, H, W, 3).
            alike: N numbers: pictures of the same one are shifted alike. What a picture shows, when None.

        Returns:
            Shape (N, *shapes[camera]); the first of the shifts is none.
        """
        log = self._logs.get(camera)
        if log is None:
            return self._remember(camera, pictures, alike)
        numbers = [0] * len(pictures) if alike is None else alike
        found = [log.get(picture, number) for picture, number in zip(pictures, numbers, strict=True)]
        missing = [i for i, features in enumerate(found) if features is None]
        if missing:
            their = None if alike is None else [alike[i] for i in missing]
            for i, features in zip(missing, self._remember(camera, pictures[missing], their), strict=True):
                log.put(pictures[i], numbers[i], features)
                found[i] = features
        return np.stack([features for features in found if features is not None])

    def _remember(self, camera: str, pictures: NDArray[np.uint8], alike: Sequence[int] | None) -> NDArray[np.uint8]:
        first = self.look_newest(camera, pictures[0]) if len(pictures) == 1 else self.look(camera, pictures)
        if self._trunk is None or self.config.shifts == 1:
            return first
        alike = [zlib.crc32(picture.tobytes()) for picture in pictures] if alike is None else alike
        shifted = [self.look(camera, self._shifted(pictures, i, alike)) for i in range(1, self.config.shifts)]
        return np.concatenate([first, *shifted], 1)

    def _shifted(self, pictures: NDArray[np.uint8], number: int, alike: Sequence[int]) -> NDArray[np.uint8]:
        """Each picture moved by up to `shift_pixels`, its border repeated; whereto follows from `alike`."""
        most, (height, width) = self.config.shift_pixels, pictures.shape[1:3]
        padded = np.pad(pictures, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
        out = np.empty_like(pictures)
        for i, key in enumerate(alike):
            random = np.random.default_rng([self._seed, number, key])
            y, x = random.integers(0, 2 * most + 1, 2)
            out[i] = padded[i, y : y + height, x : x + width]
        return out

    def encoder(self, vector_dim: int, generator: torch.Generator, keypoints: bool = True) -> Encoder:
        """A fresh trainable encoder of (vector, pictures as remembered) into a latent, with keypoints or without."""
        if self._trunk is None:
            shapes = {name: (self.history, *shape[1:]) for name, shape in self.shapes.items()}
            return ConvEncoder(shapes, vector_dim, self.config.width, self.config.shift_pixels, generator)
        spreads = {name: (std := self._of(name)[2]) / std[0] * (QUANTISED_RANGE / 127.0) for name in self.cameras}
        spreads = {name: spread.repeat(self.history) for name, spread in spreads.items()}
        shapes = {name: (self.history * self.shapes[name][1], *self._maps[name]) for name in self.cameras}
        sizes = (self.config.embeddings, self.config.width, self.config.keypoints * keypoints)
        return FeatureEncoder(shapes, spreads, vector_dim, sizes, self.config.dropout, generator)

    def state(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of the fitted projection, by name: part of every policy and checkpoint."""
        return to_cpu(self._tensors)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the projection that `state` gave.

        Raises:
            ShapeError: A tensor is missing, or of another trunk.
        """
        copy_into(self._tensors, tensors)


def _map_shape(cells: int, height_by_width: float) -> tuple[int, int]:
    """Rows and columns of a trunk's map: the two that give so many cells and come nearest the picture's proportions."""
    divisors = [rows for rows in range(1, cells + 1) if cells % rows == 0]
    rows = min(divisors, key=lambda n: abs(math.log(n * n / cells / height_by_width)))
    return rows, cells // rows
