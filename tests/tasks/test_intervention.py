"""A person takes over, says what happened, lets go; and what the store then holds is what the arm did."""

import gymnasium as gym
import numpy as np
import pytest

from drivers.teleop import Raw, Shape, TeleopReading
from robot_rl.environments import make
from robot_rl.errors import ConfigError
from robot_rl.rewards.collecting import collect_frames
from robot_rl.rewards.frames import MARK
from tasks.intervention import KEEPS_S, DeviceHand, Intervention
from tests.tasks.presser import Presser

NOTHING = TeleopReading(np.zeros(6), frozenset(), engaged=False, connected=True)


class Device:
    """A device that reads what a test puts in."""

    def __init__(self, frame="tcp"):
        self.frame, self.next = frame, []

    def connect(self):
        pass

    def read(self):
        return self.next.pop(0) if self.next else NOTHING

    def close(self):
        pass


def pushed(*deflection, said=(), engaged=False):
    full = np.zeros(6)
    full[: len(deflection)] = deflection
    return TeleopReading(full, frozenset(said), engaged=engaged, connected=True)


@pytest.fixture
def cell():
    """An environment, the device in a person's hand, and a policy that always pushes along x."""
    env = gym.make("robot_rl/PickCube-v0")
    device = Device()
    inner = env
    while not hasattr(inner, "task"):
        inner = inner.env
    wrapped = Intervention(env, DeviceHand(inner, device))
    wrapped.reset(seed=0)
    yield wrapped, device
    wrapped.close()


POLICY = np.array([0.3, 0, 0, 0, 0, 0, 1.0], np.float32)


def test_untouched_the_policy_drives(cell):
    env, _ = cell
    info = env.step(POLICY)[4]
    assert "source" not in info
    assert "executed_action" not in info


def test_touched_the_person_drives_and_a_moment_longer(cell):
    env, device = cell
    device.next = [pushed(0, 0.5)]
    info = env.step(POLICY)[4]
    np.testing.assert_allclose(info["executed_action"], [0, 0.5, 0, 0, 0, 0, 1.0])
    assert info["source"] == "human"
    sources = [env.step(POLICY)[4].get("source") for _ in range(8)]
    kept = sources.index(None)
    assert (kept - 1) * 0.1 <= KEEPS_S <= (kept + 1) * 0.1
    assert sources == ["human"] * kept + [None] * (8 - kept)


def test_the_base_frame_is_turned_into_the_tools(cell):
    """The tool points down, a half turn about x: what is up and left in the room is down and right for it."""
    env, device = cell
    device.frame = "base"
    device.next = [pushed(0.2, 0.5, 1.0, 0, 0, 0.4)]
    executed = env.step(POLICY)[4]["executed_action"]
    np.testing.assert_allclose(executed[:6], [0.2, -0.5, -1.0, 0, 0, -0.4], atol=0.02)


def test_the_gripper_turns_round_and_stays(cell):
    env, device = cell
    device.next = [pushed(said=["gripper"]), NOTHING, pushed(said=["gripper"]), NOTHING]
    assert [float(env.step(POLICY)[4]["executed_action"][6]) for _ in range(4)] == [-1, -1, 1, 1]


def test_taking_over_keeps_the_gripper_as_the_policy_has_it(cell):
    env, device = cell
    env.step(np.array([0, 0, 0, 0, 0, 0, -1.0], np.float32))
    device.next = [pushed(0.1)]
    assert float(env.step(POLICY)[4]["executed_action"][6]) == -1.0


@pytest.mark.parametrize(
    ("said", "ending", "told"),
    [
        ("success", (1.0, True, False), {"success": True, "label": "success"}),
        ("failure", (0.0, True, False), {"success": False, "label": "failure"}),
        ("rerecord", (0.0, False, True), {"discard": True}),
        ("stop", (0.0, False, True), {"operator_stop": True}),
    ],
)
def test_what_is_said_ends_the_episode(cell, said, ending, told):
    env, device = cell
    device.next = [pushed(said=[said])]
    _, reward, terminated, truncated, info = env.step(POLICY)
    assert (reward, terminated, truncated) == ending
    assert told.items() <= info.items()


def test_paused_it_holds_until_told_to_go_on(cell):
    env, device = cell
    before = env.unwrapped.cell.clock.now()
    device.next = [pushed(said=["pause"]), NOTHING, NOTHING, pushed(said=["pause"])]
    info = env.step(POLICY)[4]
    assert not device.next
    assert "source" not in info
    assert env.unwrapped.cell.clock.now() == pytest.approx(before + 0.1), "no time passes on the twin meanwhile"


def test_stopped_while_paused_it_stops(cell):
    env, device = cell
    device.next = [pushed(said=["pause"]), NOTHING, pushed(said=["stop"])]
    assert env.step(POLICY)[4]["operator_stop"]


