"""An arm of ours as a ROS 2 robot: what arm_node does, whatever carries the messages.

It speaks as CRISP's controllers under ros2_control do: joint_states, current_pose, current_twist, wrench and tf out;
target_pose in; joint motions by FollowJointTrajectory, the gripper by GripperCommand or a topic, controllers by a
controller_manager with two of them. Further its own: ~/stop and ~/recover (Trigger), and diagnostics.

A target is obeyed when it is finite, in the base frame, fresh, and there is one publisher only; else it is refused with
a message in the log and in the diagnostics, and the arm holds where it is.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.impedance import ImpedanceGains
from drivers.interfaces import Arm, ArmState, Clock, Gripper
from drivers.ros2 import messages as ros
from drivers.ros2.actions import ABORTED, CANCELED, SUCCEEDED, ActionServer
from drivers.ros2.arm_link import JOINTS, POSE, TWIST, WRENCH
from drivers.ros2.node import DEFAULT, NEWEST, SENSOR_DATA, Node
from robot_rl.errors import ConfigError, RobotRLError, SafetyError

__all__ = ["Robot", "RobotOptions"]

Array = NDArray[np.float64]
log = logging.getLogger("robot_rl.ros2")

CARTESIAN, JOINT = "cartesian_impedance_controller", "joint_trajectory_controller"
TRIGGER = "std_srvs/srv/Trigger"
TRAJECTORY, GRIPPING = "control_msgs/action/FollowJointTrajectory", "control_msgs/action/GripperCommand"
TF_HZ, DIAGNOSTICS_HZ, GRAPH_HZ = 30.0, 1.0, 2.0
OK, WARN, ERROR = 0, 1, 2
INVALID_JOINTS, INVALID_GOAL = -2, -1
LEAST_MOTION_S = 0.1
LEAVE_S = 10.0
LOOK_S = 0.05  # between looks whether a motion was given up
GRIPPED_S, GRIPPED = 3.0, 0.004  # a gripper has arrived, or stalled, by then; [m]


class _StaleTargetError(SafetyError):
    """A target's stamp is not from now."""


@dataclass(frozen=True, kw_only=True)
class RobotOptions:
    """How an arm presents itself.

    Attributes:
        base_frame, tcp_frame: Names of the frames.
        joint_names: Of the arm, base first; by default joint1, joint2 ...
        rate_hz: At which the state is published, and targets are taken.
        hold_after_s: Without a new target for longer than this the arm holds.
        max_target_age_s: Targets with an older stamp are refused; a stamp of zero is no stamp.
    """

    base_frame: str = "base"
    tcp_frame: str = "tcp"
    joint_names: tuple[str, ...] = ()
    rate_hz: float = 200.0
    hold_after_s: float = 1.0
    max_target_age_s: float = 0.5

    def __post_init__(self) -> None:
        if not 1.0 <= self.rate_hz <= 1000.0 or self.hold_after_s <= 0.0 or self.max_target_age_s <= 0.0:
            raise ConfigError(
                f"rate_hz is {self.rate_hz:g}, hold_after_s {self.hold_after_s:g}, max_target_age_s "
                f"{self.max_target_age_s:g}; the rate lies between 1 and 1000 Hz, the times are above 0."
            )


