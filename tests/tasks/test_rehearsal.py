"""Whole episodes by the scripted expert through the vendors' own clients, against emulators that move the same twin.

The same seeds on the plain twin are the yardstick: through pylibfranka in lockstep not only the success but the number
of steps must be the twin's, since nothing between the two may lose or delay anything.
"""

import json

import gymnasium as gym
import numpy as np
import pytest

import tasks  # noqa: F401 (registers the environments)
from robot_rl.cli import main
from robot_rl.errors import DeviceConnectionError, DeviceError, DeviceFaultError

pytestmark = pytest.mark.realtime

IDS = {"reach": "robot_rl/Reach-v0", "peg_insert": "robot_rl/PegInsert-v0"}
FR3 = """
arm:
  driver: {driver}
  host: 172.16.0.2
  max_state_age_s: 2.0
  home: [0.0, -0.041759, 0.0, -2.334272, 0.0, 2.292514, 0.785398]
watchdog: {{hold_after_s: 2.0}}
faults_in_a_row: 2
"""
UR5E = """
arm:
  driver: ur
  host: 192.168.1.10
  max_state_age_s: 2.0
  home: [-0.269864, -1.538540, 1.887982, -1.920238, -1.570796, -1.055262]
watchdog: {hold_after_s: 2.0}
"""


STARVED = ("packets lost", "No new state", "communication_constraints")
"""What a link in real time complains of on a machine that had no time for it: nothing of ours, and no verdict on us."""


def episodes(env, count, starved=0):
    """Success and length of seeded episodes by the script; so many that the machine starved are run anew."""
    outcomes, index = [], -1
    while len(outcomes) < count:
        index += 1
        observation, _ = env.reset(seed=1000 + index)
        expert = env.unwrapped.expert(np.random.default_rng(index), 0.06)
        over, steps, info = False, 0, {}
        while not over:
            observation, _, terminated, truncated, info = env.step(expert.act(observation))
            over, steps = terminated or truncated, steps + 1
        if starved and any(words in info.get("fault", "") for words in STARVED):
            starved -= 1
            continue
        outcomes.append((bool(info["success"]), steps, info.get("fault", "")))
    return outcomes


def on_the_twin(task, count, **options):
    env = gym.make(IDS[task], **options)
    try:
        return episodes(env, count)
    finally:
        env.close()


@pytest.mark.parametrize("task", sorted(IDS))
def test_pylibfranka_in_lockstep_does_what_the_twin_does(task, emulate, cell_file):
    robot = emulate("fr3", task=task, lockstep=True)
    env = gym.make(IDS[task], cell=cell_file(FR3.format(driver="franka")), rehearse=robot.host)
    try:
        outcomes = episodes(env, 12)
    finally:
        env.close()
        robot.stop()
    yardstick = on_the_twin(task, 12)
    assert [success for success, _, _ in outcomes] == [success for success, _, _ in yardstick], outcomes
    assert abs(sum(o[1] for o in outcomes) - sum(y[1] for y in yardstick)) <= 0.1 * sum(y[1] for y in yardstick)


@pytest.mark.parametrize("task", sorted(IDS))
def test_franky_in_real_time_succeeds_as_on_the_twin(task, emulate, cell_file):
    robot = emulate("fr3", task=task)
    env = gym.make(IDS[task], cell=cell_file(FR3.format(driver="franky")), rehearse=robot.host)
    try:
        outcomes = episodes(env, 3, starved=1)
    finally:
        env.close()
        robot.stop()
    assert all(success for success, _, _ in outcomes), outcomes


@pytest.mark.parametrize("task", sorted(IDS))
def test_ur_rtde_succeeds_as_on_the_twin(task, emulate, cell_file):
    robot = emulate("ur5e", task=task, speed=3)
    env = gym.make(IDS[task], cell=cell_file(UR5E), rehearse=robot.host)
    try:
        outcomes = episodes(env, 4, starved=1)
    finally:
        env.close()
        robot.stop()
    assert all(success for success, _, _ in outcomes), outcomes
    assert all(success for success, _, _ in on_the_twin(task, 4, arm="ur5e"))


def test_a_protective_stop_truncates_the_episode_and_the_next_one_recovers(emulate, cell_file):
    robot = emulate("ur5e", task="reach", speed=3)
    env = gym.make(IDS["reach"], cell=cell_file(UR5E), rehearse=robot.host)
    try:
        env.reset(seed=0)
        env.step(np.zeros(6, np.float32))
        with robot.stage() as stage:
            stage.inject("protective_stop")
        _, _, terminated, truncated, info = env.step(np.zeros(6, np.float32))
        assert (terminated, truncated) == (False, True)
        assert "PROTECTIVE_STOP" in info["fault"]
        _, info = env.reset(seed=1)
        assert "PROTECTIVE_STOP" in info["recovered_from"]
        assert episodes(env, 1)[0][0]
    finally:
        env.close()
        robot.stop()


@pytest.fixture(scope="module")
def fr3_reach(emulate):
    return emulate("fr3", task="reach", lockstep=True)


@pytest.fixture
def reach(fr3_reach, cell_file):
    env = gym.make(IDS["reach"], cell=cell_file(FR3.format(driver="franka")), rehearse=fr3_reach.host)
    yield env
    env.close()


