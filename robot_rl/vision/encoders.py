"""The trained part of seeing: pictures, or cached features of them, and the state vector into one latent."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from robot_rl.vision.kernels import embed
from robot_rl.vision.keypoints import Keypoints

__all__ = ["ConvEncoder", "Encoder", "FeatureEncoder"]

REACH = 2.0  # a keypoint at the picture's border, in the latent


class Encoder(nn.Module, ABC):
    """Maps a vector (B, D) and pictures by camera, uint8, (B, ...), to a latent (B, L).

    Attributes:
        output_dim: L.
        draws: Whether it draws random numbers in training.
    """

    output_dim: int
    draws: bool

    @abstractmethod
    def forward(self, vector: Tensor, images: Mapping[str, Tensor], random: torch.Generator | None = None) -> Tensor:
        """Encode; with a source of randomness as in training: with dropout and, of raw pictures, random shifts."""


class _CameraHead(nn.Module):
    """SERL's spatial learned embeddings: each channel weighted over the map in K learned ways; then a dense layer.

    Args:
        cells: P, places of the map.
        channels: C.
        embeddings: K.
        width: Of the output.
        dropout: Of the embeddings in training.
        generator: Source of the initial weights.
    """

    def __init__(
        self, cells: int, channels: int, embeddings: int, width: int, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.places = nn.Parameter(torch.randn(channels, embeddings, cells, generator=generator) / cells**0.5)
        self.dense = nn.Parameter(torch.empty(channels * embeddings, width))
        nn.init.orthogonal_(self.dense, 2**0.5, generator=generator)
        self.bias = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, spread: Tensor | None, random: torch.Generator | None) -> Tensor:
        """Features, (B, C, P), to (B, width) in (-1, 1); eight-bit ones with the worth of their steps, (C,)."""
        if spread is None:
            embedded = torch.einsum("bcp,ckp->bck", features, self.places)
        else:
            embedded = embed(features, self.places, spread)
        flat = embedded.flatten(1)
        if random is not None and self.dropout:
            kept = torch.rand(flat.shape, generator=random).to(flat.device) >= self.dropout
            flat = flat * kept / (1.0 - self.dropout)
        return torch.tanh(self.norm(torch.addmm(self.bias, flat, self.dense)))


class FeatureEncoder(Encoder):
    """On cached features of a frozen trunk.

    Args:
        shapes: Camera to (channels, rows, columns).
        spreads: Camera to what one step of each quantised channel is worth, shape (channels,).
        vector_dim: D.
        sizes: Embeddings a channel, width of each camera's part of the latent, and keypoints that join it.
        dropout: Of the embeddings in training.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int, int]],
        spreads: Mapping[str, Tensor],
        vector_dim: int,
        sizes: tuple[int, int, int],
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.cameras = list(shapes)
        embeddings, width, keypoints = sizes
        self.draws = dropout > 0
        self.heads, self.points = nn.ModuleList(), nn.ModuleList()
        for channels, rows, columns in shapes.values():
            self.heads.append(_CameraHead(rows * columns, channels, embeddings, width, dropout, generator))
            if keypoints:
                self.points.append(Keypoints(channels, (rows, columns), keypoints, generator))
        for index, camera in enumerate(self.cameras):
            self.register_buffer(f"spread{index}", spreads[camera].cpu())
        self.output_dim = vector_dim + (width + 2 * keypoints) * len(self.cameras)

    def forward(self, vector: Tensor, images: Mapping[str, Tensor], random: torch.Generator | None = None) -> Tensor:
        parts = [vector]
        for index, camera in enumerate(self.cameras):
            features, spread = images[camera], getattr(self, f"spread{index}")
            parts.append(self.heads[index](features, spread, random))
            if self.points:
                parts.append(REACH * self.points[index](features, spread))
        return torch.cat(parts, -1)


class ConvEncoder(Encoder):
    """Four small convolutions on raw pictures, trained from scratch, with DrQ's random shift while training.

    Args:
        shapes: Camera to (h, H, W, 3): h pictures one below the other are seen together, and shifted alike.
        vector_dim: D.
        width: Of each camera's part of the latent.
        shift_pixels: Largest shift each way.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        vector_dim: int,
        width: int,
        shift_pixels: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.cameras, self.shift_pixels, self.draws = list(shapes), shift_pixels, True
        self.frames = [shapes[camera][0] for camera in self.cameras]
        self.convolutions, self.heads = nn.ModuleList(), nn.ModuleList()
        for camera in self.cameras:
            frames, height, columns, colours = shapes[camera]
            layers: list[nn.Module] = []
            for before, after in ((frames * colours, 16), (16, 32), (32, 32), (32, 32)):
                layer = nn.Conv2d(before, after, 3, stride=2, padding=1)
                nn.init.orthogonal_(layer.weight, 2**0.5, generator=generator)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
                layers += [layer, nn.ReLU()]
            self.convolutions.append(nn.Sequential(*layers))
            cells = -(-height // 16) * -(-columns // 16)
            self.heads.append(_CameraHead(cells, 32, 8, width, 0.0, generator))
        self.output_dim = vector_dim + width * len(self.cameras)

    def forward(self, vector: Tensor, images: Mapping[str, Tensor], random: torch.Generator | None = None) -> Tensor:
        parts = [vector]
        for convolution, head, camera, frames in zip(
            self.convolutions, self.heads, self.cameras, self.frames, strict=True
        ):
            stacked = images[camera].unflatten(1, (frames, -1)).movedim(1, 3).flatten(3)
            pictures = stacked.permute(0, 3, 1, 2).float() / 255.0 - 0.5
            if random is not None:
                pictures = random_shift(pictures, self.shift_pixels, random)
            parts.append(head(convolution(pictures).flatten(2), None, random))
        return torch.cat(parts, -1)


def random_shift(pictures: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Move each picture, (B, C, H, W), by up to `pixels` each way, its border repeated."""
    if pixels == 0:
        return pictures
    batch, _, height, width = pictures.shape
    padded = functional.pad(pictures, (pixels,) * 4, mode="replicate")
    y, x = torch.randint(0, 2 * pixels + 1, (2, batch, 1), generator=generator).to(pictures.device)
    rows = (y + torch.arange(height, device=pictures.device))[:, None, :, None]
    columns = (x + torch.arange(width, device=pictures.device))[:, None, None, :]
    items = torch.arange(batch, device=pictures.device)[:, None, None, None]
    channels = torch.arange(pictures.shape[1], device=pictures.device)[None, :, None, None]
    return padded[items, channels, rows, columns]
