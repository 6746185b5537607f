"""A cell: one arm, its gripper, cameras, tracker and clock, and what a person has to do between episodes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from drivers.interfaces import Arm, Camera, Clock, Gripper, Tracker
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinArm, TwinCamera, TwinClock, TwinGripper, TwinTracker
from drivers.twin.scene import Scene
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError

__all__ = ["Cell", "open_cell"]


@dataclass(frozen=True)
class Cell:
    """The devices of one cell.

    Attributes:
        twin: The simulation behind the devices; None on metal.
    """

    clock: Clock
    arm: Arm
    gripper: Gripper
    tracker: Tracker
    cameras: dict[str, Camera] = field(default_factory=dict[str, Camera])
    twin: Twin | None = None

    def close(self) -> None:
        """Let go of every device."""
        self.arm.close()
        for camera in self.cameras.values():
            camera.close()


def open_cell(
    cell: str,
    *,
    arm: str = "fr3",
    build: Callable[[Scene], None] | None = None,
    objects: tuple[str, ...] = (),
    cameras: tuple[str, ...] = (),
    image_size: int = 128,
    real_time: bool = False,
) -> Cell:
    """Open a cell by name.

    Args:
        cell: `twin`.
        arm: Which arm the twin has: a name or the path of an MJCF file (see `drivers.twin.arms.load_arm`).
        build: Adds a task's props to the twin.
        objects: Bodies the tracker reports.
        cameras: Cameras to open.
        image_size: Height and width of their pictures [pixels].
        real_time: Pace the twin to the wall clock.

    Raises:
        ConfigError: No such cell, arm or camera.
    """
    if cell != "twin":
        raise ConfigError(f"Unknown cell {cell!r}. Known: twin.")
    twin = Twin(load_arm(arm), build)
    opened: dict[str, Camera] = {name: TwinCamera(twin, name, image_size, image_size) for name in cameras}
    return Cell(
        clock=TwinClock(twin, real_time=real_time),
        arm=TwinArm(twin),
        gripper=TwinGripper(twin),
        tracker=TwinTracker(twin, objects),
        cameras=opened,
        twin=twin,
    )
