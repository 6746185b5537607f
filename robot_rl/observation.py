"""Observations as named leaves, and as the one flat vector that learners take.

A leaf is a Box of the observation space: `observation` for a plain Box, `observation/<key>` for a Dict, with
nested keys joined by `/` (`observation/images/wrist`). Leaves keep the order of the space itself. Leaves of up
to one dimension are vectors and are concatenated, in that order, into the flat float32 vector; leaves of two or
more dimensions (camera images) stay arrays of their own.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError, ShapeError

ROOT = "observation"


def box_leaves(space: gym.Space[Any], name: str = ROOT) -> dict[str, gym.spaces.Box]:
    """Return the Boxes of an observation space by leaf name, in the space's own order.

    Raises:
        ConfigError: The space holds something other than Box and Dict.
    """
    if isinstance(space, gym.spaces.Box):
        return {name: space}
    if isinstance(space, gym.spaces.Dict):
        leaves: dict[str, gym.spaces.Box] = {}
        for key, child in space.spaces.items():
            leaves.update(box_leaves(child, f"{name}/{key}"))
        return leaves
    raise ConfigError(
        f"{name!r} is a {type(space).__name__} space; observations are made of Box and Dict. "
        "Wrap the environment in gymnasium.wrappers.FlattenObservation.",
        name=name,
    )


def leaf_values(observation: object, name: str = ROOT) -> Iterator[tuple[str, object]]:
    """Yield (leaf name, value) for an observation, whatever its order."""
    if isinstance(observation, Mapping):
        for key, value in cast("Mapping[str, object]", observation).items():
            yield from leaf_values(value, f"{name}/{key}")
    else:
        yield name, observation


def check_array(name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `value` as an array of `shape` and `dtype`, without a copy where it already is one.

    Raises:
        ShapeError: Wrong shape, a type that does not convert safely (float to uint8), or non-finite numbers.
    """
    array = np.asarray(value)
    if array.shape != shape:
        raise ShapeError(f"{name!r} has shape {array.shape}, expected {shape}.", name=name, shape=array.shape)
    if array.dtype != dtype:
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ShapeError(f"{name!r} is {array.dtype}, expected {dtype}.", name=name, dtype=array.dtype)
        array = array.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array.reshape(-1)))[0])
        raise ShapeError(f"{name!r} is not finite: element {bad} is {array.reshape(-1)[bad]}.", name=name)
    return array


class ObservationLayout:
    """Where each leaf of an observation space goes: into the flat vector, or beside it.

    Attributes:
        leaves: Leaf name -> Box, in the space's own order.
        vectors: Leaf name -> slice of the flat vector.
        images: Names of the leaves of two or more dimensions.
        size: Length D of the flat vector.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        self.leaves = box_leaves(space)
        self.vectors: dict[str, slice] = {}
        self.images: list[str] = []
        self.size = 0
        for name, box in self.leaves.items():
            if len(box.shape) <= 1:
                width = int(np.prod(box.shape, dtype=np.int64))
                self.vectors[name] = slice(self.size, self.size + width)
                self.size += width
            else:
                self.images.append(name)

    def split(self, observation: object) -> dict[str, NDArray[Any]]:
        """Return one observation's checked leaves by name.

        Raises:
            ShapeError: A leaf is missing, unknown, of the wrong shape or type, or not finite.
        """
        values = dict(leaf_values(observation))
        if values.keys() != self.leaves.keys():
            raise ShapeError(f"The observation has {sorted(values)}, the space has {sorted(self.leaves)}.")
        return {
            name: check_array(name, values[name], box.shape, np.dtype(box.dtype)) for name, box in self.leaves.items()
        }

    def flatten(self, observation: object) -> NDArray[np.float32]:
        """Return the flat vector of one observation, float32, shape (D,), freshly allocated.

        Raises:
            ShapeError: As `split`.
        """
        return self.flatten_columns(self.split(observation), ())

    def flatten_columns(self, columns: Mapping[str, NDArray[Any]], batch: tuple[int, ...]) -> NDArray[np.float32]:
        """Return flat vectors, shape (*batch, D), from leaves of shape (*batch, *leaf shape)."""
        flat = np.empty((*batch, self.size), np.float32)
        for name, where in self.vectors.items():
            flat[..., where] = columns[name].reshape(*batch, where.stop - where.start)
        return flat
