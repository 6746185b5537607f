"""Recording by hand: what is kept, what is not, what a crash leaves, and the whole command under a page's keys."""

import json
import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
from websockets.sync.client import connect

from drivers.teleop import TeleopReading
from robot_rl.errors import ConfigError
from robot_rl.store import EpisodeStore
from tasks.intervention import DeviceHand, Intervention
from tasks.recording import Recorder
from tests.browser import CHROMIUM, Browser
from tests.rerun_rows import rerun_rows


class Person:
    """Reaches for the marker, after a moment of looking; then says what a test wants said at a step of an episode."""

    frame = "tcp"

    def __init__(self, robot, words=()):
        self.robot, self.words = robot, list(words)
        self.expert = robot.expert(np.random.default_rng(0), 0.02)
        self.looked = 0

    def connect(self):
        pass

    def read(self):
        self.looked += 1
        said = frozenset()
        if self.looked > 4 and self.words:
            word = self.words.pop(0)
            said = frozenset({word} if word else ())
        deflection = self.expert.act(None)[:6].astype(float) if self.looked > 2 else np.zeros(6)
        return TeleopReading(deflection, said, engaged=False, connected=True)

    def close(self):
        pass


class Wall:
    """A screen that remembers."""

    def __init__(self):
        self.states, self.pictures = [], None

    def show(self, status, pictures=None):
        self.pictures = pictures
        if not self.states or self.states[-1] != status["state"]:
            self.states.append(status["state"])


@pytest.fixture
def session(tmp_path):
    """Makes recorders on one environment; closes them in the end."""
    env = gym.make("robot_rl/Reach-v0", render_mode="rgb_array")
    made = []

    def make(words=(), **options):
        person = Person(env.unwrapped, words)
        wrapped = Intervention(env, DeviceHand(env.unwrapped, person))
        made.append(Recorder(wrapped, person, tmp_path / "demos", Wall(), metadata={"task": "reach"}, **options))
        return made[-1]

    yield make
    for recorder in made:
        recorder.close()
    env.close()


def test_what_succeeds_is_kept_as_a_persons(session, tmp_path):
    recorder = session()
    summary = recorder.record(3)
    assert (summary.kept, summary.outcomes) == (3, {"success": 3})
    assert recorder._screen.states[:4] == ["resetting", "ready", "recording", "success"]
    assert recorder._screen.pictures["front"].shape == (128, 128, 3)
    recorder.close()
    store = EpisodeStore.open(tmp_path / "demos")
    assert [r.success for r in store.episode_table()] == [True] * 3
    assert all(set(r.sources) == {"human"} for r in store.episode_table())
    assert store.metadata["task"] == "reach"
    assert not (tmp_path / "demos.current").exists()
    assert len(summary.periods_s) == summary.steps == sum(r.length for r in store.episode_table())
    assert "3 episodes kept" in str(summary)
    assert "camera front" in str(summary)


def test_what_is_said_decides(session, tmp_path):
    """Record again, fail, then succeed twice: two are kept, and with the failures three."""
    recorder = session(["rerecord", "", "", "", "failure"])
    summary = recorder.record(2)
    assert summary.outcomes == {"recorded again": 1, "failure": 1, "success": 2}
    assert EpisodeStore.open(tmp_path / "demos").episodes == 2
    recorder.close()
    keeping = session(["failure"], keep_failures=True)
    keeping.record(3)
    keeping.close()
    assert [r.success for r in EpisodeStore.open(tmp_path / "demos").episode_table()] == [True, True, False]


def test_a_session_is_gone_on_with(session, tmp_path):
    first = session()
    first.record(1)
    first.close()
    second = session()
    assert second.record(2).kept == 2
    assert second.summary.outcomes == {"success": 1}
    actions = [second.store.read(r.start, r.stop, ["action"])["action"] for r in second.store.episode_table()]
    assert not np.array_equal(actions[0], actions[1]), "another start, not the first one again"
    first_states = [second.store.read(r.start, r.start + 1)["observation/state"] for r in second.store.episode_table()]
    assert not np.array_equal(*first_states)


def test_stopped_in_an_episode_it_is_not_kept(session, tmp_path):
    recorder = session(["", "", "stop"])
    summary = recorder.record(5)
    assert (summary.kept, summary.outcomes) == (0, {"stopped": 1})


