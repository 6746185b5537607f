"""A training session as training_node runs it: its command line, its processes, and what its directory says."""

import json
import sys
import threading
from pathlib import Path

import pytest
import yaml

import robot_rl.preparation
import robot_rl.train_command
from robot_rl import cli
from robot_rl.errors import ConfigError, LinkError, StoreError
from robot_rl.store import EpisodeStore
from tasks.ros2 import training
from tasks.ros2.training import RunReader, Session, SessionOptions
from tests.tasks.ros2.fake_training import add, create

FAKE = Path(__file__).with_name("fake_training.py")
ROOT = Path(__file__).parents[3]


class Understood(Exception):  # noqa: N818 (no error)
    pass


def settings_of(command, monkeypatch):
    """What `robot-rl train` makes of a command line, before it opens any cell."""
    assert command[:4] == [sys.executable, "-m", "robot_rl.cli", "train"]
    seen = []

    def resolve(settings):
        seen.append(settings)
        raise Understood

    monkeypatch.setattr(robot_rl.preparation, "resolve", resolve)
    monkeypatch.setattr("robot_rl.evaluator.check_place", lambda _: None)
    with pytest.raises(Understood):
        cli.main(command[3:])
    return seen[0]


def test_a_session_is_what_its_options_say(tmp_path, monkeypatch):
    options = SessionOptions(
        task="reach", cell="ros:twin", run=tmp_path / "run", rehearse="127.0.0.1", demos="none", preset="serl",
        teleop="ros2", steps=500, settings=("batch_size=32", "agent.critics=3"),
    )  # fmt: skip
    settings = settings_of(options.command(), monkeypatch)
    assert (settings.task, settings.steps, settings.demos, settings.batch_size) == ("reach", 500, "none", 32)
    assert settings.agent.critics == 3
    env = {name: settings.env[name] for name in ("cell", "rehearse", "teleop")}
    assert env == {"cell": "ros:twin", "rehearse": "127.0.0.1", "teleop": "ros2"}


def test_a_session_on_metal_by_a_persons_word(tmp_path, monkeypatch):
    options = SessionOptions(task="reach", cell="ros:cells/lab.yaml", run=tmp_path / "run", reward="human")
    settings = settings_of(options.command(), monkeypatch)
    assert (settings.env["cell"], settings.env["reward"]) == ("ros:cells/lab.yaml", "human")
    assert "rehearse" not in settings.env
    assert "teleop" not in settings.env


@pytest.mark.parametrize(
    ("configured", "wanted", "more"), [(500, 0, None), (500, 500, None), (500, 800, 800), (None, 800, 800)]
)
def test_a_run_that_is_there_is_gone_on_with(tmp_path, monkeypatch, configured, wanted, more):
    (tmp_path / "config.yaml").write_text("" if configured is None else yaml.safe_dump({"steps": configured}))
    command = SessionOptions(task="reach", cell="ros:twin", run=tmp_path, steps=wanted, teleop="ros2").command()
    seen = []

    def resumed(*given):
        seen.append(given)
        raise Understood

    monkeypatch.setattr(robot_rl.train_command, "_resumed", resumed)
    with pytest.raises(Understood):
        cli.main(command[3:])
    assert seen == [(tmp_path, more, None, True)]


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Sessions whose processes are `fake_training.py`, ended with the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    started = []

    def make(*words):
        options = SessionOptions(task="reach", cell="ros:twin", run=tmp_path / "run")
        started.append(Session(options, lambda: [sys.executable, str(FAKE), str(options.run), *words]))
        return started[-1]

    yield make
    for one in started:
        one.stop()


def until(condition):
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


@pytest.mark.realtime
def test_a_session_comes_to_its_end(session):
    one = session("end")
    assert not one.running
    assert not one.check()
    one.start()
    one.start()  # it runs: nothing more is started
    until(lambda: not one.running)
    assert one.check()
    assert one.log.read_text() == "end, begun\n"
    one.stop()
    assert not one.check()


@pytest.mark.realtime
def test_a_session_is_asked_to_end_and_saves(session):
    one = session("wait")
    one.start()
    until(lambda: "waiting" in one.log.read_text())
    assert one.running
    assert not one.check()
    one.stop()
    assert not one.running
    assert (one.options.run / "saved").is_file()


@pytest.mark.realtime
def test_a_session_that_does_not_end_is_killed(session, monkeypatch):
    monkeypatch.setattr(training, "PATIENCE_S", 0.05)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    )
    one = session()
    one._command = lambda: [sys.executable, "-c", code]
    one.start()
    until(lambda: "deaf" in one.log.read_text())
    one.stop()
    assert not one.running


