"""The managed life of a node, as `ros2 lifecycle` knows it: https://design.ros2.org/articles/node_lifecycle.html"""

import logging
import threading
from typing import Protocol

from drivers.ros2.messages import Message, message
from drivers.ros2.node import DEFAULT, Node
from robot_rl.errors import RobotRLError

__all__ = ["Lifecycle", "Managed"]

log = logging.getLogger("robot_rl.ros2")

STATES = {1: "unconfigured", 2: "inactive", 3: "active", 4: "finalized"}
PRIMARY = {name: number for number, name in STATES.items()}
TRANSITIONS = {  # number: name, from, to
    1: ("configure", "unconfigured", "inactive"),
    2: ("cleanup", "inactive", "unconfigured"),
    3: ("activate", "inactive", "active"),
    4: ("deactivate", "active", "inactive"),
    5: ("shutdown", "unconfigured", "finalized"),
    6: ("shutdown", "inactive", "finalized"),
    7: ("shutdown", "active", "finalized"),
}


class Managed(Protocol):
    """What is done on the way from one state to the next. An error leaves the state as it was, and is told."""

    def configure(self) -> None: ...
    def activate(self) -> None: ...
    def deactivate(self) -> None: ...
    def cleanup(self) -> None: ...
    def shutdown(self) -> None: ...


class Lifecycle:
    """Serves ~/get_state, ~/change_state, ~/get_available_transitions and tells ~/transition_event.

    Args:
        node: Over which.
        managed: Whose life.

    Attributes:
        state: unconfigured, inactive, active or finalized.
        trouble: Why the last transition was not made; empty when it was.
        lock: Held during a transition; hold it to act upon the state.
    """

    def __init__(self, node: Node, managed: Managed) -> None:
        self._node, self._managed = node, managed
        self.lock = threading.RLock()
        self.state, self.trouble = "unconfigured", ""
        self._event = node.publisher("~/transition_event", "lifecycle_msgs/msg/TransitionEvent", DEFAULT)
        node.serve("~/get_state", "lifecycle_msgs/srv/GetState", self._get)
        node.serve("~/change_state", "lifecycle_msgs/srv/ChangeState", self._change)
        node.serve(
            "~/get_available_transitions", "lifecycle_msgs/srv/GetAvailableTransitions",
            lambda _: self._told([n for n, (_, before, _) in TRANSITIONS.items() if before == self.state]),
        )  # fmt: skip
        node.serve(
            "~/get_transition_graph",
            "lifecycle_msgs/srv/GetAvailableTransitions",
            lambda _: self._told(list(TRANSITIONS)),
        )
        node.serve("~/get_available_states", "lifecycle_msgs/srv/GetAvailableStates", self._states)

    def to(self, transition: str) -> bool:
        """Make a transition by name; whether it was made. Why not, is in `trouble`."""
        with self.lock:
            number = next(
                (n for n, (name, before, _) in TRANSITIONS.items() if (name, before) == (transition, self.state)), 0
            )
            if not number:
                self.trouble = f"{transition} is not possible while {self.state}"
                return False
            name, before, after = TRANSITIONS[number]
            try:
                getattr(self._managed, name)()
            except RobotRLError as error:
                self.trouble = f"{type(error).__name__}: {error}"
                log.error("%s: %s", name, error)  # noqa: TRY400 (one message is what a user gets)
                return False
            self.state, self.trouble = after, ""
        now = round(self._node.now() * 1e9)
        self._event.publish(
            message(
                "lifecycle_msgs/msg/TransitionEvent", timestamp=now, transition=_transition(number),
                start_state=_state(before), goal_state=_state(after),
            )
        )  # fmt: skip
        return True

    def _get(self, _: Message) -> Message:
        return message("lifecycle_msgs/srv/GetState_Response", current_state=_state(self.state))

    def _change(self, request: Message) -> Message:
        asked = request.transition
        name = asked.label or TRANSITIONS.get(asked.id, ("", "", ""))[0]
        return message("lifecycle_msgs/srv/ChangeState_Response", success=self.to(name))

    def _told(self, numbers: list[int]) -> Message:
        told = [
            message(
                "lifecycle_msgs/msg/TransitionDescription", transition=_transition(n),
                start_state=_state(TRANSITIONS[n][1]), goal_state=_state(TRANSITIONS[n][2]),
            )
            for n in numbers
        ]  # fmt: skip
        return message("lifecycle_msgs/srv/GetAvailableTransitions_Response", available_transitions=told)

    def _states(self, _: Message) -> Message:
        return message(
            "lifecycle_msgs/srv/GetAvailableStates_Response", available_states=[_state(name) for name in PRIMARY]
        )


def _state(name: str) -> Message:
    return message("lifecycle_msgs/msg/State", id=PRIMARY[name], label=name)


def _transition(number: int) -> Message:
    return message("lifecycle_msgs/msg/Transition", id=number, label=TRANSITIONS[number][0])
