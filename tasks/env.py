"""The one environment: a cell and a task as Gymnasium sees them."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from drivers.cell import Cell
from drivers.cell_file import tighten
from drivers.realtime import ArmProcess
from drivers.safety import SafeArm
from drivers.twin.randomisation import Randomiser
from robot_rl.errors import (
    ConfigError,
    DeviceError,
    DeviceFaultError,
    LinkError,
    SafetyError,
    ShapeError,
    StaleStateError,
)
from robot_rl.geometry import (
    compose,
    invert,
    least_turned,
    matrix_from_quat,
    quat_from_rotvec,
    quat_multiply,
    quat_rotate,
    rotvec_from_quat,
)
from tasks.between import BetweenEpisodes
from tasks.expert import ScriptedExpert
from tasks.spec import TOOL_DOWN_XYZW, Task, World

__all__ = ["RobotEnv"]

Array = NDArray[np.float64]
Observation = dict[str, Any]

GRIPPER_THRESHOLD = 0.5  # |action| above it opens (+) or closes (-); below, the gripper keeps its command
STUCK_AFTER = 3  # episodes in a row without success
LATE = 0.5  # of a period that a step may begin late before the pace is shifted
LOOK_S = 5.0  # how long a reset waits for objects to come into view
PUT_BACK_S = 60.0  # how long it waits for a person to bring back a lost one


class RobotEnv(gym.Env[Observation, NDArray[np.float32]]):
    """A robot arm with something to do.

    **Action**, float32 in [-1, 1]: translation (3) and rotation vector (3) in the `tcp` frame, scaled by the task's
    `action_scale` and added to the measured pose; then, where the task has a gripper, a seventh number that opens it
    above 0.5, closes it below -0.5 and leaves it otherwise.

    **Observation**, a Dict: `state`, float32, laid out as `state_layout` says: gripper opening [m], wrench_tcp (6)
    [N, N m], tcp_pose (6: position [m], rotation vector [rad]), twist_tcp (6) [m/s, rad/s], and with
    `observations="state"` each tracked object's pose seen from the tcp (9: position [m], the first two columns of the
    rotation matrix). `tcp_pose` is relative to the episode's start pose; with `frame="base"`, to a frame at the base's
    origin that points down as the tool does. With `observations="vision"` also `images/<camera>`, uint8
    (H, W, 3), and no object poses.

    **Ending**: `terminated` when the task ended: success (`info["success"]`) or irrecoverable failure. `truncated` with
    `info["fault"]` (a message) when the safety supervisor refused the command or a device failed; the observation
    is then the last one that could be read. The next `reset` asks the arm to recover, once, and its info says from what
    (`info["recovered_from"]`). The time limit is a wrapper's (`tasks.wrappers.TimeLimit`): `truncated` with
    `info["time_limit"]`, unless the task ended in that very step.

    **Instruction**: `instruction` says what the current episode asks for, chosen by `reset`; `instructions` are all
    there can be. With `reset_free` a reset returns only the arm, and the objects stay where the last episode left them;
    they are placed (`info["object_placed"]`) in the environment's first reset, when one is lost, when three episodes in
    a row have not succeeded (as a person would, where an object cannot be got at), and on request:
    `reset(options={"place_objects": True})`, as demonstrations ask for, so that they begin everywhere.

    Args:
        task: What is to be learnt.
        cell: Where.
        observations: `state` or `vision`.
        reward: `sparse` (1 on success, else 0), `dense`, or `external`: success is for somebody else to tell (a learned
            classifier), ends nothing here, and stands in `info["oracle_success"]` for scoring alone; or `human`: the
            same, and a person at a device tells it (`tasks.intervention`).
        frame: What poses are relative to: `start` or `base`.
        randomise: Vary the twin between episodes as the task declares.
        reset_free: Leave the objects where they are between episodes; None for the task's own way.
        render_mode: `rgb_array` or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own convention)

    def __init__(
        self,
        task: Task,
        cell: Cell,
        *,
        observations: str = "state",
        reward: str = "sparse",
        frame: str = "start",
        randomise: bool = False,
        reset_free: bool | None = None,
        render_mode: str | None = None,
    ) -> None:
        for name, value, known in (
            ("observations", observations, ("state", "vision")),
            ("reward", reward, ("sparse", "dense", "external", "human")),
            ("frame", frame, ("start", "base")),
        ):
            if value not in known:
                raise ConfigError(f"{name}={value!r} is not known; use one of {', '.join(known)}.")
        if randomise and cell.twin is None:
            raise ConfigError("randomise=True varies a twin; this cell has none. Leave it off on hardware.")
        if reset_free and not task.spec.reset_free:
            raise ConfigError(f"reset_free=True: {task.spec.name} needs its objects placed before every episode.")
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode={render_mode!r} is not known; use rgb_array, or leave it out.")
        self.task, self.cell = task, cell
        self.render_mode = render_mode
        self._dense, self._vision, self._frame = reward == "dense", observations == "vision", frame
        self._external = reward in ("external", "human")
        spec = task.spec
        self.limits = tighten(spec.limits, cell.limits)
        # A driver process supervises on its own side; an arm in this one is put behind the supervisor here.
        self.arm = cell.arm if isinstance(cell.arm, ArmProcess) else SafeArm(cell.arm, self.limits)
        self._randomiser = Randomiser(cell.twin, spec.randomisation, spec.gains) if randomise and cell.twin else None
        self._reference_inverse = np.zeros(7)
        self._between = BetweenEpisodes(spec, cell, self.arm, self.limits)
        self.reset_free = spec.reset_free if reset_free is None else reset_free
        self.instruction, self.instructions = spec.instruction, task.instructions
        self._placed = False  # whether the objects have been, by a reset of this environment
        self._closed = False
        self.stopping: Callable[[], bool] = lambda: False  # whether whoever runs this wants to end
        self._deadline = 0.0
        self._last: Observation = {}
        self._unsuccessful = 0  # episodes begun since the last success or placing
        self._recovered = ""  # the fault that no successful reset has told of yet
        self._fault, self._faults = "", 0
        self.return_range = None if self._dense else (0.0, 1.0)

        self.state_layout = self._make_layout()
        size = max(s.stop for s in self.state_layout.values())
        spaces: dict[str, gym.Space[Any]] = {"state": gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)}
        if self._vision:
            pictures: dict[str, gym.Space[Any]] = {
                n: gym.spaces.Box(0, 255, (c.height, c.width, 3), np.uint8) for n, c in cell.cameras.items()
            }
            spaces["images"] = gym.spaces.Dict(pictures)
        self.observation_space = gym.spaces.Dict(spaces)  # pyright: ignore[reportAttributeAccessIssue]
        self.action_space = gym.spaces.Box(-1.0, 1.0, (7 if spec.has_gripper else 6,), np.float32)
        self.metadata = {**self.metadata, "render_fps": round(1.0 / spec.control_period_s)}
        self.arm.connect()
        self.arm.set_limits(self.limits)

    def expert(self, rng: np.random.Generator, noise: float = 0.06) -> ScriptedExpert:
        """The task's scripted expert as an operator on this environment."""
        return ScriptedExpert(self, rng, noise)

    def world(self) -> World:
        """What task and expert look at now."""
        poses = self.cell.tracker.poses()
        unseen = [name for name in self.task.spec.objects if name not in poses]
        if unseen:
            raise StaleStateError(
                f"The tracker has not seen {', '.join(unseen)} yet (it has: {', '.join(poses) or 'nothing'}). "
                "The arm holds. Bring the object into view, then reset.",
                unseen=unseen,
            )
        now, limit = self.cell.clock.now(), self.cell.max_object_age_s
        for name in self.task.spec.objects:
            age = now - poses[name].time_s
            if age > limit:
                raise StaleStateError(
                    f"{name} was last seen {age:.2f} s ago, limit {limit:g} s (tracker.max_age_s). Something is in "
                    f"front of "
                    "it, or it left the picture. Bring it into view, then reset.",
                    age=age,
                )
        objects = {name: poses[name].pose for name in self.task.spec.objects}
        return World(self.arm.state(), self.cell.gripper.opening(), objects, self.instruction)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode. The same seed gives the same episode.

        A fault on the way to the start counts as one of an episode: it is recovered from, and the way is taken again.

        Raises:
            DeviceError: A device failed, the arm's fault persists, or too many episodes in a row ended in a fault.
        """
        super().reset(seed=seed, options=options)
        stuck = self._unsuccessful >= STUCK_AFTER
        if ((options or {}).get("place_objects") or stuck) and self.cell.stage is not None:
            self._placed = False
        info: dict[str, Any] = {"success": False}
        while True:
            self._recover(info)
            try:
                first = self._begin(info)
                if self._recovered:
                    info["recovered_from"], self._recovered = self._recovered, ""
                return first, info
            except (DeviceError, SafetyError, LinkError) as error:
                if self.cell.twin is not None:
                    raise
                self._fault = str(error)

    def _begin(self, info: dict[str, Any]) -> Observation:
        spec, cell, rng = self.task.spec, self.cell, self.np_random
        kept = self._between.leave(keep_objects=self.reset_free and self._placed)
        self.arm.set_impedance(spec.gains)
        if self._randomiser is not None:
            self._randomiser.sample(rng)
        noise = np.array(spec.start_noise) * rng.uniform(-1.0, 1.0, 4)
        turn = quat_from_rotvec(np.array([0.0, 0.0, noise[3]]))
        start = np.concatenate([spec.start_position + noise[:3], quat_multiply(turn, np.array(TOOL_DOWN_XYZW))])
        self._between.set_gripper()
        self._closed = spec.start_opening < 0.5 * cell.gripper.max_opening
        self.arm.move_to_pose(start, 1.5)
        if not kept:
            self.task.reset(cell, rng)
        world = self._first_world()
        if kept and self.task.failure(world):
            kept, world = False, self._put_back()
        self._placed = True
        if self.reset_free:
            info["object_placed"] = not kept
        self._unsuccessful = 1 + (0 if info["object_placed"] else self._unsuccessful) if self.reset_free else 0
        self.instruction = self.task.instruct(world)
        reference = world.arm.tcp_pose
        if self._frame == "base":
            reference = np.concatenate([np.zeros(3), np.array(TOOL_DOWN_XYZW)])
        self._reference_inverse = invert(reference)
        self._deadline = cell.clock.now()
        self._last = self._observe(world)
        return self._last

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """One control period.

        Raises:
            ShapeError: The action has another shape or a number that is not finite. Nothing was commanded.
        """
        values = np.asarray(action, dtype=np.float64)
        if values.shape != self.action_space.shape or not np.isfinite(values).all():
            raise ShapeError(
                f"Action {values.tolist()} of shape {values.shape}: expected {self.action_space.shape} finite numbers "
                "in [-1, 1]. Nothing was commanded; the arm holds its last target.",
                shape=values.shape,
            )
        values = np.clip(values, -1.0, 1.0)
        self._fault = ""
        period = self.task.spec.control_period_s
        # Choosing the action took time; the steps keep their pace. One that came much too late (a learner in the same
        # process) is not made up for by shorter ones.
        now = self.cell.clock.now() if self.cell.twin is None else self._deadline
        self._deadline = period + (now if now - self._deadline > LATE * period else self._deadline)
        try:
            try:
                self.arm.command(self._target(values))
                if self.task.spec.has_gripper:
                    self._command_gripper(float(values[6]))
            except SafetyError as error:
                self._fault = str(error)
            self.cell.clock.wait_until(self._deadline)
            world = self.world()
            self._last = self._observe(world)
        except (
            DeviceError,
            SafetyError,
            LinkError,
        ) as error:  # nothing newer can be trusted: the last observation stands
            self._fault = self._fault or str(error)
            world = None
            with suppress(DeviceError, SafetyError, LinkError):
                self.arm.stop()
        if self._fault or world is None:
            return self._last, 0.0, False, True, {"success": False, "fault": self._fault}
        success = self.task.success(world)
        self._unsuccessful *= not success
        failure = not success and self.task.failure(world)
        if self._external:
            return (
                self._last,
                0.0,
                failure,
                False,
                {
                    "success": False,
                    "oracle_success": success,
                    "oracle_stage": self.task.stage(world),
                },
            )
        reward = 1.0 if success else (self.task.dense_reward(world) if self._dense else 0.0)
        return self._last, reward, success or failure, False, {"success": success}

    @property
    def gripper_closed(self) -> bool:
        """What the gripper was last told."""
        return self._closed

    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The front camera's picture."""
        return self.cell.cameras["front"].read().image.copy() if self.render_mode == "rgb_array" else None

    def hold(self) -> None:
        """Hold the measured pose; the next step moves on from there."""
        with suppress(DeviceError, SafetyError, LinkError):
            self.arm.stop()

    def close(self) -> None:
        """Let go of the cell."""
        self.cell.close()

    def _target(self, action: Array) -> Array:
        """The pose an action asks for: a displacement in `tcp`, on top of the measured pose."""
        translation, rotation = self.task.spec.action_scale
        measured = self.arm.state().tcp_pose
        target = np.empty(7)
        target[:3] = measured[:3] + quat_rotate(measured[3:], action[:3] * translation)
        target[3:] = quat_multiply(measured[3:], quat_from_rotvec(action[3:6] * rotation))
        return target

    def _command_gripper(self, value: float) -> None:
        if abs(value) > GRIPPER_THRESHOLD:
            self._closed = value < 0.0
        self.cell.gripper.command(0.0 if self._closed else self.cell.gripper.max_opening)

    def _first_world(self) -> World:
        """The world as soon as every object is in view: a camera may need a moment after the arm has moved away."""
        clock = self.cell.clock
        deadline = clock.now() + LOOK_S
        while self.cell.twin is None and clock.now() < deadline:
            try:
                return self.world()
            except StaleStateError:
                clock.wait_until(clock.now() + 0.05)
        return self.world()

    def _put_back(self) -> World:
        """A lost object back where the task can begin, by the stage or by a person who is waited for."""
        clock = self.cell.clock
        self.task.reset(self.cell, self.np_random)
        deadline = clock.now() + PUT_BACK_S
        while self.task.failure(world := self._first_world()):
            if clock.now() > deadline:
                raise DeviceError(
                    f"{' or '.join(self.task.spec.objects)} is lost, and nobody put it back in {PUT_BACK_S:g} s. "
                    "The arm holds. Put it where an episode can begin, then go on."
                )
            clock.wait_until(clock.now() + 0.1)
        return world

    def _recover(self, info: dict[str, Any]) -> None:
        """Clear the last episode's fault, once; give up after too many in a row."""
        fault = self._fault or self.arm.fault
        if not fault:
            self._faults = 0
            with suppress(SafetyError):
                self.arm.stop()
            return
        self._faults += 1
        allowed = self.cell.faults_in_a_row
        if self._faults > allowed:
            raise DeviceFaultError(
                f"{self._faults} episodes in a row ended in a fault (cell file: faults_in_a_row: {allowed}); the "
                f"last: {fault} Nothing more is tried. Look at the cell, then go on."
            )
        self.arm.recover()
        self._recovered = f"{self._recovered} Then: {fault}" if self._recovered else fault
        self._fault = ""

    def _relative(self, pose: Array) -> Array:
        moved = compose(self._reference_inverse, pose)
        return np.concatenate([moved[:3], rotvec_from_quat(moved[3:])])

    def _in_tcp(self, tcp_pose: Array, name: str, pose: Array) -> Array:
        moved = compose(invert(tcp_pose), pose)
        matrix = matrix_from_quat(moved[3:])
        if name in self.task.spec.symmetries:
            matrix = least_turned(matrix, self.task.spec.symmetries[name])
        return np.concatenate([moved[:3], matrix[:, :2].T.ravel()])

    def _observe(self, world: World) -> Observation:
        arm, noise = world.arm, self._randomiser.ranges if self._randomiser else None
        wrench = arm.wrench_tcp
        names = () if self._vision else self.task.spec.objects
        objects = [self._in_tcp(arm.tcp_pose, name, world.objects[name]) for name in names]
        if noise is not None:
            sigma = np.repeat([noise.wrench_noise, noise.wrench_noise / 10.0], 3)
            wrench = wrench + self.np_random.normal(0.0, 1.0, 6) * sigma
            for pose in objects:
                pose[:3] += self.np_random.normal(0.0, 1.0, 3) * noise.tracker_noise
        parts = [np.array([world.opening]), wrench, self._relative(arm.tcp_pose), arm.twist_tcp, *objects]
        observation: Observation = {"state": np.concatenate(parts).astype(np.float32)}
        if self._vision:
            observation["images"] = {name: camera.read().image.copy() for name, camera in self.cell.cameras.items()}
        return observation

    def _make_layout(self) -> dict[str, slice]:
        sizes = {"gripper_opening": 1, "wrench_tcp": 6, "tcp_pose": 6, "twist_tcp": 6}
        if not self._vision:
            sizes.update({f"{name}_pose": 9 for name in self.task.spec.objects})
        layout: dict[str, slice] = {}
        start = 0
        for name, size in sizes.items():
            layout[name] = slice(start, start + size)
            start += size
        return layout
