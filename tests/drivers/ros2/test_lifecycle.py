"""The managed life of a node, transition by transition, as `ros2 lifecycle` asks for it."""

import pytest

from drivers.ros2.lifecycle import Lifecycle
from drivers.ros2.messages import message
from robot_rl.errors import ConfigError
from tests.drivers.ros2.inprocess import Bus

SERVICES = "lifecycle_msgs/srv"
# https://design.ros2.org/articles/node_lifecycle.html: from each primary state, by which transition, to which.
LIFE = {
    ("unconfigured", "configure"): "inactive",
    ("unconfigured", "shutdown"): "finalized",
    ("inactive", "activate"): "active",
    ("inactive", "cleanup"): "unconfigured",
    ("inactive", "shutdown"): "finalized",
    ("active", "deactivate"): "inactive",
    ("active", "shutdown"): "finalized",
}
WAY = {
    "unconfigured": [], "inactive": ["configure"], "active": ["configure", "activate"], "finalized": ["shutdown"],
}  # fmt: skip
NAMES = ("configure", "activate", "deactivate", "cleanup", "shutdown")
# lifecycle_msgs/msg/Transition and State, the constants of ROS 2
NUMBERS = {
    "configure": {"unconfigured": 1},
    "cleanup": {"inactive": 2},
    "activate": {"inactive": 3},
    "deactivate": {"active": 4},
    "shutdown": {"unconfigured": 5, "inactive": 6, "active": 7},
}
STATES = {"unconfigured": 1, "inactive": 2, "active": 3, "finalized": 4}


class Recorder:
    """Notes what is asked of it; fails where it is told to."""

    def __init__(self):
        self.done, self.broken = [], None

    def __getattr__(self, name):
        if name not in NAMES:
            raise AttributeError(name)

        def do():
            if self.broken == name:
                raise ConfigError(f"no {name}")
            self.done.append(name)

        return do


@pytest.fixture
def life():
    bus, managed = Bus(), Recorder()
    managed.bus, managed.user = bus, bus.node("user")
    managed.life = Lifecycle(bus.node("worker"), managed)
    managed.told = bus.heard["/worker/transition_event"]
    return managed


def go(managed, state):
    for transition in WAY[state]:
        assert managed.life.to(transition)


def ask(managed, service, kind, **fields):
    request = message(f"{SERVICES}/{kind}_Request", **fields)
    return managed.user.call(f"/worker/{service}", f"{SERVICES}/{kind}", request, 1.0)


@pytest.mark.parametrize("transition", NAMES)
@pytest.mark.parametrize("state", STATES)
def test_a_transition_is_made_where_there_is_one(life, state, transition):
    go(life, state)
    done, told = len(life.done), len(life.told)
    after = LIFE.get((state, transition))
    assert life.life.to(transition) == (after is not None)
    assert life.life.state == (after or state)
    if after is None:
        assert life.life.trouble == f"{transition} is not possible while {state}"
        assert len(life.done) == done
        assert len(life.told) == told
    else:
        assert life.life.trouble == ""
        assert life.done[done:] == [transition]


def test_every_transition_is_told(life):
    life.bus.now_s = 12.5
    life.life.to("configure")
    (event,) = life.told
    assert event.timestamp == 12_500_000_000
    assert (event.transition.id, event.transition.label) == (1, "configure")
    assert (event.start_state.id, event.start_state.label) == (1, "unconfigured")
    assert (event.goal_state.id, event.goal_state.label) == (2, "inactive")


@pytest.mark.parametrize("transition", NAMES)
def test_an_error_keeps_the_state_and_is_told(life, transition, caplog):
    state = next(state for state, name in LIFE if name == transition)
    go(life, state)
    told, life.broken = len(life.told), transition
    assert not life.life.to(transition)
    assert life.life.state == state
    assert life.life.trouble == f"ConfigError: no {transition}"
    assert len(life.told) == told
    assert f"{transition}: no {transition}" in caplog.text
    life.broken = None
    assert life.life.to(transition)
    assert life.life.trouble == ""


@pytest.mark.parametrize("state", STATES)
def test_services_tell_state_and_what_is_possible(life, state):
    go(life, state)
    answer = ask(life, "get_state", "GetState").current_state
    assert (answer.id, answer.label) == (STATES[state], state)
    possible = ask(life, "get_available_transitions", "GetAvailableTransitions").available_transitions
    told = {(one.start_state.label, one.transition.label): one.goal_state.label for one in possible}
    assert told == {key: after for key, after in LIFE.items() if key[0] == state}
    assert all(one.transition.id == NUMBERS[one.transition.label][state] for one in possible)


def test_services_tell_all_states_and_transitions(life):
    states = ask(life, "get_available_states", "GetAvailableStates").available_states
    assert {one.label: one.id for one in states} == STATES
    graph = ask(life, "get_transition_graph", "GetAvailableTransitions").available_transitions
    assert {(one.start_state.label, one.transition.label): one.goal_state.label for one in graph} == LIFE


@pytest.mark.parametrize(
    "fields", [{"id": 1}, {"label": "configure"}, {"id": 1, "label": "configure"}], ids=["id", "label", "both"]
)
def test_a_transition_is_asked_for_by_number_or_label(life, fields):
    transition = message("lifecycle_msgs/msg/Transition", **fields)
    assert ask(life, "change_state", "ChangeState", transition=transition).success
    assert (life.life.state, life.done) == ("inactive", ["configure"])


@pytest.mark.parametrize("fields", [{"id": 3}, {"id": 99}, {"label": "activate"}, {"label": "fly"}])
def test_what_is_asked_for_wrongly_is_not_done(life, fields):
    transition = message("lifecycle_msgs/msg/Transition", **fields)
    assert not ask(life, "change_state", "ChangeState", transition=transition).success
    assert (life.life.state, life.done) == ("unconfigured", [])
