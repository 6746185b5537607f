"""A second twin, pushed by a hand, leads the arm of a task: how closely it follows, and when it is let go of."""

import gymnasium as gym
import numpy as np
import pytest

from drivers.teleop import TeleopDevice, TeleopReading, TeleopSet
from drivers.teleop.leader import Leader
from drivers.twin.devices import TwinClock
from robot_rl.environments import make
from robot_rl.errors import ConfigError
from robot_rl.geometry import (
    compose,
    invert,
    quat_conjugate,
    quat_from_rotvec,
    quat_multiply,
    quat_rotate,
    rotvec_from_quat,
)
from tasks.intervention import KEEPS_S, DeviceHand, Intervention

pytestmark = pytest.mark.realtime

POLLS = 10  # of 10 ms in an environment step of 0.1 s


class InStep(TeleopDevice):
    """The leader's time passes with the environment's: no thread."""

    def connect(self):
        self.source.open()
        self._shared.connected = True

    def read(self):
        for _ in range(POLLS):
            self.push()
            self._shared.raw = self.source.poll()
        return super().read()

    def push(self):
        """By nobody."""

    def close(self):
        self.source.close()


class Words:
    """A device to say things with."""

    frame, words = "base", ()

    def connect(self):
        pass

    def read(self):
        said = frozenset({self.words.pop(0)} - {""}) if self.words else frozenset()
        return TeleopReading(np.zeros(6), said, engaged=False, connected=True)

    def close(self):
        pass


class Hand:
    """Pulls a twin's tool by a spring of 800 N/m, as an arm does, along a smooth way, and lets go a second later."""

    def __init__(self, twin, way, turn, seconds):
        self.twin, self.way, self.turn, self.seconds = twin, np.array(way), np.array(turn), seconds
        self.start, self.begun_s, self.body = twin.tcp_pose.copy(), twin.data.time, twin.model.body("tool/hand").id

    def __call__(self):
        twin, elapsed = self.twin, self.twin.data.time - self.begun_s
        if elapsed > self.seconds + 1.0:
            twin.data.xfrc_applied[self.body] = 0.0
            return
        part = min(elapsed / self.seconds, 1.0)
        part = part**3 * (10.0 - 15.0 * part + 6.0 * part**2)
        twist = twin.jacobian @ twin.qd
        force = 800.0 * (self.start[:3] + part * self.way - twin.tcp_pose[:3]) - 40.0 * twist[:3]
        turned = quat_multiply(quat_from_rotvec(part * self.turn), self.start[3:])
        torque = 20.0 * rotvec_from_quat(quat_multiply(turned, quat_conjugate(twin.tcp_pose[3:]))) - 2.0 * twist[3:]
        lever = np.cross(twin.tcp_pose[:3] - twin.data.xipos[self.body], force)
        twin.data.xfrc_applied[self.body] = np.concatenate([force, torque + lever])


@pytest.fixture
def station(tmp_path, monkeypatch):
    """Opens an environment whose hand is a pushed leader; gives environment, device and the leader's twin."""
    monkeypatch.setattr(TwinClock, "_pace", lambda *_: None)
    opened = []

    def start(task="Reach", model="fr3", frame="base", beside=()):
        path = tmp_path / "left.yaml"
        path.write_text(f"arm: {{driver: twin, model: {model}}}")
        device = InStep(Leader(str(path)), frame=frame)
        env = gym.make(f"robot_rl/{task}-v0", reward="external")
        together = TeleopSet([device, *beside]) if beside else device
        opened.append(Intervention(env, DeviceHand(env.unwrapped, together)))
        opened[-1].reset(seed=0)
        return opened[-1], device, device.source.cell.twin

    yield start
    for env in opened:
        env.close()


def moved(frame, before, after):
    """How far a tool has gone [m] and turned [rad], in `frame`, shape (6,)."""
    if frame == "tcp":
        by = compose(invert(before), after)
        return np.concatenate([by[:3], rotvec_from_quat(by[3:])])
    turn = quat_multiply(after[3:], quat_conjugate(before[3:]))
    return np.concatenate([after[:3] - before[:3], rotvec_from_quat(turn)])


def idle(env):
    action = np.zeros(env.action_space.shape, np.float32)
    action[6:] = 1.0
    return action


