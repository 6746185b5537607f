"""training_node: a managed life, a person's words, what is told of every step, and how it ends."""

import json
import sys
import threading
from pathlib import Path

import pytest

from drivers.ros2.arguments import checked
from drivers.ros2.messages import message
from drivers.ros2.node import DEFAULT
from robot_rl.errors import ConfigError, LinkError
from tasks.ros2 import training_node
from tasks.ros2.training import Session, SessionOptions
from tasks.ros2.training_node import PARAMETERS, TrainingNode
from tests.drivers.ros2.inprocess import Bus
from tests.tasks.ros2.fake_training import add, create

TRIGGER, STRING = "std_srvs/srv/Trigger", "std_msgs/msg/String"
OK, WARN, ERROR = 0, 1, 2  # diagnostic_msgs/msg/DiagnosticStatus
FAKE, ROOT = Path(__file__).with_name("fake_training.py"), Path(__file__).parents[3]


class FakeSession:
    """A session without processes: it runs until it is told that it has ended, and how."""

    def __init__(self, run):
        self.options = SessionOptions(task="reach", cell="ros:twin", run=run)
        self.log = run.with_suffix(".log")
        self.running, self.starts, self.stops, self.trouble, self.over = False, 0, 0, None, False

    def start(self):
        if isinstance(self.trouble, ConfigError):
            raise self.trouble
        self.running, self.starts = True, self.starts + 1

    def stop(self):
        self.stops += self.running
        self.running = False

    def check(self):
        if isinstance(self.trouble, LinkError):
            self.running = False
            raise self.trouble
        return self.over


class Room:
    def __init__(self, folder, session=None, **values):
        self.bus, self.session = Bus(), session or FakeSession(folder)
        self.user = self.bus.node("user")
        values = checked(PARAMETERS, {"autostart": False, **values})
        self.node = TrainingNode(self.bus.node("trainer"), values, self.session)
        self.life, self.run = self.node.life, folder

    def ask(self, service):
        answer = self.user.call(f"/trainer/{service}", TRIGGER, message(f"{TRIGGER}_Request"), 1.0)
        return answer.success, answer.message

    def told(self, name):
        return [one.data for one in self.bus.heard[f"/trainer/{name}"]]

    def say(self, text):
        self.user.publisher("/trainer/correct", STRING, DEFAULT).publish(message(STRING, data=text))

    def events(self):
        path = self.run / "events.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]

    def diagnosed(self):
        """The newest that is said of how it is."""
        self.node._diagnosed = 0.0
        self.node.tick()
        (status,) = self.bus.heard["/diagnostics"][-1].status
        return status.level, status.message

    def listen_as_actor(self):
        words = []
        self.bus.node("actor").subscribe("teleop/say", STRING, lambda content: words.append(content.data), DEFAULT)
        return words


@pytest.fixture
def room(tmp_path, monkeypatch):
    monkeypatch.setattr(training_node.time, "monotonic", lambda: 100.0)
    return Room(tmp_path)


def test_a_session_is_started_and_stopped(room):
    assert room.ask("start") == (True, "")  # configured on the way
    assert (room.life.state, room.session.starts) == ("active", 1)
    assert room.ask("stop") == (True, "")
    assert (room.life.state, room.session.stops) == ("inactive", 1)
    assert room.ask("start") == (True, "")
    assert room.session.starts == 2


def test_twice_is_once(room):
    room.ask("start")
    assert room.ask("start") == (False, "activate is not possible while active")
    room.ask("stop")
    assert room.ask("stop") == (False, "deactivate is not possible while inactive")
    assert (room.session.starts, room.session.stops) == (1, 1)


def test_a_whole_life(room):
    for transition in ("configure", "activate", "deactivate", "cleanup", "configure", "activate", "shutdown"):
        if transition == "configure":
            room.node._session = room.session
        assert room.life.to(transition)
    assert (room.life.state, room.session.starts, room.session.stops) == ("finalized", 2, 2)


def test_after_cleaning_up_there_is_nothing_to_stop(room):
    room.life.to("configure")
    room.life.to("cleanup")
    assert room.life.to("shutdown")
    room.node.tick()