@pytest.fixture
def running(tmp_path):
    """`robot-rl record` as a process, and its page's address."""
    started = []

    def start(*options, device="page", frame="tcp"):
        process = subprocess.Popen(
            [sys.executable, "-m", "robot_rl.cli", "record", "reach", "--device", device, "--port", "0", "--out",
             str(tmp_path / "demos"), "--frame", frame, *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        address = ""
        while not address:
            line = process.stdout.readline()
            assert line, "it ended before it listened"
            address = line.split()[1] if line.startswith("Live:") else ""
        return process, address

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def talk(address):
    return connect(address.replace("http", "ws") + "/talk", additional_headers={"Origin": address})


def tell(socket, keys=(), clicks=()):
    socket.send(json.dumps({"keys": list(keys), "clicks": list(clicks)}))


def until_state(socket, *states, keys=(), seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tell(socket, keys)
        status = json.loads(socket.recv(timeout=seconds))
        if status.get("state") in states:
            return status
    raise AssertionError(f"never {states}")


def test_from_a_page_to_a_store(running, tmp_path):
    """Keys held in a page move the twin's arm in real time; a click says that it succeeded."""
    process, address = running("--episodes", "1")
    with talk(address) as socket:
        status = until_state(socket, "ready")
        assert status["cameras"] == ["front", "wrist"]
        assert status["episodes"] == 1
        until_state(socket, "recording", keys=["s"])
        for _ in range(10):
            tell(socket, ["s", "r"])
            status = json.loads(socket.recv(timeout=10))
        assert 1 <= status["step"] <= 20
        tell(socket, clicks=["success"])
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    assert "1 episodes kept" in said
    (record,) = EpisodeStore.open(tmp_path / "demos").episode_table()
    assert record.success
    actions = EpisodeStore.open(tmp_path / "demos").read(record.start, record.stop - 1, ["action"])["action"]
    assert actions[:, 0].min() < -0.8, "back, as the key says"


def test_led_by_another_arm_into_a_store(running, tmp_path):
    """A third party's arm sways 6 cm along y in a process of its own; the recorded arm does, as far, beside a page."""
    (tmp_path / "left.yaml").write_text("arm: {driver: 'tests.drivers.led_arm:LedArm', max_state_age_s: 5.0}")
    device = f"leader:{tmp_path / 'left.yaml'},rest_s=2.0+page"
    process, address = running(
        "--episodes", "1", "--set", "max_steps=100", "reward=external", device=device, frame="base"
    )
    with talk(address) as socket:
        until_state(socket, "recording")
        while json.loads(socket.recv(timeout=60)).get("step", 0) < 60:  # 1.5 times to and fro
            pass
        tell(socket, clicks=["success"])
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    (record,) = EpisodeStore.open(tmp_path / "demos").episode_table()
    assert set(record.sources) == {"human"}
    states = EpisodeStore.open(tmp_path / "demos").read(record.start, record.stop)["observation/state"]
    x, y, z = states[:, 7:10].T  # relative to the start pose, whose tool points down: y is -y of base
    assert np.ptp(y) == pytest.approx(0.06, abs=0.006)
    assert max(np.ptp(x), np.ptp(z)) < 0.006


def test_what_is_recorded_goes_to_rerun_too(running, tmp_path):
    """Each step, and what the cameras saw, at the time the store has of it."""
    process, address = running("--episodes", "1", "--rerun-file", str(tmp_path / "live.rrd"))
    with talk(address) as socket:
        until_state(socket, "recording", keys=["s"])
        for _ in range(8):
            tell(socket, ["s"])
            socket.recv(timeout=10)
        tell(socket, clicks=["success"])
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    rows = EpisodeStore.open(tmp_path / "demos").read()
    logged = rerun_rows(tmp_path / "live.rrd")
    times_ns, actions = logged["/action"]
    np.testing.assert_allclose(times_ns / 1e9, rows["time"][:-1], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(actions, rows["action"][:-1])
    np.testing.assert_array_equal(logged["/state/wrench_tcp"][1], rows["observation/state"][:-1, 1:7])
    assert len(logged["/cameras/front"][0]) == len(logged["/cameras/wrist"][0]) == len(actions)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: sudo apt-get install chromium")
def test_from_a_real_browser(running, tmp_path):
    """A key held down in Chromium drives the arm; a click on the page's own button ends the episode."""
    process, address = running("--episodes", "1")
    browser = Browser()
    try:
        browser.open(address)
        browser.until("$('state').textContent === 'ready'", 60)
        browser.until("document.images.length === 2 && [...document.images].every(i => i.complete && i.naturalWidth)")
        assert browser.evaluate("$('link').textContent") == "connected"
        browser.key("down", "w")
        browser.until("$('state').textContent === 'recording'")
        browser.until("parseInt($('step').textContent.slice(5)) >= 5")
        browser.screenshot(tmp_path / "recording.png")
        browser.key("up", "w")
        browser.evaluate("document.querySelector('button[data-say=success]').click()")
        said = process.communicate(timeout=60)[0]
        assert browser.errors == []
    finally:
        browser.close()
    assert "1 episodes kept" in said
    (record,) = EpisodeStore.open(tmp_path / "demos").episode_table()
    assert record.success


def test_killed_in_an_episode_every_step_is_there(running, tmp_path):
    process, address = running()
    with talk(address) as socket:
        until_state(socket, "recording", keys=["d"])
        steps = 0
        while steps < 12:
            tell(socket, ["d"])
            steps = json.loads(socket.recv(timeout=10))["step"]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    process, address = running("--episodes", "1")
    with talk(address) as socket:
        until_state(socket, "ready")
        left = EpisodeStore.open(tmp_path / "demos.unfinished-1")
        assert sum(r.length for r in left.episode_table()) >= steps
        tell(socket, clicks=["stop"])
        said = process.communicate(timeout=60)[0]
    assert "unfinished-1" in said
    assert "robot-rl store merge" in said


def test_another_sites_page_must_not_move_the_arm(running):
    from websockets.exceptions import InvalidStatus

    _, address = running()
    with pytest.raises(InvalidStatus):
        connect(address.replace("http", "ws") + "/talk", additional_headers={"Origin": "http://evil.example"})


def test_nothing_to_record_is_said():
    from tasks.teleop_commands import record

    with pytest.raises(ConfigError, match="at least 1"):
        record("reach", episodes=0)


def test_what_was_recorded_is_executed_again(tmp_path, capsys):
    """The same seed on the twin: the same path; the next one: another start, and it says how far away."""
    from robot_rl import cli

    store = str(tmp_path / "demos")
    assert cli.main(["demo", "reach", "--episodes", "2", "--out", store, "--seed", "5"]) == 0
    capsys.readouterr()
    assert cli.main(["replay", store, "--episode", "1", "--seed", "6"]) == 0
    assert "strayed 0.0 mm at most" in capsys.readouterr().out
    assert cli.main(["replay", store, "--episode", "1", "--seed", "5"]) == 0
    assert "strayed 0.0 mm at most" not in capsys.readouterr().out
    assert cli.main(["replay", store, "--episode", "7"]) == 2
    assert "episodes 0 to 1" in capsys.readouterr().err


def test_a_persons_steps_replay_to_the_same_path():
    """What the store holds is what was executed: a policy that a hand took over from, and the same actions alone."""
    from robot_rl.environments import make

    rng = np.random.default_rng(0)
    env = make("peg_insert", {"teleop": "script"})
    first, _ = env.reset(seed=3)
    executed, seen, sources, over = [], [first["state"]], [], False
    while not over:
        proposed = np.clip(rng.normal(0, 0.4, 6), -1, 1).astype(np.float32)
        observation, _, terminated, truncated, info = env.step(proposed)
        executed.append(info.get("executed_action", proposed))
        sources.append(info.get("source", "policy"))
        seen.append(observation["state"])
        over = terminated or truncated
    env.close()
    assert {"policy", "human"} == set(sources)
    alone = make("peg_insert")
    again, _ = alone.reset(seed=3)
    np.testing.assert_array_equal(again["state"], seen[0])
    for action, then in zip(executed, seen[1:], strict=True):
        np.testing.assert_array_equal(alone.step(action)[0]["state"], then)
    alone.close()
