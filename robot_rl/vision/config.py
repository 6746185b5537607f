"""How camera pictures are seen."""

from dataclasses import dataclass

from robot_rl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """How pictures are seen; without camera observations nothing of it matters.

    Attributes:
        encoder: A frozen, pretrained trunk by name (`robot_rl.vision.trunks`), or `conv`: a small one that is trained.
        channels: Principal directions of the trunk's features that are kept.
        embeddings: Learned spatial weightings of each channel (SERL's spatial learned embeddings).
        width: Of each camera's part of the latent.
        keypoints: Places that each camera's part also says to actors and rewards (`robot_rl.vision.keypoints`); 0 for
            none. Critics have none: there they cost a fifth of an update.
        dropout: Of the embeddings in training; SERL has 0.1.
        shifts: Cached versions of each picture: itself, and this many less one shifted at random.
        shift_pixels: Largest shift each way [pixels].
    """

    encoder: str = "efficientnet_lite0"
    channels: int = 32
    embeddings: int = 8
    width: int = 64
    keypoints: int = 16
    dropout: float = 0.0
    shifts: int = 4
    shift_pixels: int = 4

    def __post_init__(self) -> None:
        for name in ("channels", "embeddings", "width", "shifts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"vision.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.keypoints < 0:
            raise ConfigError(f"vision.keypoints is {self.keypoints}; it must not be negative.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"vision.dropout is {self.dropout}; it must be at least 0 and below 1.")
        if self.shift_pixels < 0:
            raise ConfigError(f"vision.shift_pixels is {self.shift_pixels}; it must not be negative.")