def test_what_cannot_begin_is_said(room):
    room.session.trouble = ConfigError("the log cannot be written")
    assert room.ask("start") == (False, "ConfigError: the log cannot be written")
    assert room.life.state == "inactive"
    assert room.diagnosed() == (WARN, "ConfigError: the log cannot be written")


@pytest.mark.parametrize(
    ("values", "said"), [({"task": "fly"}, "fly"), ({"cell": "cells/none.yaml"}, "no cell file cells/none.yaml")]
)
def test_what_is_asked_for_wrongly_is_said_by_the_service(tmp_path, values, said):
    room = Room(tmp_path, **values)
    room.node._session = None
    done, why = room.ask("start")
    assert not done
    assert why.startswith("ConfigError")
    assert said in why
    assert room.life.state == "unconfigured"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"cell": "ros:twin", "rehearse": "127.0.0.1", "run": "runs/reach/ros", "teleop": "ros2"}),
        (
            {"rehearse": "127.0.0.7", "run": "mine", "teleop": ""},
            {"rehearse": "127.0.0.7", "run": "mine", "teleop": ""},
        ),
        ({"cell": "FILE"}, {"cell": "ros:FILE", "rehearse": ""}),
        ({"cell": "FILE", "rehearse": "127.0.0.2", "reward": "human"}, {"rehearse": "127.0.0.2", "reward": "human"}),
        ({"steps": 500, "preset": "serl", "demos": "none"}, {"steps": 500, "preset": "serl", "demos": "none"}),
        ({"settings": ["a=1", "", "b=2"]}, {"settings": ("a=1", "b=2")}),
    ],
)
def test_a_session_is_made_of_the_parameters(tmp_path, monkeypatch, cell_file, values, expected):
    monkeypatch.chdir(tmp_path)
    file = cell_file("arm: {driver: franka, host: 172.16.0.2}")
    values = {name: file if value == "FILE" else value for name, value in values.items()}
    room = Room(tmp_path, **values)
    room.node._session = None
    assert room.life.to("configure")
    options = room.node._session.options
    for name, value in expected.items():
        wanted = value.replace("FILE", file) if isinstance(value, str) else value
        assert getattr(options, name) == (tmp_path / wanted if name == "run" else wanted)


# What it tells


def test_every_step_is_told(room):
    room.ask("start")
    with create(room.run) as store:
        add(store, [0.0, 1.0], version=7)
        add(store, [0.5], source="human", version=8)
    room.node.tick()
    room.node.tick()
    assert room.told("reward") == [0.0, 1.0, 0.5]
    assert room.told("intervention") == [False, False, True]
    assert room.told("policy_version") == [7, 7, 8]


def test_who_comes_later_still_hears_the_policy_version(room):
    room.ask("start")
    with create(room.run) as store:
        add(store, [0.0], version=9)
    room.node.tick()
    (sender,) = room.user.publishers("/trainer/policy_version")
    assert sender.qos.transient_local