class Robot:
    """Publishes an arm and obeys targets.

    Args:
        node: Over which.
        arm: Connected.
        gripper: Its gripper.
        clock: The cell's; on the twin, waiting is what moves it.
        options: How it presents itself.
        lock: Held around every touch of the arm, where others touch it too: a simulation's. Without, motions run while
            the state is told and the arm can be stopped (see `ArmProcess`, which several threads may ask).
        objects: Poses of named objects in `base`, shape (7,), for tf; where a simulation knows them.
    """

    def __init__(
        self, node: Node, arm: Arm, gripper: Gripper, clock: Clock, options: RobotOptions | None = None, *,
        lock: AbstractContextManager[Any] | None = None, objects: Callable[[], dict[str, Array]] | None = None,
    ) -> None:  # fmt: skip
        self.node, self.arm, self.gripper, self.clock = node, arm, gripper, clock
        self.options = options or RobotOptions()
        self._lock: AbstractContextManager[Any] = threading.RLock() if lock is None else lock
        self._alone = lock is not None
        self._objects = objects or dict[str, Array]
        self._joint_names = list(self.options.joint_names)
        self._controllers = {CARTESIAN: "active", JOINT: "inactive"}
        self._target: tuple[float, Array] | None = None  # when it came; taken by the next tick
        self._heard_s = -np.inf
        self._holding, self._moving, self._refused, self._trouble = True, False, 0, ""
        self._stale = False  # the newest trouble is a stamp's
        self._rivals, self._leaving, self._left_s = 0, False, 0.0
        self._due: dict[str, float] = {}  # when each was done last, of what is done at a rate of its own
        self._say: dict[str, Any] = {
            topic: node.publisher(topic, kind, qos)
            for topic, kind, qos in (
                ("joint_states", JOINTS, DEFAULT), ("current_pose", POSE, SENSOR_DATA),
                ("current_twist", TWIST, SENSOR_DATA), ("wrench", WRENCH, SENSOR_DATA),
                ("gripper/joint_states", JOINTS, SENSOR_DATA), ("/tf", "tf2_msgs/msg/TFMessage", DEFAULT),
                ("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", DEFAULT),
            )
        }  # fmt: skip
        node.subscribe("target_pose", POSE, self._take_target, NEWEST)
        node.subscribe("gripper/command", "std_msgs/msg/Float64MultiArray", self._take_opening, NEWEST)
        node.serve("~/stop", TRIGGER, self._trigger(self._stop))
        node.serve("~/recover", TRIGGER, self._trigger(self._recover))
        manager = "controller_manager_msgs/srv"
        node.serve("controller_manager/list_controllers", f"{manager}/ListControllers", self._list)
        node.serve("controller_manager/switch_controller", f"{manager}/SwitchController", self._switch)
        node.serve(f"{CARTESIAN}/set_parameters", "rcl_interfaces/srv/SetParameters", self._set_gains)
        self._trajectory = ActionServer(node, f"{JOINT}/follow_joint_trajectory", TRAJECTORY, self._follow)
        self._grip = ActionServer(node, "gripper/gripper_cmd", GRIPPING, self._gripped)

    def run(self, ended: threading.Event) -> None:
        """Until ended; the arm then holds its measured pose at once.

        Its state is told on until nobody sends targets any more, 10 s at most: who commanded it can end in order.
        """
        log.info("Ready: %s is told, %s is obeyed.", *map(self.node.resolve, ("current_pose", "target_pose")))
        next_s = self.clock.now()
        while not ended.is_set() or self._is_commanded():
            if ended.is_set() and not self._leaving:
                self._leaving = True
                with self._lock, contextlib.suppress(RobotRLError):
                    self.arm.stop()
            next_s = max(next_s + 1.0 / self.options.rate_hz, self.clock.now())
            with self._lock:
                self.clock.wait_until(next_s)
            self.tick()
        with self._lock, contextlib.suppress(RobotRLError):
            self.arm.stop()

    def _is_commanded(self) -> bool:
        """Whether, asked to end, it waits for others to end first."""
        self._left_s = self._left_s or time.monotonic()
        return time.monotonic() - self._left_s < LEAVE_S and bool(self.node.publishers("target_pose"))

    def tick(self) -> None:
        """Obey the newest target, and say how the arm is."""
        try:
            with self._lock:
                self._obey()
                state, opening = self.arm.state(), self.gripper.opening()
            self._publish(state, opening)
        except RobotRLError as error:
            self._trouble = str(error)
        now = self.node.now()
        if self._is_due("graph", now, GRAPH_HZ):
            rivals = len(self.node.publishers("target_pose"))
            if rivals > 1 and self._rivals <= 1:
                who = ", ".join(sorted({e.node for e in self.node.publishers("target_pose")}))
                log.error("%d nodes send target_pose (%s): the arm holds until there is one.", rivals, who)
            self._rivals = rivals
        if self._is_due("diagnostics", now, DIAGNOSTICS_HZ):
            self._diagnose(now)

    def _name_joints(self, state: ArmState) -> None:
        """By number, where the options name none."""
        self._joint_names = self._joint_names or [f"joint{i + 1}" for i in range(len(state.q))]

    # Targets

    def _take_target(self, content: ros.Message) -> None:
        try:
            self._target = (time.monotonic(), self._admit(content))
        except SafetyError as error:
            self._refused += 1
            stale = isinstance(error, _StaleTargetError)
            if self._trouble != str(error) and not (self._trouble and self._stale and stale):
                log.warning("%s", error)  # an age differs each time: it is said once
            self._trouble, self._stale = str(error), stale

    def _admit(self, content: ros.Message) -> Array:
        """The pose of a target message. Raises SafetyError when it is not to be obeyed."""
        frame, stamp = content.header.frame_id.lstrip("/"), ros.seconds(content.header.stamp)
        if frame != self.options.base_frame:
            raise SafetyError(
                f"A target in the frame {frame!r} was refused: this arm's base is {self.options.base_frame!r} "
                "(parameter base_frame). Transform it before it is sent."
            )
        age = self.node.now() - stamp
        if stamp and abs(age) > self.options.max_target_age_s:
            raise _StaleTargetError(
                f"A target stamped {abs(age):.2f} s {'ago' if age > 0.0 else 'ahead'} was refused, limit "
                f"{self.options.max_target_age_s:g} s (parameter max_target_age_s). Compare the clocks of both "
                "machines: chronyc tracking."
            )
        pose = ros.pose_of(content.pose)
        if not np.isfinite(pose).all() or abs(np.linalg.norm(pose[3:]) - 1.0) > 1e-3:
            raise SafetyError(f"A target that is no pose was refused: {np.round(pose, 4).tolist()}.")
        return pose

    def _obey(self) -> None:
        """Hand the newest target to the arm, or hold."""
        target, self._target = self._target, None
        if self._moving or self._leaving:
            return
        if self._rivals > 1 or self._controllers[CARTESIAN] != "active":
            target = None
        if target is not None:
            self._heard_s, pose = target
            self.arm.command(pose)
            self._holding, self._trouble = False, ""
        elif not self._holding and time.monotonic() - self._heard_s > self.options.hold_after_s:
            self._holding = True
            self.arm.stop()
            log.warning("No target for %g s: the arm holds its measured pose.", self.options.hold_after_s)

    def _take_opening(self, content: ros.Message) -> None:
        if len(content.data) and np.isfinite(content.data[0]):
            with self._lock:
                self.gripper.command(float(content.data[0]))

    # What is told

    def _publish(self, state: ArmState, opening: float) -> None:
        now = self.node.now()
        stamp = now - max(0.0, self.clock.now() - state.time_s)
        base, tcp = ros.header(stamp, self.options.base_frame), ros.header(stamp, self.options.tcp_frame)
        self._name_joints(state)
        say = self._say
        say["joint_states"].publish(
            ros.message(
                JOINTS, header=base, name=self._joint_names, position=state.q, velocity=state.qd, effort=state.torque
            )
        )
        say["current_twist"].publish(ros.message(TWIST, header=tcp, twist=ros.twist(state.twist_tcp)))
        say["wrench"].publish(ros.message(WRENCH, header=tcp, wrench=ros.wrench(state.wrench_tcp)))
        say["gripper/joint_states"].publish(
            ros.message(JOINTS, header=tcp, name=["gripper"], position=np.array([opening]))
        )
        say["current_pose"].publish(
            ros.message(POSE, header=base, pose=ros.pose(state.tcp_pose))
        )  # last: it is awaited
        if self._is_due("tf", now, TF_HZ):
            links = {self.options.tcp_frame: state.tcp_pose, **self._objects()}
            transforms = [ros.transform(stamp, self.options.base_frame, name, pose) for name, pose in links.items()]
            say["/tf"].publish(ros.message("tf2_msgs/msg/TFMessage", transforms=transforms))

    def _is_due(self, what: str, now: float, rate_hz: float) -> bool:
        last = self._due.get(what, -np.inf)
        due = now - last >= 1.0 / rate_hz or now < last
        if due:
            self._due[what] = now
        return due

    def _diagnose(self, now: float) -> None:
        fault = str(getattr(self.arm, "fault", ""))
        trouble = fault or (
            f"{self._rivals} nodes send target_pose; the arm holds." if self._rivals > 1 else self._trouble
        )
        mode = "moving" if self._moving else "holding" if self._holding else "following"
        values = {"mode": mode, "targets refused": self._refused, "publishers of target_pose": self._rivals}
        statistics: Callable[[], Any] | None = getattr(self.arm, "statistics", None)
        if statistics is not None:
            values["control loop"] = str(statistics())
        status = ros.message(
            "diagnostic_msgs/msg/DiagnosticStatus", name=f"{self.node.name}: arm", hardware_id=self.node.name,
            level=ERROR if fault else WARN if trouble else OK, message=trouble or mode,
            values=[ros.message("diagnostic_msgs/msg/KeyValue", key=k, value=str(v)) for k, v in values.items()],
        )  # fmt: skip
        header = ros.header(now, "")
        self._say["/diagnostics"].publish(
            ros.message("diagnostic_msgs/msg/DiagnosticArray", header=header, status=[status])
        )

    # Services

    def _trigger(self, do: Callable[[], None]) -> Callable[[ros.Message], ros.Message]:
        def answer(_: ros.Message) -> ros.Message:
            try:
                with self._lock:
                    do()
            except RobotRLError as error:
                return ros.message(f"{TRIGGER}_Response", success=False, message=str(error))
            return ros.message(f"{TRIGGER}_Response", success=True)

        return answer

    def _stop(self) -> None:
        self.arm.stop()
        self._holding, self._target = True, None

    def _recover(self) -> None:
        self.arm.recover()
        self._holding, self._target, self._trouble = True, None, ""

    def _list(self, _: ros.Message) -> ros.Message:
        known = [
            ros.message("controller_manager_msgs/msg/ControllerState", name=name, state=state, type=f"robot_rl/{name}")
            for name, state in self._controllers.items()
        ]
        return ros.message("controller_manager_msgs/srv/ListControllers_Response", controller=known)

    def _switch(self, request: ros.Message) -> ros.Message:
        on, off = list(request.activate_controllers), list(request.deactivate_controllers)
        response = "controller_manager_msgs/srv/SwitchController_Response"
        if unknown := [name for name in (*on, *off) if name not in self._controllers]:
            known = ", ".join(self._controllers)
            return ros.message(response, ok=False, message=f"no {', '.join(unknown)} here; there is {known}")
        after = {**self._controllers, **dict.fromkeys(off, "inactive"), **dict.fromkeys(on, "active")}
        if list(after.values()).count("active") > 1:
            return ros.message(response, ok=False, message="both would command the arm: deactivate the other one")
        with self._lock:
            self.arm.stop()
            self._controllers, self._holding, self._target = after, True, None
        return ros.message(response, ok=True)

    def _set_gains(self, request: ros.Message) -> ros.Message:
        """CRISP's parameters: task.k_pos_x, task.d_rot_z, task.error_clip.rx and so on."""
        given = {one.name.removeprefix("task."): one.value.double_value for one in request.parameters}
        default, why = ImpedanceGains(), ""
        names = {
            "stiffness": "k_pos_{}", "damping": "d_pos_{}", "rotational_stiffness": "k_rot_{}",
            "rotational_damping": "d_rot_{}", "translational_clip": "error_clip.{}",
            "rotational_clip": "error_clip.r{}",
        }  # fmt: skip
        known = {field: [pattern.format(axis) for axis in "xyz"] for field, pattern in names.items()}
        if unknown := set(given) - {name for triple in known.values() for name in triple}:
            why = f"there is no {', '.join(sorted(unknown))}"
        else:
            values: dict[str, Any] = {
                f: tuple(given.get(n, getattr(default, f)[i]) for i, n in enumerate(ns)) for f, ns in known.items()
            }
            try:
                with self._lock:
                    self.arm.set_impedance(ImpedanceGains(**values))
            except RobotRLError as error:
                why = str(error)
        result = ros.message("rcl_interfaces/msg/SetParametersResult", successful=not why, reason=why)
        return ros.message("rcl_interfaces/srv/SetParameters_Response", results=[result for _ in request.parameters])

    # Actions

    def _follow(self, goal: ros.Message, cancelled: threading.Event) -> tuple[int, ros.Message]:
        """A joint trajectory, point by point, each from rest to rest."""

        def failed(code: int, why: str) -> tuple[int, ros.Message]:
            return ABORTED, ros.message(f"{TRAJECTORY}_Result", error_code=code, error_string=why)

        if self._controllers[JOINT] != "active" and self._controllers[CARTESIAN] != "active":
            return failed(INVALID_GOAL, "no controller is active")
        try:
            with self._lock:
                self._name_joints(self.arm.state())  # a goal may come before the first tick
        except RobotRLError as error:
            return failed(INVALID_GOAL, str(error))
        plan = goal.trajectory
        if missing := [name for name in self._joint_names if name not in plan.joint_names]:
            return failed(
                INVALID_JOINTS, f"missing: {', '.join(missing)}; the joints are {', '.join(self._joint_names)}"
            )
        order = [list(plan.joint_names).index(name) for name in self._joint_names]
        points = [np.asarray(point.positions, np.float64) for point in plan.points]
        for q in points:  # all of them before anything moves
            if len(q) != len(plan.joint_names):
                return failed(INVALID_GOAL, f"a point of {len(q)} positions for {len(plan.joint_names)} joints")
            if not np.isfinite(q).all():
                return failed(INVALID_GOAL, f"a point that is not finite: {q.tolist()}")
        before = 0.0
        self._moving = True
        try:
            for point, q in zip(plan.points, points, strict=True):
                if cancelled.is_set():
                    break
                at = ros.seconds(point.time_from_start)
                self._move(q[order], max(at - before, LEAST_MOTION_S), cancelled)
                before = at
        except RobotRLError as error:
            if not cancelled.is_set():
                return failed(INVALID_GOAL, str(error))
        finally:
            with self._lock, contextlib.suppress(RobotRLError):
                self.arm.stop()
            self._moving, self._holding, self._target = False, True, None
        return CANCELED if cancelled.is_set() else SUCCEEDED, ros.message(f"{TRAJECTORY}_Result")

    def _move(self, q: Array, duration_s: float, cancelled: threading.Event) -> None:
        if self._alone:
            with self._lock:
                self.arm.move_to_joints(q, duration_s)
            return
        arrived = threading.Event()

        def watch() -> None:
            while not arrived.wait(LOOK_S):
                if cancelled.is_set():
                    with contextlib.suppress(RobotRLError):
                        self.arm.stop()
                    return

        threading.Thread(target=watch, name="joint motion", daemon=True).start()
        try:
            self.arm.move_to_joints(q, duration_s)
        finally:
            arrived.set()

    def _gripped(self, goal: ros.Message, cancelled: threading.Event) -> tuple[int, ros.Message]:
        asked = float(goal.command.position)
        if not np.isfinite(asked):
            log.warning("A gripper's goal that is no opening was refused: %s.", asked)
            return ABORTED, ros.message(
                f"{GRIPPING}_Result", position=self._opening(), stalled=False, reached_goal=False
            )
        wanted = min(max(asked, 0.0), self.gripper.max_opening)
        with self._lock:
            self.gripper.command(wanted)
        end = time.monotonic() + GRIPPED_S
        opening = self._opening()
        while abs(opening - wanted) > GRIPPED and time.monotonic() < end and not cancelled.is_set():
            time.sleep(0.02)
            opening = self._opening()
        there = abs(opening - wanted) <= GRIPPED
        return SUCCEEDED, ros.message(f"{GRIPPING}_Result", position=opening, stalled=not there, reached_goal=there)

    def _opening(self) -> float:
        with self._lock:
            return self.gripper.opening()