def test_a_reflex_truncates_the_episode_and_the_next_one_recovers(fr3_reach, reach):
    reach.reset(seed=0)
    reach.step(np.zeros(6, np.float32))
    with fr3_reach.stage() as stage:
        stage.inject("reflex")
    _, _, terminated, truncated, info = reach.step(np.zeros(6, np.float32))
    assert (terminated, truncated) == (False, True)
    assert "cartesian_reflex" in info["fault"]
    _, info = reach.reset(seed=1)
    assert "cartesian_reflex" in info["recovered_from"]
    assert episodes(reach, 1)[0][0]


def test_recovery_is_bounded(fr3_reach, reach):
    """faults_in_a_row: 2. After the third in a row nothing more is tried."""
    for _ in range(2):
        reach.reset(seed=0)
        with fr3_reach.stage() as stage:
            stage.inject("reflex")
        assert "cartesian_reflex" in reach.step(np.zeros(6, np.float32))[4]["fault"]
    reach.reset(seed=0)
    with fr3_reach.stage() as stage:
        stage.inject("reflex")
    reach.step(np.zeros(6, np.float32))
    with pytest.raises(DeviceFaultError, match="3 episodes in a row"):
        reach.reset(seed=0)


def test_training_goes_on_after_a_fault_and_says_so(fr3_reach, cell_file, tmp_path, monkeypatch):
    """A reflex while training: the episode ends, events.jsonl says why and what became of it, the run completes."""
    from tasks.env import RobotEnv

    step, count = RobotEnv.step, 0

    def step_with_reflex(self, action):
        nonlocal count
        count += 1
        if count == 60:  # the demonstrations take fewer than 30
            with fr3_reach.stage() as stage:
                stage.inject("reflex")
        return step(self, action)

    monkeypatch.setattr(RobotEnv, "step", step_with_reflex)
    run = tmp_path / "run"
    arguments = ["train", "reach", "--cell", cell_file(FR3.format(driver="franka")), "--demos", "3", "--steps", "60"]
    options = [f"env.rehearse={fr3_reach.host}", "bc_updates=50"]
    assert main([*arguments, "--run", str(run), "--no-evaluate", "--set", *options]) == 0
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events][:2] == ["fault", "recovered"]
    assert all("cartesian_reflex" in event["message"] for event in events[:2])


TAGGED = """
arm: {driver: twin}
cameras:
  front: {driver: realsense, serial: "0001"}
  wrist: {driver: realsense, serial: "0002"}
tracker: {driver: tags, camera: front, camera_pose_base: [1, 0, 0.6, 0, 0, 0, 1]}
"""


def test_tags_seen_by_a_virtual_realsense_in_place_of_ground_truth(cell_file):
    """The real SDK, its driver and the tag tracker say where the socket is; the script inserts as by ground truth."""
    env = gym.make(IDS["peg_insert"], cell=cell_file(TAGGED))
    try:
        outcomes = episodes(env, 6)
    finally:
        env.close()
    assert [success for success, _, _ in outcomes] == [success for success, _, _ in on_the_twin("peg_insert", 6)]


def test_pylibfranka_and_realsense_together_with_pictures_in_the_observation(emulate, cell_file):
    robot = emulate("fr3", task="peg_insert", lockstep=True, tags=True)
    text = FR3.format(driver="franka") + TAGGED.replace("arm: {driver: twin}\n", "")
    env = gym.make(IDS["peg_insert"], cell=cell_file(text), rehearse=robot.host, observations="vision")
    try:
        observation, _ = env.reset(seed=0)
        assert {name: picture.shape for name, picture in observation["images"].items()} == {
            "front": (128, 128, 3), "wrist": (128, 128, 3),
        }  # fmt: skip
        assert observation["images"]["front"].std() > 10.0
        assert episodes(env, 2)[1][0]
    finally:
        env.close()
        robot.stop()


@pytest.mark.parametrize(
    ("fail", "mend", "said"),
    [
        (lambda camera: camera.freeze("silent"), lambda camera: camera.thaw(), "0001"),
        (lambda camera: camera.unplug(), lambda camera: camera.replug(), "0001"),
    ],
    ids=["frozen", "unplugged"],
)
def test_a_camera_that_fails_ends_the_episode_and_comes_back(fail, mend, said, cell_file):
    text = TAGGED.replace('serial: "0001"', 'serial: "0001", options: {timeout_s: 0.5}')
    env = gym.make(IDS["peg_insert"], cell=cell_file(text), observations="vision")
    try:
        env.reset(seed=0)
        camera = env.unwrapped.cell.eyes.virtual["front"]
        fail(camera)
        _, _, terminated, truncated, info = env.step(np.zeros(6, np.float32))
        assert (terminated, truncated) == (False, True)
        assert said in info["fault"]
        mend(camera)
        for attempt in range(20):  # the driver looks for an unplugged camera in the background
            try:
                _, info = env.reset(seed=1)
                break
            except DeviceError:
                assert attempt < 19
        assert "recovered_from" in info
        assert episodes(env, 1)[0][0]
    finally:
        env.close()


def test_no_emulator_says_how_to_start_one(cell_file):
    with pytest.raises(DeviceConnectionError, match="robot-rl emulate fr3"):
        gym.make(IDS["reach"], cell=cell_file(FR3.format(driver="franka")), rehearse="127.0.98.7")