def test_metrics_are_told_and_diagnosed(room):
    room.ask("start")
    rows = [{"step": 100, "episode_success": 0.25, "loss": 3.0}, {"step": 200, "episode_success": None}]
    (room.run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert room.diagnosed() == (OK, "training")
    assert [json.loads(text) for text in room.told("metrics")] == rows
    (status,) = room.bus.heard["/diagnostics"][-1].status
    assert {one.key: one.value for one in status.values} == {"step": "200", "episode_success": "0.25"}
    assert (status.name, status.hardware_id) == ("trainer: training", "trainer")


def test_how_it_is_is_told_once_a_second(room, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(training_node.time, "monotonic", lambda: now[0])
    for _ in range(5):
        room.node.tick()
        now[0] += 0.4
    assert len(room.bus.heard["/diagnostics"]) == 2  # at 100.0 and 101.2
    assert room.diagnosed() == (OK, "unconfigured")


# What it is told


def test_words_are_passed_on_and_kept(room):
    words = room.listen_as_actor()
    room.ask("start")
    for word in ("success", "failure", "pause"):
        assert room.ask(word) == (True, "")
    assert words == ["success", "failure", "pause"]
    assert room.events() == [{"event": "said", "by": "trainer", "word": word} for word in words]


def test_words_that_nobody_hears_are_refused(room):
    assert room.ask("success") == (False, "nothing is trained now")
    room.ask("start")
    assert room.ask("success") == (False, "the actor does not listen yet (teleop)")
    assert room.events() == []


def test_corrections_are_kept(room):
    room.say("too early")  # no run is known
    room.ask("start")
    room.say("  it grips too high \n")
    room.say("   ")
    assert room.events() == [{"event": "correction", "by": "trainer", "text": "it grips too high"}]


def test_a_correction_that_cannot_be_kept_is_diagnosed(tmp_path):
    room = Room(tmp_path / "absent")
    room.ask("start")
    room.say("it grips too high")
    level, why = room.diagnosed()
    assert level == ERROR
    assert "Has the run begun?" in why


# How it ends


def test_a_session_that_is_done_is_deactivated(room):
    room.ask("start")
    room.session.over = True
    room.node.tick()
    assert room.life.state == "inactive"
    assert room.diagnosed() == (OK, "done")
    room.session.over = False
    room.ask("start")
    assert room.diagnosed() == (OK, "training")


def test_an_error_ends_the_node(room):
    room.ask("start")
    room.session.trouble = LinkError("exit code 2")
    with pytest.raises(LinkError, match="exit code 2"):
        room.node.tick()
    assert room.life.state == "inactive"


def test_an_error_is_diagnosed_where_the_node_stays(tmp_path):
    room = Room(tmp_path, end_when_done=False)
    room.ask("start")
    room.session.trouble = LinkError("exit code 2")
    room.node.tick()
    assert room.life.state == "inactive"
    assert room.diagnosed() == (ERROR, "exit code 2")
    room.session.trouble = None
    room.ask("start")
    assert room.diagnosed() == (OK, "training")


def test_it_runs_by_itself_until_it_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(training_node, "LOOK_S", 0.0)
    room = Room(tmp_path, autostart=True)
    room.session.over = True
    room.node.run(threading.Event())
    assert (room.session.starts, room.session.stops) == (1, 1)


def test_asked_to_end_it_stops_training(tmp_path):
    room, ended = Room(tmp_path, autostart=True), threading.Event()
    ended.set()
    room.node.run(ended)
    assert (room.session.starts, room.session.stops) == (1, 1)


def test_it_stays_when_it_is_done_where_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.setattr(training_node, "LOOK_S", 0.0)
    room, ended = Room(tmp_path, autostart=True, end_when_done=False), threading.Event()
    room.session.over, tick, ticks = True, room.node.tick, []

    def counted():
        tick()
        ticks.append(room.life.state)
        if len(ticks) == 3:
            ended.set()

    room.node.tick = counted
    room.node.run(ended)
    assert ticks == ["inactive"] * 3


def test_what_does_not_begin_by_itself_ends_the_node(tmp_path):
    room = Room(tmp_path, autostart=True)
    room.session.trouble = ConfigError("no disk")
    with pytest.raises(LinkError, match="does not begin: ConfigError: no disk"):
        room.node.run(threading.Event())


@pytest.mark.realtime
def test_deactivated_and_activated_a_run_goes_on(tmp_path, monkeypatch):
    """With processes: begun, told to stop, which saves; then gone on with by --resume."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = SessionOptions(task="reach", cell="ros:twin", run=tmp_path / "run")

    def command():
        resume = ["--resume"] if "--resume" in options.command() else []
        return [sys.executable, str(FAKE), str(options.run), *resume, "wait"]

    room = Room(options.run, Session(options, command), end_when_done=False)
    try:
        for expected in ([0.0, 1.0], [0.0, 1.0, 0.0, 1.0]):
            assert room.ask("start") == (True, "")
            pause = threading.Event()
            while (
                room.told("reward") != expected
                or room.node._session.log.read_text().count("waiting") < len(expected) / 2
            ):
                room.node.tick()
                pause.wait(0.02)
            assert room.ask("stop") == (True, "")
            assert (options.run / "saved").is_file()
            (options.run / "saved").unlink()
    finally:
        room.session.stop()
    assert room.told("policy_version") == [1, 1, 2, 2]
    assert room.session.log.read_text().split("\n")[::2][:2] == ["wait, begun", "wait, resumed"]
