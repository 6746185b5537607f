"""Actions: a goal accepted, done, given up or replaced, between a client and a server of ours."""

import threading

import numpy as np
import pytest

from drivers.ros2 import actions
from drivers.ros2.actions import ABORTED, CANCELED, SUCCEEDED, ActionClient, ActionServer
from drivers.ros2.messages import message
from robot_rl.errors import DeviceFaultError, DeviceTimeoutError
from tests.drivers.ros2.inprocess import Bus

KIND = "control_msgs/action/FollowJointTrajectory"
LONG_S = 30.0  # nothing here takes it


def result(text=""):
    return message(f"{KIND}_Result", error_string=text)


class Hall:
    """A server and a client; what the server does with a goal is decided by the goal's name."""

    def __init__(self):
        self.bus = Bus()
        self.begun, self.go_on, self.done = [], threading.Event(), []
        self.started = threading.Semaphore(0)
        node = self.bus.node("server")
        self.server = ActionServer(node, "move", KIND, self.execute)
        self.user = self.bus.node("user")
        self.client = ActionClient(self.user, "move", KIND)

    def execute(self, goal, cancelled):
        (name,) = goal.trajectory.joint_names
        self.begun.append(name)
        self.started.release()
        if name == "wait":
            assert cancelled.wait(LONG_S)
            self.done.append(name)
            return CANCELED, result("given up")
        if name == "hold":
            assert self.go_on.wait(LONG_S)
        return (ABORTED, result("it broke")) if name == "fail" else (SUCCEEDED, result(name))

    def send(self, name):
        goal = message(
            f"{KIND}_Goal", trajectory=message("trajectory_msgs/msg/JointTrajectory", joint_names=[name])
        )  # fmt: skip
        return self.client.send(goal, 1.0)

    def begin(self, name):
        goal = self.send(name)
        assert self.started.acquire(timeout=LONG_S)
        return goal

    def status(self):
        """The newest that is told of every goal."""
        told = self.bus.heard["/move/_action/status"][-1].status_list
        return {bytes(one.goal_info.goal_id.uuid): one.status for one in told}

    def cancel(self, uuid):
        info = message("action_msgs/msg/GoalInfo", goal_id=message(
            "unique_identifier_msgs/msg/UUID", uuid=np.frombuffer(uuid, np.uint8)))  # fmt: skip
        request = message("action_msgs/srv/CancelGoal_Request", goal_info=info)
        return self.user.call("move/_action/cancel_goal", "action_msgs/srv/CancelGoal", request, 1.0)


@pytest.fixture
def hall():
    return Hall()


def test_a_goal_succeeds(hall):
    goal = hall.send("go")
    assert hall.client.result(goal, LONG_S).error_string == "go"
    assert hall.status() == {goal: SUCCEEDED}


def test_while_it_is_done_it_is_told(hall):
    """action_msgs/msg/GoalStatus: 2 is executing."""
    goal = hall.begin("hold")
    assert hall.status() == {goal: 2}
    hall.go_on.set()
    hall.client.result(goal, LONG_S)


def test_an_aborted_goal_is_an_error_with_its_reason(hall):
    goal = hall.send("fail")
    with pytest.raises(DeviceFaultError, match=r"move was aborted\. it broke") as caught:
        hall.client.result(goal, LONG_S)
    assert caught.value.status == ABORTED


def test_a_goal_is_given_up(hall):
    goal = hall.begin("wait")
    hall.client.cancel(goal)
    with pytest.raises(DeviceFaultError, match=r"was canceled\. given up"):
        hall.client.result(goal, LONG_S)
    hall.client.cancel(goal)  # which has ended: no matter


def test_a_new_goal_ends_the_one_before(hall):
    before = hall.begin("wait")
    after = hall.send("go")
    assert hall.client.result(after, LONG_S).error_string == "go"
    with pytest.raises(DeviceFaultError, match="canceled"):
        hall.client.result(before, LONG_S)
    assert hall.begun == ["wait", "go"]


def test_a_goal_given_up_before_its_turn_is_not_begun(hall):
    """Of three at once the first is done and the last wins; nothing of the one between happens, and it says so."""
    first = hall.begin("hold")
    between, last = hall.send("between"), hall.send("go")
    hall.go_on.set()
    assert hall.client.result(last, LONG_S).error_string == "go"
    with pytest.raises(DeviceFaultError, match="canceled"):
        hall.client.result(between, LONG_S)
    assert hall.client.result(first, LONG_S).error_string == "hold"
    assert hall.begun == ["hold", "go"]


def test_what_happened_to_an_unknown_goal_is_unknown(hall):
    with pytest.raises(DeviceFaultError, match="was unknown"):
        hall.client.result(bytes(16), 1.0)


def test_cancelling_answers_which(hall):
    """CancelGoal: an id names one goal, 0 all of them; return code 2 is ERROR_UNKNOWN_GOAL_ID."""
    assert hall.cancel(bytes([1] * 16)).return_code == 2
    goal = hall.begin("wait")
    answer = hall.cancel(bytes(16))
    assert answer.return_code == 0
    assert [bytes(one.goal_id.uuid) for one in answer.goals_canceling] == [goal]


def test_a_server_without_words_has_aborted(hall, monkeypatch):
    """What goes wrong in the work itself ends the goal, and is seen where it happened."""
    seen = []
    monkeypatch.setattr("threading.excepthook", lambda arguments: seen.append(arguments.exc_type))

    def execute(_goal, _cancelled):
        raise ZeroDivisionError

    ActionServer(hall.bus.node("other"), "other", KIND, execute)
    client = ActionClient(hall.user, "other", KIND)
    with pytest.raises(DeviceFaultError, match="aborted"):
        client.result(client.send(message(f"{KIND}_Goal"), 1.0), LONG_S)
    end = threading.Event()
    while not seen:
        end.wait(0.005)
    assert seen == [ZeroDivisionError]


def test_a_goal_that_is_not_accepted(hall):
    hall.bus.node("picky").serve(
        "picky/_action/send_goal", f"{KIND}_SendGoal", lambda _: message(f"{KIND}_SendGoal_Response")
    )
    with pytest.raises(DeviceFaultError, match="does not accept the goal"):
        ActionClient(hall.user, "picky", KIND).send(message(f"{KIND}_Goal"), 1.0)


def test_an_action_that_nobody_serves(hall):
    client = ActionClient(hall.user, "nobody", KIND)
    with pytest.raises(DeviceTimeoutError, match="Nobody offers"):
        client.send(message(f"{KIND}_Goal"), 1.0)
    client.cancel(bytes(16))  # there is nothing to give up


def test_results_that_nobody_asks_for_are_forgotten(hall, monkeypatch):
    """A gripper's driver sends goals all day and asks for no result."""
    monkeypatch.setattr(actions, "FORGET_S", 0.0)
    for _ in range(5):
        hall.begin("go")
        until_ended(hall)
    hall.client.result(hall.begin("go"), LONG_S)
    assert len(hall.bus.heard["/move/_action/status"][-1].status_list) <= 2


def until_ended(hall):
    pause = threading.Event()
    while 2 in hall.status().values():
        pause.wait(0.002)


def test_a_result_is_waited_for_for_so_long(hall, monkeypatch):
    monkeypatch.setattr(actions, "FORGET_S", 0.01)
    goal = hall.begin("hold")
    with pytest.raises(DeviceFaultError, match="unknown"):
        hall.client.result(goal, 1.0)
    hall.go_on.set()
