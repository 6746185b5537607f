"""What else must hold for success, besides what is seen: `gripper_opening > 0.03`, `tcp_pose.2 > 0.1`.

A classifier that is fooled by a picture is not fooled about where the arm is.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robot_rl.errors import ConfigError

__all__ = ["Condition", "parse_conditions"]

_FORM = re.compile(r"\s*([A-Za-z_]\w*)(?:\.(\d+))?\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One entry of the state vector, compared with a number.

    Attributes:
        text: As it was written.
        entry: Of the state vector.
        compare: How.
        number: With what, in the entry's own unit.
    """

    text: str
    entry: int
    compare: str
    number: float

    def holds(self, state: Any) -> bool:
        """For a state vector, shape (D,)."""
        return _COMPARE[self.compare](float(state[self.entry]), self.number)


def parse_conditions(texts: Sequence[str], layout: Mapping[str, Any]) -> list[Condition]:
    """Conditions from how a person writes them.

    Args:
        texts: NAME OP NUMBER, or NAME.ENTRY OP NUMBER where NAME has several entries.
        layout: Of the state vector: name to slice, or to (start, stop).

    Raises:
        ConfigError: One of another form, or of something that the state does not hold.
    """
    return [_parse(text, {name: _bounds(where) for name, where in layout.items()}) for text in texts]


def _bounds(where: Any) -> tuple[int, int]:
    return (where.start, where.stop) if isinstance(where, slice) else (int(where[0]), int(where[1]))


def _parse(text: str, layout: Mapping[str, tuple[int, int]]) -> Condition:
    match = _FORM.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        name, entry, compare, number = match[1], match[2], match[3], float(match[4])
    except ValueError as error:
        raise ConfigError(f'{text!r} is no condition; write for example "gripper_opening > 0.03".') from error
    if name not in layout:
        raise ConfigError(f"{text!r}: the state has no {name!r}. It has {', '.join(layout) or 'no names'}.")
    start, stop = layout[name]
    if entry is None and stop - start > 1:
        raise ConfigError(f"{text!r}: {name} has {stop - start} entries; say which, for example {name}.0.")
    index = int(entry or 0)
    if index >= stop - start:
        raise ConfigError(f"{text!r}: {name} has {stop - start} entries, counted from 0.")
    return Condition(text.strip(), start + index, compare, number)