@pytest.mark.parametrize(("model", "frame"), [("fr3", "base"), ("ur5e", "tcp")])
def test_the_follower_goes_where_the_leader_is_led(station, model, frame):
    """11 cm and 0.4 rad in 2 s, at up to 0.1 m/s: within 5 mm on the way and 2 mm, 0.01 rad in the end."""
    env, device, twin = station(model=model, frame=frame)
    arm = env.unwrapped.arm
    leader, follower = twin.tcp_pose.copy(), arm.state().tcp_pose
    for _ in range(5):
        assert "source" not in env.step(idle(env))[4]
    device.push = Hand(twin, (0.0, 0.1, 0.05), (0.0, 0.0, 0.4), 2.0)
    apart, sources = [], []
    for _ in range(45):
        sources.append(env.step(idle(env))[4].get("source", "policy"))
        apart.append(moved(frame, leader, twin.tcp_pose) - moved(frame, follower, arm.state().tcp_pose))
    apart = np.array(apart)
    assert np.linalg.norm(moved(frame, leader, twin.tcp_pose)[:3]) == pytest.approx(0.112, abs=0.002)
    assert np.linalg.norm(apart[:, :3], axis=1).max() < 0.005
    assert np.linalg.norm(apart[-1, :3]) < 0.002
    assert np.abs(apart[-1, 3:]).max() < 0.01
    first = sources.index("human")
    last = len(sources) - sources[::-1].index("human")
    assert set(sources[first:last]) == {"human"}
    assert (first, sources[-1]) == (pytest.approx(3, abs=3), "policy")
    assert last < 45 - 1, "let go: the policy has it"


def test_what_is_executed_is_what_the_action_says(station):
    """A leader far ahead: the action points from where the follower is to where it is led, and no part is above 1."""
    env, device, twin = station(task="PegInsert", frame="base")
    arm = env.unwrapped.arm
    leader, follower = twin.tcp_pose.copy(), arm.state().tcp_pose
    device.push, far = Hand(twin, (0.0, 0.2, 0.1), (0.0, 0.0, 0.0), 0.5), 0
    for _ in range(12):
        before = arm.state().tcp_pose
        action = env.step(idle(env))[4].get("executed_action", idle(env))
        to_go = (twin.tcp_pose - leader)[:3] - (before - follower)[:3]
        if np.linalg.norm(to_go) > 0.08:
            far += 1
            wanted = quat_rotate(quat_conjugate(before[3:]), to_go)
            np.testing.assert_allclose(action[:3], wanted / np.abs(wanted).max(), atol=0.1)
        assert np.abs(action).max() <= 1.0
    assert far > 3


def test_its_gripper_closes_the_followers(station):
    env, device, _ = station(task="PickCube")
    cell, robot = device.source.cell, env.unwrapped
    cell.gripper.command(0.08)  # it lay there closed; to open it asks for nothing that is not so
    assert "source" not in [env.step(idle(env))[4] for _ in range(20)][-1]
    cell.gripper.command(0.0)
    infos = [env.step(idle(env))[4] for _ in range(6)]
    assert any(info.get("executed_action", idle(env))[6] == -1.0 for info in infos)
    assert robot.gripper_closed
    device.push = Hand(device.source.cell.twin, (0.0, 0.03, 0.0), (0.0, 0.0, 0.0), 1.0)
    infos = [env.step(idle(env))[4] for _ in range(25)]
    assert robot.gripper_closed is False, "the policy, which had the arm in between, has opened it"
    assert all(info["executed_action"][6] == 1.0 for info in infos[-5:] if "source" in info)


def test_moved_while_paused_it_is_taken_up_where_it_lies_then(station):
    words = Words()
    env, device, twin = station(beside=[words])
    before = env.unwrapped.arm.state().tcp_pose
    device.push = Hand(twin, (0.0, 0.1, 0.0), (0.0, 0.0, 0.0), 0.5)
    words.words = ["pause", *[""] * 20, "pause"]
    env.step(idle(env))
    assert twin.tcp_pose[1] - device.push.start[1] > 0.09
    for _ in range(10):
        env.step(idle(env))
    np.testing.assert_allclose(env.unwrapped.arm.state().tcp_pose[:3], before[:3], atol=2e-3)


def test_a_leader_that_dies_while_it_leads_lets_go(station):
    env, device, twin = station()
    device.push = Hand(twin, (0.0, 0.1, 0.0), (0.0, 0.0, 0.0), 2.0)
    for _ in range(10):
        info = env.step(idle(env))[4]
    assert info["source"] == "human"
    device._lose("the cable")
    device.read = lambda: TeleopDevice.read(device)
    at = env.unwrapped.arm.state().tcp_pose
    infos = [env.step(idle(env))[4] for _ in range(round(KEEPS_S / 0.1) + 3)]
    assert "source" not in infos[-1]
    np.testing.assert_allclose(env.unwrapped.arm.state().tcp_pose[:3], at[:3], atol=5e-3)


def test_an_arm_does_not_lead_itself(tmp_path, emulate):
    """Said before the leader is reached: the arm is one program's already."""
    robot = emulate("fr3", task="reach", lockstep=True)
    path = tmp_path / "lab.yaml"
    path.write_text("arm: {driver: franka, host: 172.16.0.2}")
    hand = {"device": f"leader:{path}", "options": {"rehearse": robot.host}}
    with pytest.raises(ConfigError, match=f"are the same \\({robot.host}\\)"):
        make("reach", {"cell": str(path), "rehearse": robot.host, "teleop": hand})
