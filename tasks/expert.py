"""A scripted expert as an operator: it looks at the world, asks the task what a competent script would do, and acts."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import DeviceError, LinkError, SafetyError
from robot_rl.geometry import quat_conjugate, quat_multiply, quat_rotate, rotvec_from_quat

if TYPE_CHECKING:
    from tasks.env import RobotEnv

__all__ = ["ScriptedExpert"]


class ScriptedExpert:
    """Turns a task's `Move`s into actions, with noise so that demonstrations cover more than one line.

    Args:
        env: The environment acted in.
        rng: Source of the noise.
        noise: Standard deviation of the action noise, as a fraction of a full action.
    """

    def __init__(self, env: "RobotEnv", rng: np.random.Generator, noise: float = 0.06) -> None:
        self._env = env
        self._rng = rng
        self._noise = noise

    def act(self, observation: Any, instruction: str = "") -> NDArray[np.float32]:
        """The action towards the task's next move, in [-1, 1]. The script sees the world and not the observation."""
        del observation, instruction
        spec = self._env.task.spec
        try:
            world = self._env.world()
        except (DeviceError, SafetyError, LinkError):  # the next step will say so, and end the episode
            return np.zeros(self._env.action_space.shape or (0,), np.float32)
        move = self._env.task.expert(world)
        tcp = world.arm.tcp_pose
        to_tcp = quat_conjugate(tcp[3:])
        action = np.zeros(self._env.action_space.shape or (0,))
        action[:3] = quat_rotate(to_tcp, move.pose[:3] - tcp[:3]) / spec.action_scale[0]
        action[3:6] = rotvec_from_quat(quat_multiply(to_tcp, move.pose[3:])) / spec.action_scale[1]
        action[:3] /= max(1.0, float(np.linalg.norm(action[:3])))
        action[3:6] /= max(1.0, float(np.linalg.norm(action[3:6])))
        action[:6] += self._rng.normal(0.0, self._noise, 6)
        if spec.has_gripper:
            action[6] = -1.0 if move.close else 1.0
        return np.clip(action, -1.0, 1.0).astype(np.float32)
