"""How rows of steps become zarr arrays: which column lies where, and spaces as JSON.

Everything of up to one dimension shares one float64 table, `steps` (rows, width): one small chunk to rewrite a
commit instead of a dozen (a zarr write costs about 2 ms an array, whatever its size). float64 holds every float32,
bool, uint8, int32, UNIX time and integer up to 2**53 exactly. Images are arrays of their own, uint8 as they came.
The group's attribute `columns` says which columns of the table a name has, so plain zarr reads it all.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import ConfigError
from robot_rl.observation import ROOT, box_leaves

TABLE = "steps"
TABLE_CHUNK = 1024
IMAGE_CHUNK = 16
SOURCES = ("policy", "human", "script")

_STEP_COLUMNS = {
    "reward": "float32",
    "terminated": "bool",
    "truncated": "bool",
    "success": "bool",
    "final": "bool",
    "source": "uint8",
    "policy_version": "int64",
    "instruction": "int32",
    "episode": "int64",
    "time": "float64",
}


@dataclass(frozen=True)
class Column:
    """One named quantity per row.

    Attributes:
        array: The zarr array it lies in.
        start: Its first column in the table; 0 for an array of its own.
        stop: One past its last column in the table; 0 for an array of its own.
        shape: Shape of one row's value.
        dtype: NumPy's name of its type.
    """

    array: str
    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def in_table(self) -> bool:
        return self.array == TABLE


class StoreLayout:
    """The columns of a store, from its spaces.

    Attributes:
        columns: Name -> Column: the observation's leaves, action, then the step's own columns.
        width: Columns of the table.
        images: Names of the columns that are arrays of their own.
    """

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        if not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1:
            raise ConfigError(f"The action space is {action_space}; a store holds actions of a Box of one dimension.")
        self.columns: dict[str, Column] = {}
        self.images: list[str] = []
        self.width = 0
        for name, box in box_leaves(observation_space, ROOT).items():
            self._add(name, box.shape, np.dtype(box.dtype).name)
        self._add("action", action_space.shape, "float32")
        for name, dtype in _STEP_COLUMNS.items():
            self._add(name, (), dtype)

    def _add(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        if len(shape) > 1:
            self.columns[name] = Column(name, 0, 0, shape, dtype)
            self.images.append(name)
            return
        width = int(np.prod(shape, dtype=np.int64))
        self.columns[name] = Column(TABLE, self.width, self.width + width, shape, dtype)
        self.width += width

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str, int]]:
        """Return array name -> (shape of a row, dtype, rows in a chunk)."""
        images = {name: (self.columns[name].shape, self.columns[name].dtype, IMAGE_CHUNK) for name in self.images}
        return {TABLE: ((self.width,), "float64", TABLE_CHUNK), **images}

    def take(self, table: NDArray[np.float64], name: str) -> NDArray[Any]:
        """Return one column of table rows in its own type, shape (rows, *column shape)."""
        column = self.columns[name]
        return table[:, column.start : column.stop].astype(column.dtype).reshape(len(table), *column.shape)

    def put(self, row: NDArray[np.float64], name: str, value: object) -> None:
        """Write one value into a table row, shape (width,)."""
        column = self.columns[name]
        row[column.start : column.stop] = np.asarray(value, np.float64).reshape(-1)


def _bound_to_json(bound: NDArray[Any]) -> object:
    flat = cast("list[float]", bound.reshape(-1).tolist())
    flat = flat[:1] if len(set(flat)) == 1 else flat
    return [repr(value) if not np.isfinite(value) else value for value in flat]


def _bound_from_json(values: Iterable[object], shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    flat = np.array([float(cast("Any", value)) for value in values])
    return (np.full(shape, flat[0]) if flat.size == 1 else flat.reshape(shape)).astype(dtype)


def space_to_json(space: gym.Space[Any]) -> dict[str, object]:
    """Return a Box or (nested) Dict space as JSON, keeping the order of its keys."""
    if isinstance(space, gym.spaces.Dict):
        return {"type": "Dict", "spaces": [[key, space_to_json(child)] for key, child in space.spaces.items()]}
    (box,) = box_leaves(space).values()
    low, high = _bound_to_json(box.low), _bound_to_json(box.high)
    return {"type": "Box", "shape": list(box.shape), "dtype": np.dtype(box.dtype).name, "low": low, "high": high}


def space_from_json(value: Any) -> gym.Space[Any]:
    """Return the space that `space_to_json` wrote."""
    if value["type"] == "Dict":
        return gym.spaces.Dict(OrderedDict((key, space_from_json(child)) for key, child in value["spaces"]))
    shape, dtype = tuple(value["shape"]), str(value["dtype"])
    low, high = (_bound_from_json(value[side], shape, dtype) for side in ("low", "high"))
    return gym.spaces.Box(low, high, shape, np.dtype(dtype).type)


def check_same_spaces(
    stored: tuple[gym.Space[Any], gym.Space[Any]], wanted: tuple[gym.Space[Any], gym.Space[Any]], where: str
) -> None:
    """Check that two (observation, action) space pairs have the same leaves, shapes and types.

    Raises:
        ConfigError: They differ; every differing leaf is named with what each side has.
    """

    def describe(spaces: tuple[gym.Space[Any], gym.Space[Any]]) -> dict[str, str]:
        leaves = {**box_leaves(spaces[0]), **box_leaves(spaces[1], "action")}
        return {name: f"{np.dtype(box.dtype).name} {box.shape}" for name, box in leaves.items()}

    ours, theirs = describe(stored), describe(wanted)
    differing = [
        f"{name}: {ours.get(name, 'absent')} stored, {theirs.get(name, 'absent')} wanted"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    if not differing and list(ours) != list(theirs):
        differing = [f"order of keys: {list(ours)} stored, {list(theirs)} wanted"]
    if differing:
        raise ConfigError(
            f"{where} holds steps of another task ({'; '.join(differing)}). Use one recorded with this environment.",
            differing=differing,
        )