def test_a_scripted_hand_helps_a_bad_policy_and_leaves_a_good_one_alone():
    env = make("peg_insert", {"teleop": "script"})
    try:
        rng = np.random.default_rng(0)
        env.reset(seed=0)
        expert = env.unwrapped.expert(rng, 0.05)
        helped = steps = 0
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(expert.act(None))
            helped, steps, over = helped + ("source" in info), steps + 1, terminated or truncated
        assert info["success"]
        assert helped == 0
        env.reset(seed=0)
        sources, over = [], False
        while not over:
            _, _, terminated, truncated, info = env.step(rng.uniform(-1, 1, 6).astype(np.float32))
            sources.append(info.get("source"))
            over = terminated or truncated
        assert info["success"]
        assert 5 < sources.index("human") < 20, "it watches a while, and takes a moment to react"
    finally:
        env.close()


@pytest.mark.parametrize("teleop", ["wheel", {"device": "script", "wit": 3}, {"frame": "tcp"}])
def test_a_hand_that_cannot_be_had_is_said(teleop):
    with pytest.raises(ConfigError, match=r"teleop|device"):
        make("reach", {"teleop": teleop})


def test_raw_and_shape_are_small():
    assert Raw() == Raw((0.0,) * 6, frozenset())
    with pytest.raises(ConfigError, match="expo"):
        Shape(expo=0.0)


def test_a_device_of_ones_own_marks_frames_for_a_reward(tmp_path):
    """In real time: each press begins or ends a marked stretch, and the device's own screen shows what is going on."""
    options = {"image_size": 48, "max_steps": 14}
    where = "tests.tasks.presser:Presser"
    with collect_frames("reach", tmp_path / "frames", episodes=1, device=where, options=options) as store:
        marks = store.read(columns=[MARK])[MARK]
        sources = store.read(columns=["source", "final"])
    assert marks[0] == 0.0
    assert (np.diff(marks) != 0).sum() >= 2, "about a press every five of fourteen steps"
    assert (sources["source"][~sources["final"]] == 1).all()
    assert ("marking success", ["front", "wrist"]) in Presser.shown


def asked(device, until):
    """An environment whose reward is a person's word, with a limit of three steps; `until` says it once it is asked."""
    env = gym.make(
        "robot_rl/PickCube-v0", reward="human", teleop={"device": "script", "patience_steps": 99}, max_steps=3
    )
    inner = env
    while not isinstance(inner, Intervention):
        inner = inner.env
    inner.hand = DeviceHand(env.unwrapped, device)
    looks = []

    def read():
        looks.append(len(looks))
        return pushed(said=[until]) if len(looks) > 12 else NOTHING

    env.reset(seed=0)
    device.read = read
    return env, looks


@pytest.mark.parametrize(
    ("word", "reward", "terminated"), [("success", 1.0, True), ("failure", 0.0, True), ("stop", 0.0, False)]
)
def test_when_time_is_up_the_arm_holds_until_a_person_has_judged(word, reward, terminated):
    env, looks = asked(Device(), word)
    for _ in range(2):
        assert env.step(POLICY)[1:4] == (0.0, False, False)
    _, given, ended, truncated, info = env.step(POLICY)
    assert (given, ended, truncated) == (reward, terminated, not terminated)
    assert info.get("label") == (word if terminated else None)
    assert len(looks) == 13, "it asked again and again"
    assert "oracle_success" in info, "the oracle is heard for scoring"
    env.close()


def test_whoever_wants_to_end_is_not_kept_waiting_for_a_word():
    env, looks = asked(Device(), "success")
    env.step(POLICY)
    env.step(POLICY)
    env.unwrapped.stopping = lambda: len(looks) > 5
    info = env.step(POLICY)[4]
    assert info["operator_stop"]
    env.close()


def test_a_scripted_person_judges_by_what_it_sees():
    """Driven by the expert it says success a moment after the oracle; left to a policy that idles, failure."""
    env = gym.make("robot_rl/PickCube-v0", reward="human", teleop={"device": "script", "patience_steps": 0})
    env.reset(seed=0)
    oracle, over = [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(np.zeros(7, np.float32))
        oracle.append(info["oracle_success"])
        over = terminated or truncated
    assert (reward, terminated, info["label"]) == (1.0, True, "success")
    assert sum(oracle) == 5, "the first, one to see it, three of reaction"
    env.close()
    env = gym.make(
        "robot_rl/PickCube-v0", reward="human", teleop={"device": "script", "patience_steps": 99}, max_steps=5
    )
    env.reset(seed=0)
    for _ in range(5):
        _, reward, terminated, _, info = env.step(np.zeros(7, np.float32))
    assert (reward, terminated, info["label"]) == (0.0, True, "failure")
    env.close()


def test_a_persons_word_is_a_reward_nobody_else_gives():
    with pytest.raises(ConfigError, match="nobody is there"):
        make("pick_cube", {"reward": "human"})
