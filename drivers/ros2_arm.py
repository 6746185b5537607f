"""An arm that already runs in ROS 2: a Cartesian controller of CRISP's kind, or our own arm_node, anywhere on the net.

The compliance is the controller's there; here is what sends it targets: `target_pose` out, `current_pose`,
`joint_states`, `current_twist` and `wrench` in. Between two targets the one sent moves at the limits' speed at most, so
that a controller that obeys at once is not asked to leap. Runs in the driver process, at the pace of `current_pose`.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.franka_link import FR3_LIMITS
from drivers.impedance import ImpedanceGains, JointLimits
from drivers.interfaces import ArmState
from drivers.motions import PoseMotion
from drivers.ros2 import messages as ros
from drivers.ros2.actions import ActionClient
from drivers.ros2.arguments import in_namespace
from drivers.ros2.arm_link import POSE, ArmLink, ArmTopics
from drivers.ros2.node import NEWEST, Node, Publisher
from drivers.ros2.opening import open_node
from drivers.safety_limits import SafetyLimits
from drivers.ur import UR5E_LIMITS
from robot_rl.errors import (
    ConfigError,
    DeviceConnectionError,
    DeviceError,
    DeviceFaultError,
    RobotRLError,
    SafetyError,
)
from robot_rl.geometry import quat_conjugate, quat_from_rotvec, quat_multiply, rotvec_from_quat

__all__ = ["Ros2Arm"]

Array = NDArray[np.float64]

LIMITS = {"fr3": FR3_LIMITS, "ur5e": UR5E_LIMITS}
FASTEST = (0.25, 1.0)  # [m/s, rad/s] until set_limits, and of motions
GRAPH_EVERY_S = 0.5  # between looks for somebody else who sends targets
SETTLE_S, ARRIVED = 3.0, (0.005, 0.02)  # a motion may end so much later than planned; [m, rad]
SERVICE_S = 3.0
STRICT = 2  # of controller_manager's SwitchController
DOUBLE = 3  # of rcl_interfaces' ParameterType


class Ros2Arm:
    """An arm in ROS 2 as a `ServoArm`.

    Args:
        host: Not used: ROS finds the arm by its domain (ROS_DOMAIN_ID).
        namespace: In front of every topic, `/left_arm` for example.
        transport: `rclpy`, `dds`, or empty for the first that is there.
        model: `fr3` or `ur5e`: joint limits to keep away from; empty where the controller alone does.
        controller: Name of the Cartesian controller, to be activated on connecting; empty where it always is.
        trajectory: Action of type FollowJointTrajectory for joint motions; empty where there is none.
        trajectory_controller: Its controller, active only during a joint motion; empty where no switching is needed.
        manager: Name of the controller manager.
        gains: `crisp`: stiffness, damping and clips are set as parameters of the controller; empty leaves its own.
        recover_service: Service of type Trigger that clears a fault of the arm; empty where there is none.
        timeout_s: How long a pose may take to come.
        connect_s: How long finding the arm may take.
        command_hz: Targets are sent this often at most.
        topics: Further options: those of `drivers.ros2.arm_link.ArmTopics`.

    Raises:
        ConfigError: An option has a value that is not known.
    """

    def __init__(  # noqa: PLR0913 (a cell file's options, each with its default)
        self, host: str = "", *, home: tuple[float, ...] | None = None, namespace: str = "/", transport: str = "",
        model: str = "", controller: str = "", trajectory: str = "joint_trajectory_controller/follow_joint_trajectory",
        trajectory_controller: str = "", manager: str = "controller_manager", gains: str = "",
        recover_service: str = "", timeout_s: float = 0.25, connect_s: float = 15.0, command_hz: float = 100.0,
        **topics: Any,
    ) -> None:  # fmt: skip
        if model not in ("", *LIMITS) or gains not in ("", "crisp"):
            raise ConfigError(
                f"Ros2Arm: model {model!r}, gains {gains!r}; model is {', '.join(LIMITS)} or empty, gains crisp or "
                "empty (arm.options)."
            )
        if gains and not controller:
            raise ConfigError("Ros2Arm: gains are set on a controller; name it (arm.options.controller).")
        self.period_s, self.law_s = 0.01, 0.0
        self.joint_limits: JointLimits | None = LIMITS.get(model)
        self._home, self._transport = home, transport
        self._arguments = in_namespace(namespace)
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in topics.items()}
        self._topics = ArmTopics(**given)
        self._controller, self._manager, self._gains = controller, manager, gains
        self._trajectory, self._trajectory_controller = trajectory, trajectory_controller
        self._recover_service = recover_service
        self._timeout_s, self._connect_s, self._command_s = timeout_s, connect_s, 1.0 / command_hz
        self._node: Node | None = None
        self._link: ArmLink | None = None
        self._publisher: Publisher | None = None
        self._reading: ArmState | None = None
        self._heard = 0  # poses
        self._target, self._sent = np.zeros(7), np.zeros(7)
        self._sent_at = self._looked = 0.0
        self._motion: PoseMotion | None = None
        self._motion_began = 0.0
        self._joints: Future[None] | None = None
        self._goal: tuple[ActionClient, bytes] | None = None  # of the joint motion, while it is under way
        self._faulted = False  # from a fault on until recovery it only reads
        self._box: tuple[Array, Array] | None = None
        self._speed = FASTEST
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="joint motion")

    def __enter__(self) -> "Ros2Arm":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Connection

    def connect(self) -> None:
        """Find the arm and hold its measured pose.

        Raises:
            DeviceConnectionError: A topic is silent, or nobody listens to targets; the message says what is seen.
            DeviceFaultError: A frame or joint is not what is expected, or somebody else sends targets.
        """
        if self._node is not None:
            return
        self._node = open_node("robot_rl_arm", self._arguments, transport=self._transport)
        try:
            self._link = ArmLink(self._node, self._topics)
            self._link.await_all(self._connect_s)
            self._publisher = self._node.publisher(self._topics.target, POSE, NEWEST)
            self._activate()
            self._await_listener()
            self._measure_period()
            self._hold()
            self._faulted = False
        except RobotRLError:
            self.close()
            raise

    def close(self) -> None:
        """Leave the arm holding its measured pose."""
        node = self._node
        if node is None:
            return
        self._give_up()
        self._node = self._link = self._publisher = self._reading = None
        node.close()

    def recover(self) -> None:
        """Have a fault of the arm cleared, look at everything again, and hold the measured pose."""
        self._give_up()
        if self._node is None:
            self.connect()
            return
        if self._recover_service:
            kind = "std_srvs/srv/Trigger"
            answer = self._node.call(self._recover_service, kind, ros.message(f"{kind}_Request"), SERVICE_S)
            if not answer.success:
                raise DeviceFaultError(f"{self._recover_service} did not clear the fault: {answer.message}")
        self._activate()
        self._await_listener()
        self._hold()
        self._faulted = False

    # Commands

    @property
    def moving(self) -> bool:
        """Whether a motion is under way."""
        return self._motion is not None or self._joints is not None

    @property
    def time_s(self) -> float:
        """Of the last reading, as the arm stamped it [s]."""
        return self._now().time_s

    def state(self) -> ArmState:
        """The reading of the last tick."""
        return self._now()

    def command(self, target_pose: Array) -> None:
        """Follow a target pose in `base`, shape (7,). Raises SafetyError when it is no pose."""
        if target_pose.shape != (7,) or not np.isfinite(target_pose).all():
            raise SafetyError(
                f"Target pose {target_pose.tolist()} is not 7 finite numbers. The arm keeps its last target."
            )
        self._motion = None
        self._target[:] = target_pose

    def set_impedance(self, gains: ImpedanceGains) -> None:
        """Set the controller's stiffness, damping and clips, where it is said how (`gains`).

        Raises:
            DeviceFaultError: The controller refuses a value.
        """
        if self._gains != "crisp":
            return
        names = [f"{kind}_{part}_{axis}" for kind in "kd" for part in ("pos", "rot") for axis in "xyz"]
        values = (*gains.stiffness, *gains.rotational_stiffness, *gains.damping, *gains.rotational_damping)
        names += [f"error_clip.{axis}" for axis in ("x", "y", "z", "rx", "ry", "rz")]
        values += (*gains.translational_clip, *gains.rotational_clip)
        parameters = [
            ros.message(
                "rcl_interfaces/msg/Parameter", name=f"task.{name}",
                value=ros.message("rcl_interfaces/msg/ParameterValue", type=DOUBLE, double_value=float(value)),
            )
            for name, value in zip(names, values, strict=True)
        ]  # fmt: skip
        kind = "rcl_interfaces/srv/SetParameters"
        request = ros.message(f"{kind}_Request", parameters=parameters)
        answer = self._opened.call(f"{self._controller}/set_parameters", kind, request, SERVICE_S)
        for name, result in zip(names, answer.results, strict=False):
            if not result.successful:
                raise DeviceFaultError(f"{self._controller} refuses task.{name}: {result.reason}")

    def set_limits(self, limits: SafetyLimits) -> None:
        """Box and speed that the targets sent are kept within."""
        self._box = (np.array(limits.position_low), np.array(limits.position_high))
        self._speed = limits.max_speed

    def move_to_joints(self, q: Array, duration_s: float) -> None:
        """Begin a joint motion, by the arm's own trajectory controller.

        Raises:
            ConfigError: It has none.
        """
        if not self._trajectory:
            raise ConfigError("This arm has no joint motions: name its FollowJointTrajectory (arm.options.trajectory).")
        self._motion = None
        self._joints = self._threads.submit(self._follow_joints, np.asarray(q, np.float64), duration_s)

    def move_to_pose(self, pose: Array, duration_s: float) -> None:
        """Begin a straight motion of the tcp; slower than asked where it would be too fast."""
        speed = (min(FASTEST[0], self._speed[0]), min(FASTEST[1], self._speed[1]))
        self._motion = PoseMotion.plan(self._now().tcp_pose, np.asarray(pose, np.float64), duration_s, speed)
        self._motion_began = time.monotonic()

    def stop(self) -> None:
        """Hold the measured pose; a joint motion is given up."""
        self._give_up()
        self._hold()

    def tick(self) -> None:
        """Wait for the next pose, and send a target where one is due. At a fault the arm is told to hold, once."""
        try:
            self._cycle()
        except DeviceError:
            if not self._faulted:
                self._faulted = True
                self._give_up()
            raise

    def _cycle(self) -> None:
        link = self._linked
        self._heard = link.await_pose(self._heard, self._timeout_s)
        begun = time.perf_counter()
        self._reading = link.state()
        if time.monotonic() - self._looked > GRAPH_EVERY_S:
            self._looked = time.monotonic()
            link.check_target()
        if self._joints is not None:
            self._settle_joints(self._joints)
        elif self._motion is not None:
            self._lead(self._motion)
        resting = self._faulted or self._joints is not None
        if not resting and time.monotonic() - self._sent_at >= self._command_s:
            self._send(self._towards(self._target))
        self.law_s = time.perf_counter() - begun

    def facts(self) -> dict[str, Any]:
        """What `check-cell` shows."""
        node = self._opened
        who = {e.node for e in node.publishers(self._topics.pose)}
        return {
            "ROS 2": f"{type(node).__name__.removesuffix('Node').lower()}; {node.resolve(self._topics.pose)} from "
            f"{', '.join(sorted(who))} at {1.0 / self.period_s:.0f} Hz",
            "wrench": "none: force limits are the controller's alone" if not self._topics.wrench else "read",
        }

    # One cycle

    @property
    def _opened(self) -> Node:
        if self._node is None:
            raise DeviceConnectionError("Ros2Arm is not connected. Call connect() first.")
        return self._node

    @property
    def _linked(self) -> ArmLink:
        if self._link is None:
            raise DeviceConnectionError("Ros2Arm is not connected. Call connect() first.")
        return self._link

    def _now(self) -> ArmState:
        if self._reading is None:
            raise DeviceConnectionError("Ros2Arm is not connected. Call connect() first.")
        return self._reading

    def _hold(self) -> None:
        self._motion = self._joints = None
        self._reading = self._linked.state()
        self._target[:] = self._sent[:] = self._reading.tcp_pose
        self._send(self._target)

    def _give_up(self) -> None:
        """End what is under way: the joint motion is cancelled, and the last measured pose is the target."""
        goal, joints, self._goal, self._motion, self._joints = self._goal, self._joints, None, None, None
        if goal is not None:
            client, goal_id = goal
            client.cancel(goal_id)
        if joints is None and self._reading is not None:
            self._target[:] = self._reading.tcp_pose
            self._send(self._target)

    def _send(self, pose: Array) -> None:
        if self._publisher is not None and self._node is not None:
            header = ros.header(self._node.now(), self._topics.base_frame)
            self._publisher.publish(ros.message(POSE, header=header, pose=ros.pose(pose)))
            self._sent[:], self._sent_at = pose, time.monotonic()

    def _towards(self, target: Array) -> Array:
        """From the target sent last towards the one wanted, no faster than the limits allow, and within the box."""
        dt = min(max(time.monotonic() - self._sent_at, 1e-4), 0.1)
        if self._box is not None:  # whoever is outside of it is led back, not thrown
            target = np.concatenate([np.clip(target[:3], *self._box), target[3:]])
        step = target[:3] - self._sent[:3]
        turn = rotvec_from_quat(quat_multiply(target[3:], quat_conjugate(self._sent[3:])))
        whole = max(float(np.linalg.norm(v)) / (s * dt) for v, s in zip((step, turn), self._speed, strict=True))
        part = 1.0 / max(1.0, whole)
        return np.concatenate(
            [self._sent[:3] + part * step, quat_multiply(quat_from_rotvec(part * turn), self._sent[3:])]
        )

    def _lead(self, motion: PoseMotion) -> None:
        elapsed = time.monotonic() - self._motion_began
        self._target[:] = motion.at(elapsed)
        if elapsed < motion.duration_s:
            return
        pose = self._now().tcp_pose
        off = float(np.linalg.norm(pose[:3] - motion.goal[:3]))
        turned = float(np.linalg.norm(rotvec_from_quat(quat_multiply(motion.goal[3:], quat_conjugate(pose[3:])))))
        if off < ARRIVED[0] and turned < ARRIVED[1]:
            self._motion = None
        elif elapsed > motion.duration_s + SETTLE_S:
            self._motion = None
            raise DeviceFaultError(
                f"The tcp is {1000 * off:.1f} mm and {turned:.3f} rad from where it was to move, {SETTLE_S:g} s after "
                "it should have arrived. Is something in the way, or the controller too soft or not active? "
                "ros2 control list_controllers"
            )

    # Joint motions and controllers

    def _follow_joints(self, q: Array, duration_s: float) -> None:
        """In a thread: the arm's own trajectory controller takes over, moves, and gives back."""
        point = ros.message(
            "trajectory_msgs/msg/JointTrajectoryPoint", positions=q, time_from_start=ros.duration(duration_s)
        )
        plan = ros.message("trajectory_msgs/msg/JointTrajectory", joint_names=self._linked.joint_names, points=[point])
        kind = "control_msgs/action/FollowJointTrajectory"
        client = ActionClient(self._opened, self._trajectory, kind)
        if self._trajectory_controller:
            self._switch(self._trajectory_controller, self._controller)
        try:
            goal = client.send(ros.message(f"{kind}_Goal", trajectory=plan), SERVICE_S)
            self._goal = (client, goal)
            client.result(goal, 3.0 * duration_s + 10.0)
        finally:
            self._goal = None
            if self._trajectory_controller:
                self._switch(self._controller, self._trajectory_controller)

    def _settle_joints(self, motion: "Future[None]") -> None:
        if motion.done():
            self._hold()
            motion.result()

    def _activate(self) -> None:
        """See that the Cartesian controller is active."""
        if not self._controller:
            return
        kind = "controller_manager_msgs/srv/ListControllers"
        answer = self._opened.call(f"{self._manager}/list_controllers", kind, ros.message(f"{kind}_Request"), SERVICE_S)
        states = {c.name: c.state for c in answer.controller}
        if self._controller not in states:
            raise DeviceConnectionError(
                f"{self._manager} has no controller {self._controller!r} (arm.options.controller); it has "
                f"{', '.join(f'{n} ({s})' for n, s in states.items()) or 'none'}. Load it: "
                f"ros2 control load_controller --set-state inactive {self._controller}"
            )
        if states[self._controller] != "active":
            active = [self._trajectory_controller] if states.get(self._trajectory_controller) == "active" else []
            self._switch(self._controller, *active)

    def _switch(self, on: str, *off: str) -> None:
        kind = "controller_manager_msgs/srv/SwitchController"
        request = ros.message(
            f"{kind}_Request", activate_controllers=[on], deactivate_controllers=[name for name in off if name],
            strictness=STRICT, timeout=ros.duration(SERVICE_S),
        )  # fmt: skip
        answer = self._opened.call(f"{self._manager}/switch_controller", kind, request, SERVICE_S)
        if not answer.ok:
            raise DeviceFaultError(
                f"{self._manager} does not activate {on!r} in place of {', '.join(off) or 'nothing'}: {answer.message} "
                "See: ros2 control list_controllers"
            )

    def _await_listener(self) -> None:
        """Discovery takes a moment."""
        end = time.monotonic() + SERVICE_S
        while True:
            try:
                self._linked.check_target()
            except DeviceConnectionError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                return

    def _measure_period(self) -> None:
        self._heard = self._linked.await_pose(self._linked.poses, self._timeout_s)
        begun, first = time.monotonic(), self._heard
        for _ in range(20):
            self._heard = self._linked.await_pose(self._heard, self._timeout_s)
        measured = (time.monotonic() - begun) / (self._heard - first)
        self.period_s = max(measured, self._command_s)  # what our targets are paced by; poses may come more often
