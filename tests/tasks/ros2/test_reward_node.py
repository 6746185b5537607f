"""reward_node: what it says of a picture is what its classifier says of it."""

import logging
import threading

import gymnasium as gym
import numpy as np
import pytest

from drivers.interfaces import Frame
from drivers.ros2.arguments import checked
from drivers.ros2.images import raw_image
from drivers.ros2.node import SENSOR_DATA
from robot_rl.errors import ConfigError, DeviceTimeoutError, StaleStateError, StoreError
from robot_rl.rewards import SuccessClassifier
from robot_rl.rewards.frames import Frames
from robot_rl.vision.config import VisionConfig
from tasks.ros2.reward_node import PARAMETERS, RewardNode
from tests.drivers.ros2.inprocess import Bus

SIZE, EPISODES, LENGTH = 32, 4, 4
PICTURE = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
SPACE = gym.spaces.Dict(
    {
        "images": gym.spaces.Dict({"front": PICTURE, "wrist": PICTURE}),
        "state": gym.spaces.Box(-np.inf, np.inf, (5,), np.float32),
    }
)


def pictures(success, seed):
    """Noise; with success a bright square in the middle of what the front camera sees."""
    rng = np.random.default_rng(seed)
    front, wrist = rng.integers(0, 60, (2, SIZE, SIZE, 3), np.uint8)
    if success:
        front[8:24, 8:24] = 250
    return {"front": front, "wrist": wrist}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny classifier on disk, as `robot-rl reward train` saves it, and itself."""
    count = EPISODES * LENGTH
    success = np.arange(count) % LENGTH == LENGTH - 1
    seen = [pictures(success[i], i) for i in range(count)]
    whole = {f"observation/images/{name}": np.stack([one[name] for one in seen]) for name in ("front", "wrist")}
    episode = np.repeat(np.arange(EPISODES), LENGTH)
    frames = Frames(whole, success, episode, [f"frame {i}" for i in range(count)], success.astype(np.int64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robot_rl.rewards.classifier.UPDATES", 30)
        one = SuccessClassifier(SPACE, VisionConfig(shifts=1), 0, "reach")
        one.fit(frames, 0.02)
    path = tmp_path_factory.mktemp("reward") / "reach"
    one.save(path, {})
    return path, one


class FakeCamera:
    width = height = SIZE

    def __init__(self, name):
        self.name, self.picture, self.closed, self.trouble = name, None, False, None

    def read(self):
        if self.trouble is not None:
            raise self.trouble
        return Frame(0.0, self.picture[self.name])

    def close(self):
        self.closed = True


class Room:
    def __init__(self, path, cameras=True, **values):
        self.bus = Bus()
        self.cameras = {name: FakeCamera(name) for name in ("wrist", "front")} if cameras else None
        self.node = RewardNode(
            self.bus.node("reward"), checked(PARAMETERS, {"reward": str(path), **values}), self.cameras
        )

    def look(self, picture):
        for camera in self.cameras.values():
            camera.picture = picture
        self.node.tick()
        return self.told("probability")[-1], self.told("success")[-1]

    def told(self, name):
        return [one.data for one in self.bus.heard[f"/reward/{name}"]]


@pytest.mark.parametrize("success", [False, True])
def test_it_says_what_the_classifier_says(trained, success):
    path, classifier = trained
    seen = pictures(success, 100)
    probability, verdict = Room(path).look(seen)
    said = classifier.probability({"images": seen, "state": np.ones(5, np.float32)})
    assert probability == pytest.approx(said, abs=1e-6)
    assert verdict == (said >= classifier.threshold)


def test_it_tells_success_from_the_rest(trained):
    room = Room(trained[0])
    other, success = (np.mean([room.look(pictures(is_one, 200 + i))[0] for i in range(5)]) for is_one in (False, True))
    assert success > other


def test_the_verdict_is_by_the_threshold(trained):
    room = Room(trained[0])
    for threshold, verdict in ((0.0, True), (1.1, False)):
        room.node._classifier.threshold = threshold
        assert room.look(pictures(True, 1))[1] is verdict


def test_it_runs_until_it_is_ended_and_says_trouble_once(trained, caplog):
    room, ended, looked = Room(trained[0], rate_hz=60.0), threading.Event(), []
    troubles = [StaleStateError("0.6 s old"), StaleStateError("0.7 s old"), DeviceTimeoutError("none"), None, None,
                StaleStateError("0.8 s old")]  # fmt: skip
    tick = room.node.tick

    def next_tick():
        if len(looked) == len(troubles):
            return ended.set()
        room.cameras["front"].trouble = troubles[len(looked)]
        looked.append(1)
        for camera in room.cameras.values():
            camera.picture = pictures(False, 3)
        return tick()

    room.node.tick = next_tick
    room.node.run(ended)
    assert len(room.told("probability")) == 2
    told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert told == ["0.6 s old", "none", "0.8 s old"]
    assert all(camera.closed for camera in room.cameras.values())


class Eye:
    """Publishes a picture to whoever listens to one of its topics."""

    def __init__(self, bus, picture):
        self.bus, self.node, self.picture, self.topics = bus, bus.node("eye"), picture, []

    def open_node(self, name, arguments, transport):
        node = self.bus.node(name, arguments)
        listen = node.subscribe

        def subscribe(topic, kind, take, qos):
            listen(topic, kind, take, qos)
            self.topics.append(node.resolve(topic))
            if not topic.endswith("camera_info"):
                self.node.publisher(topic, kind, SENSOR_DATA).publish(raw_image(999.0, "eye", self.picture))

        node.subscribe = subscribe
        return node


def test_it_looks_through_the_cameras_of_the_reward(trained, monkeypatch):
    """The middle square of what they send, in the size the reward was trained on."""
    bus = Bus()
    eye = Eye(bus, np.full((64, 96, 3), 100, np.uint8))
    monkeypatch.setattr("drivers.ros2_camera.open_node", eye.open_node)
    values = checked(PARAMETERS, {"reward": str(trained[0]), "topics": ["wrist=/hand/image"]})
    node = RewardNode(bus.node("reward"), values)
    try:
        node.tick()
    finally:
        for camera in node._cameras.values():
            camera.close()
    assert set(eye.topics) >= {"/front/image_raw", "/hand/image"}
    flat = np.full((SIZE, SIZE, 3), 100, np.uint8)
    said = trained[1].probability({"images": {"front": flat, "wrist": flat}, "state": np.zeros(5, np.float32)})
    assert bus.heard["/reward/probability"][0].data == pytest.approx(said, abs=1e-6)


def test_what_is_asked_for_wrongly_is_said(trained, tmp_path):
    with pytest.raises(ConfigError, match="needs a reward: -p reward:=DIRECTORY"):
        Room("")
    with pytest.raises(ConfigError, match="looks through front, wrist, not side"):
        Room(trained[0], topics=["side=/side/image_raw"])
    with pytest.raises(StoreError):
        Room(tmp_path)
