"""What a task is: its numbers, its props, its reset, and how one knows that it is done."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drivers.cell import Cell
from drivers.impedance import ImpedanceGains
from drivers.interfaces import ArmState
from drivers.safety import SafetyLimits
from drivers.tag_layout import Tag, TagLayout
from drivers.twin.randomisation import Randomisation
from drivers.twin.scene import Scene

__all__ = ["Move", "Task", "TaskSpec", "World"]

Array = NDArray[np.float64]

TOOL_DOWN_XYZW = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """The numbers of a task. Positions are in `base`.

    Attributes:
        name: As on the command line.
        instruction: What a person would say.
        objects: Names the tracker must report; their poses are part of the state observation.
        symmetries: Rotations of an object onto itself, shape (N, 3, 3), where its faces are alike: a policy sees the
            orientation least turned against the tool, whichever face is up.
        start_position: Of the tcp when an episode begins [m]; the tool points down.
        start_noise: Half-widths of the uniform noise on it: x, y, z [m] and yaw [rad].
        limits: Where targets may lie.
        gains: How stiffly they are followed.
        control_period_s: One environment step [s].
        action_scale: Translation [m] and rotation [rad] of a full action, per step.
        has_gripper: Whether the action has a seventh number.
        start_opening: Of the gripper when an episode begins [m].
        max_steps: Time limit [steps].
        reset_free: Whether an episode may begin with the objects where the last one left them, and by default does.
        tags: What the objects wear on the twin when they are tracked by tags; print the same for a real cell.
        randomisation: What `randomise=True` varies between episodes on the twin.
    """

    name: str
    instruction: str
    objects: tuple[str, ...] = ()
    symmetries: dict[str, Array] = field(default_factory=dict[str, Array])
    start_position: tuple[float, float, float]
    start_noise: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    limits: SafetyLimits
    gains: ImpedanceGains = field(default_factory=ImpedanceGains)
    control_period_s: float = 0.1
    action_scale: tuple[float, float] = (0.02, 0.1)
    has_gripper: bool = False
    start_opening: float = 0.08
    max_steps: int = 100
    reset_free: bool = False
    tags: TagLayout = field(default_factory=dict[str, Sequence[Tag]])
    randomisation: Randomisation = field(default_factory=Randomisation)


@dataclass(frozen=True)
class World:
    """What a task and its expert may look at: the same on metal (from the tracker) and on the twin.

    Attributes:
        arm: The arm's newest reading.
        opening: Of the gripper [m].
        objects: Pose of every tracked object in `base`, shape (7,) each.
        instruction: What the episode asks for.
    """

    arm: ArmState
    opening: float
    objects: dict[str, Array]
    instruction: str = ""


@dataclass(frozen=True)
class Move:
    """What a scripted expert wants next: a tcp pose in `base`, shape (7,), and whether the gripper should be closed."""

    pose: Array
    close: bool = False


class Task(ABC):
    """A skill to be learnt. Subclass it in `tasks/<name>/__init__.py` and register it in `tasks/__init__.py`."""

    spec: TaskSpec

    @abstractmethod
    def build(self, scene: Scene) -> None:
        """Add the props to the twin."""

    @abstractmethod
    def reset(self, cell: Cell, rng: np.random.Generator) -> None:
        """Arrange the props for a new episode. On metal a person has; do nothing when `cell.stage` is None."""

    @abstractmethod
    def success(self, world: World) -> bool:
        """Whether the skill is done. Ends the episode with reward 1."""

    @property
    def instructions(self) -> tuple[str, ...]:
        """Everything an episode may ask for; a learner keeps a policy for each."""
        return (self.spec.instruction,)

    def instruct(self, world: World) -> str:
        """What an episode that begins in `world` asks for: one of `instructions`."""
        del world
        return self.spec.instruction

    stages = 1
    """How many stages the skill has that a reward may tell apart; the last is success."""

    def stage(self, world: World) -> int:
        """How far it is, 0 to `stages`."""
        return int(self.success(world))

    def failure(self, world: World) -> bool:
        """Whether it can no longer be done, for example because an object fell off the table.

        Where that is so between two episodes of a `reset_free` task, the objects are placed anew.
        """
        del world
        return False

    def dense_reward(self, world: World) -> float:
        """A reward in [0, 1) that rises towards success, for `reward="dense"`."""
        del world
        return 0.0

    @abstractmethod
    def expert(self, world: World) -> Move:
        """What a competent script does here. A function of the world alone, so that a policy can imitate it."""
