"""Between episodes: the arm's way from where one episode left it to where the next begins."""

from contextlib import nullcontext, suppress

import numpy as np

from drivers.cell import Cell
from drivers.emulators.stage import Stage as EmulatorStage
from drivers.realtime import ArmProcess
from drivers.safety import SafeArm
from drivers.safety_limits import SafetyLimits
from drivers.twin.devices import TwinGripper
from robot_rl.errors import DeviceFaultError
from tasks.spec import TaskSpec

__all__ = ["BetweenEpisodes"]

RAISE = 0.05  # before the arm goes sideways [m]
RELEASE_S = 0.6  # the gripper opens, and what it held falls and comes to rest


class BetweenEpisodes:
    """Frees the arm from the last episode, and hands it over to the next.

    Args:
        spec: The task's numbers.
        cell: Where.
        arm: The cell's arm behind its supervisor.
        limits: What the arm is kept within.
    """

    def __init__(self, spec: TaskSpec, cell: Cell, arm: ArmProcess | SafeArm, limits: SafetyLimits) -> None:
        self._spec, self._cell, self._arm, self._limits = spec, cell, arm, limits
        self._at_home = False

    def leave(self, *, keep_objects: bool) -> bool:
        """Bring the arm out of whatever it is in.

        Args:
            keep_objects: Let go of what is held first, wait until it rests, and leave it there. Otherwise a twin is
                put back to its model's own state.

        Returns:
            Whether the objects are where the last episode left them. Where that episode ruined a twin's physics, there
            is nothing left to keep.
        """
        cell, twin = self._cell, self._cell.twin
        if keep_objects and self._spec.has_gripper:
            cell.gripper.command(cell.gripper.max_opening)
            with suppress(DeviceFaultError) if twin else nullcontext():
                cell.clock.wait_until(cell.clock.now() + RELEASE_S)
        if twin is None:
            self._leave_contact()
        elif not (keep_objects and np.isfinite(twin.data.qpos).all() and np.isfinite(twin.data.qvel).all()):
            twin.reset()
            return False
        return keep_objects

    def set_gripper(self) -> None:
        """The opening that an episode begins with."""
        gripper, stage, opening = self._cell.gripper, self._cell.stage, self._spec.start_opening
        if isinstance(gripper, TwinGripper):
            gripper.jump_to(opening)
        elif self._spec.has_gripper:
            gripper.command(opening)
        elif isinstance(stage, EmulatorStage):
            stage.open_gripper(opening)  # on metal the person who handed it the tool closed it

    def _leave_contact(self) -> None:
        """Up, out of whatever the tool is in; on the first day also to the posture at home."""
        pose = self._arm.state().tcp_pose.copy()
        pose[2] = max(pose[2], min(pose[2] + RAISE, self._limits.position_high[2]))
        self._arm.move_to_pose(pose, 1.0)
        if not self._at_home and self._cell.home is not None:
            self._arm.move_to_joints(np.array(self._cell.home), 3.0)
        self._at_home = True
