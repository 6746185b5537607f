"""ROS 2 actions, which are three services and two topics: https://design.ros2.org/articles/actions.html"""

import contextlib
import os
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np

from drivers.ros2.messages import Message, message, time
from drivers.ros2.node import DEFAULT, LATCHED, Node
from robot_rl.errors import DeviceFaultError, DeviceTimeoutError

__all__ = ["ABORTED", "CANCELED", "SUCCEEDED", "ActionClient", "ActionServer"]

EXECUTING, SUCCEEDED, CANCELED, ABORTED = 2, 4, 5, 6
WORDS = {0: "unknown", SUCCEEDED: "succeeded", CANCELED: "canceled", ABORTED: "aborted"}
FORGET_S = 300.0  # a result nobody asked for is given up by then


class ActionClient:
    """Asks for an action to be done.

    Args:
        node: Over which.
        action: Its name.
        kind: `control_msgs/action/FollowJointTrajectory`, for example.
    """

    def __init__(self, node: Node, action: str, kind: str) -> None:
        self._node, self._action, self._kind = node, action, kind

    def send(self, goal: Message, timeout_s: float) -> bytes:
        """Have a goal accepted; its id.

        Raises:
            DeviceTimeoutError: Nobody serves the action.
            DeviceFaultError: The server does not accept the goal.
        """
        goal_id = os.urandom(16)
        request = message(f"{self._kind}_SendGoal_Request", goal_id=_uuid(goal_id), goal=goal)
        answer = self._node.call(f"{self._action}/_action/send_goal", f"{self._kind}_SendGoal", request, timeout_s)
        if not answer.accepted:
            raise DeviceFaultError(
                f"The ROS action {self._action} does not accept the goal; its server's log says why."
            )
        return goal_id

    def result(self, goal_id: bytes, timeout_s: float) -> Message:
        """Wait for a goal to succeed; what came of it.

        Raises:
            DeviceFaultError: It was aborted or canceled.
            DeviceTimeoutError: It takes longer.
        """
        request = message(f"{self._kind}_GetResult_Request", goal_id=_uuid(goal_id))
        answer = self._node.call(f"{self._action}/_action/get_result", f"{self._kind}_GetResult", request, timeout_s)
        if answer.status != SUCCEEDED:
            said = getattr(answer.result, "error_string", "")
            raise DeviceFaultError(
                f"The ROS action {self._action} was {WORDS.get(answer.status, answer.status)}. {said}".strip(),
                status=int(answer.status),
            )
        return answer.result

    def cancel(self, goal_id: bytes, timeout_s: float = 1.0) -> None:
        """Give a goal up; whether it had ended meanwhile does not matter."""
        info = message("action_msgs/msg/GoalInfo", goal_id=_uuid(goal_id))
        request = message("action_msgs/srv/CancelGoal_Request", goal_info=info)
        with contextlib.suppress(DeviceTimeoutError):
            self._node.call(f"{self._action}/_action/cancel_goal", "action_msgs/srv/CancelGoal", request, timeout_s)


class _Goal:
    def __init__(self) -> None:
        self.cancelled, self.ended = threading.Event(), threading.Event()
        self.status, self.result = EXECUTING, None
        self.forget_s = float("inf")  # of a monotonic clock


class ActionServer:
    """Does what is asked for, one goal at a time; a new goal ends the one before.

    Args:
        node: Over which.
        action, kind: As of `ActionClient`.
        execute: Called in a thread with a goal and an event that says it was given up; returns a status and a result.
    """

    def __init__(
        self, node: Node, action: str, kind: str, execute: Callable[[Message, threading.Event], tuple[int, Message]]
    ) -> None:
        self._node, self._kind, self._execute = node, kind, execute
        self._goals: dict[bytes, _Goal] = {}
        self._changing, self._turn = threading.Lock(), threading.Lock()
        self._status = node.publisher(f"{action}/_action/status", "action_msgs/msg/GoalStatusArray", LATCHED)
        # Clients wait for a publisher of feedback before they call a server there.
        self._feedback = node.publisher(f"{action}/_action/feedback", f"{kind}_FeedbackMessage", DEFAULT)
        node.serve(f"{action}/_action/send_goal", f"{kind}_SendGoal", self._accept)
        node.serve(f"{action}/_action/cancel_goal", "action_msgs/srv/CancelGoal", self._cancel)
        node.serve(f"{action}/_action/get_result", f"{kind}_GetResult", self._wait)

    def _accept(self, request: Message) -> Message:
        goal = _Goal()
        now = monotonic()
        with self._changing:
            self._goals = {i: other for i, other in self._goals.items() if now < other.forget_s}
            for other in self._goals.values():
                other.cancelled.set()
            self._goals[bytes(request.goal_id.uuid)] = goal
        threading.Thread(target=self._run, args=(goal, request.goal), daemon=True).start()
        return message(f"{self._kind}_SendGoal_Response", accepted=True, stamp=time(self._node.now()))

    def _run(self, goal: _Goal, asked: Message) -> None:
        with self._turn:
            self._tell()
            try:
                if goal.cancelled.is_set():  # given up before its turn: nothing of it is done
                    goal.status, goal.result = CANCELED, message(f"{self._kind}_Result")
                else:
                    goal.status, goal.result = self._execute(asked, goal.cancelled)
            finally:
                if goal.result is None:
                    goal.status, goal.result = ABORTED, message(f"{self._kind}_Result")
                goal.forget_s = monotonic() + FORGET_S
                try:
                    self._tell()  # before anybody hears of the result
                finally:
                    goal.ended.set()

    def _wait(self, request: Message) -> Message:
        goal = self._goals.get(bytes(request.goal_id.uuid))
        if goal is None or not goal.ended.wait(FORGET_S):
            return message(f"{self._kind}_GetResult_Response")  # status 0: unknown
        with self._changing:
            self._goals.pop(bytes(request.goal_id.uuid), None)
        return message(f"{self._kind}_GetResult_Response", status=goal.status, result=goal.result)

    def _cancel(self, request: Message) -> Message:
        wanted = bytes(request.goal_info.goal_id.uuid)
        with self._changing:
            live = {i: goal for i, goal in self._goals.items() if not goal.ended.is_set()}
        chosen = [i for i in live if i == wanted or not any(wanted)]
        for goal_id in chosen:
            live[goal_id].cancelled.set()
        return message(
            "action_msgs/srv/CancelGoal_Response",
            return_code=0 if chosen else 2,
            goals_canceling=[message("action_msgs/msg/GoalInfo", goal_id=_uuid(i)) for i in chosen],
        )

    def _tell(self) -> None:
        with self._changing:
            goals = list(self._goals.items())
        states = [
            message(
                "action_msgs/msg/GoalStatus",
                goal_info=message("action_msgs/msg/GoalInfo", goal_id=_uuid(i)), status=goal.status,
            )
            for i, goal in goals
        ]  # fmt: skip
        self._status.publish(message("action_msgs/msg/GoalStatusArray", status_list=states))


def _uuid(raw: bytes) -> Any:
    return message("unique_identifier_msgs/msg/UUID", uuid=np.frombuffer(raw, np.uint8))