@pytest.mark.realtime
def test_why_it_ended_are_its_own_last_words(session):
    """Not those of a session before, which are in the same log."""
    first = session("fail")
    first.start()
    until(lambda: not first.running)
    with pytest.raises(LinkError, match=r"exit code 2: LinkError: the learner was lost All of it: .*run\.log"):
        first.check()
    first.stop()
    first._command = session("quiet")._command
    first.start()
    until(lambda: not first.running)
    with pytest.raises(LinkError, match="exit code 3: quiet, begun"):
        first.check()


@pytest.mark.realtime
def test_a_session_that_said_nothing(session):
    one = session()
    one._command = lambda: [sys.executable, "-c", "raise SystemExit(7)"]
    one.start()
    until(lambda: not one.running)
    with pytest.raises(LinkError, match="exit code 7: it said nothing"):
        one.check()


def test_a_log_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    one = Session(SessionOptions(task="reach", cell="ros:twin", run=tmp_path / "file" / "run"))
    with pytest.raises(ConfigError, match="Cannot write"):
        one.start()
    assert not one.running


# What the run's directory says


def test_what_comes_is_told_once(tmp_path):
    reader = RunReader(tmp_path)
    assert (reader.news().steps, reader.news().metrics) == ([], [])
    with create(tmp_path) as store:
        add(store, [0.0, 0.25], version=3)
        assert reader.news().steps == [(0.0, False, 3), (0.25, False, 3)]
        assert reader.news().steps == []
        add(store, [1.0], source="human", version=4)
        assert reader.news().steps == [(1.0, True, 4)]


def test_steps_of_an_episode_that_goes_on_are_told_once(tmp_path):
    reader = RunReader(tmp_path)
    told = []
    with create(tmp_path) as store:
        add(store, [0.1, 0.2], over=False)
        told += reader.news().steps
        store.append(action=[0, 0], reward=0.3, terminated=True, truncated=False, next_observation=[0, 0, 0])
        store.commit()
        told += reader.news().steps
    assert [reward for reward, _, _ in told] == pytest.approx([0.1, 0.2, 0.3])


def test_much_is_told_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ROWS_AT_ONCE", 3)
    reader, told = RunReader(tmp_path), []
    with create(tmp_path) as store:
        add(store, [0.0, 1.0, 2.0, 3.0])
        add(store, [4.0])
    while steps := reader.news().steps:
        told += steps
    assert [reward for reward, _, _ in told] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_what_was_there_before_is_no_news(tmp_path):
    with create(tmp_path) as store:
        add(store, [0.0, 0.0])
        (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
        reader = RunReader(tmp_path)
        assert reader.news() == training.Progress([], [])
        add(store, [1.0])
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n{"step": 3}\n')
    assert reader.news() == training.Progress([(1.0, False, 0)], [{"step": 3}])


def test_half_a_line_is_waited_for(tmp_path):
    reader, path = RunReader(tmp_path), tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste')
    assert reader.news().metrics == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2}\n\n')
    assert reader.news().metrics == [{"step": 2}]
    assert reader.news().metrics == []


def test_a_run_that_was_made_anew_is_followed(tmp_path):
    with create(tmp_path) as store:
        add(store, [0.0, 0.0, 0.0])
    reader = RunReader(tmp_path)
    for path in sorted((tmp_path / "episodes").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert reader.news().steps == []
    with create(tmp_path) as store:
        add(store, [1.0])
    assert reader.news().steps == [(1.0, False, 0)]


def test_a_damaged_store_is_no_news(tmp_path, monkeypatch):
    reader = RunReader(tmp_path)
    with create(tmp_path) as store:
        add(store, [1.0])

    def damaged(*_):
        raise StoreError("damaged")

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeStore, "read", damaged)
        assert reader.news().steps == []
    assert reader.news().steps == [(1.0, False, 0)]


def test_what_is_said_is_kept(tmp_path):
    reader = RunReader(tmp_path)
    reader.say("correction", text="höher", by="training_node")
    reader.say("said", word="success")
    first, second = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert first.pop("time") <= second.pop("time")
    assert first == {"event": "correction", "text": "höher", "by": "training_node"}
    assert second == {"event": "said", "word": "success"}


def test_before_the_run_nothing_can_be_kept(tmp_path):
    with pytest.raises(StoreError, match="Has the run begun"):
        RunReader(tmp_path / "absent").say("said", word="pause")
