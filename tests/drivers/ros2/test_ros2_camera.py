"""A camera in ROS 2: pictures and lens by messages, what a policy sees of it, and why none come."""

import threading

import numpy as np
import pytest

from drivers import ros2_camera
from drivers.cameras import CameraIntrinsics
from drivers.ros2.images import COMPRESSED, IMAGE, INFO, camera_info, compressed_image, raw_image
from drivers.ros2.messages import message
from drivers.ros2.node import SENSOR_DATA
from drivers.ros2_camera import Ros2Camera, Ros2CameraConfig
from robot_rl.errors import ConfigError, DeviceConnectionError, StaleStateError
from tests.drivers.ros2.inprocess import Bus

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
LENS = CameraIntrinsics(10.0, 11.0, 3.5, 2.5, 8, 6)


class Eye:
    """A publisher that answers every subscription with a picture, and its lens."""

    def __init__(self, monkeypatch, picture=None, lens=LENS):
        self.bus, self.picture, self.lens, self.answers = Bus(), picture or raw_image(999.5, "eye", PICTURE), lens, True
        self.node = self.bus.node("eye")
        self.opened = []
        monkeypatch.setattr(ros2_camera, "open_node", self.open_node)
        monkeypatch.setattr(ros2_camera, "FIRST_S", 0.05)
        monkeypatch.setattr("drivers.cameras_stream.RETRY_S", 0.005)

    def open_node(self, name, arguments, transport):
        node = self.bus.node(name, arguments)
        self.opened.append(node)
        listen = node.subscribe

        def subscribe(topic, kind, take, qos):
            listen(topic, kind, take, qos)
            if self.answers:
                self.send(node.resolve(topic), kind)

        node.subscribe = subscribe
        return node

    def send(self, topic, kind):
        if kind != INFO:
            self.node.publisher(topic, kind, SENSOR_DATA).publish(self.picture)
        elif self.lens is not None:
            self.node.publisher(topic, kind, SENSOR_DATA).publish(camera_info(999.5, "eye", self.lens))


@pytest.fixture
def eye(monkeypatch):
    return Eye(monkeypatch)


def config(topic="/front/image_raw", **options):
    return Ros2CameraConfig(topic=topic, **{"frozen_after_s": None, "max_age_s": 1e9, **options})


def test_pictures_and_lens_come_as_they_were_sent(eye):
    with Ros2Camera(config(), now=lambda: 50.0) as camera:
        frame = camera.read()
        np.testing.assert_array_equal(frame.image, PICTURE)
        assert frame.time_s == 50.0
        assert (camera.width, camera.height) == (8, 6)
        assert (camera.intrinsics.fx, camera.intrinsics.cy, camera.intrinsics.distortion) == (10.0, 2.5, (0.0,) * 5)
        assert camera.facts() == {"source": "ROS camera /front/image_raw", "pictures": 1, "restarts": 0}
    assert eye.opened[0].closed


def test_a_lens_bends_with_five_numbers_or_fewer(eye):
    eye.lens = CameraIntrinsics(10.0, 11.0, 3.5, 2.5, 8, 6, (0.1, -0.2))
    with Ros2Camera(config()) as camera:
        assert camera.intrinsics.distortion == (0.1, -0.2, 0.0, 0.0, 0.0)


def test_a_policy_sees_a_part(eye):
    """x from 2 to 6, y from 1 to 5: the principal point moves by as much, and halves with the size (by hand)."""
    with Ros2Camera(config(crop=(2, 1, 4, 4), image_size=2)) as camera:
        assert camera.read().image.shape == (2, 2, 3)
        assert camera.intrinsics.fx == 5.0
        assert camera.intrinsics.cx == pytest.approx((3.5 - 2 + 0.5) / 2 - 0.5)
        np.testing.assert_array_equal(camera.full.read().image, PICTURE)


@pytest.mark.parametrize(
    ("topic", "info"),
    [("/front/image_raw", "/front/camera_info"), ("/front/image_raw/compressed", "/front/camera_info")],
)
def test_the_lens_is_beside_the_pictures(monkeypatch, topic, info):
    """As image_transport has it."""
    picture = compressed_image(999.5, "eye", PICTURE) if topic.endswith("compressed") else None
    eye = Eye(monkeypatch, picture)
    with Ros2Camera(config(topic)) as camera:
        assert camera.intrinsics.fx == 10.0
        assert camera.read().image.shape == PICTURE.shape
    assert eye.bus.senders[info]
    assert {kind for _, kind, _ in eye.bus.senders[topic]} == {COMPRESSED if picture else IMAGE}


def test_in_a_namespace_and_with_a_lens_elsewhere(eye):
    with Ros2Camera(config("front/image_raw", namespace="left", info="lens")) as camera:
        assert camera.intrinsics.fx == 10.0
    assert eye.bus.senders["/left/front/image_raw"]
    assert eye.bus.senders["/left/lens"]


def test_a_lens_given_is_the_lens(eye):
    own = CameraIntrinsics(20.0, 20.0, 3.5, 2.5, 8, 6)
    with Ros2Camera(config(), intrinsics=own) as camera:
        assert camera.intrinsics.fx == 20.0


@pytest.mark.parametrize(
    "lens", [None, CameraIntrinsics(0.0, 0.0, 0.0, 0.0, 8, 6), CameraIntrinsics(10.0, 11.0, 3.5, 2.5, 640, 480)]
)
def test_without_a_lens_of_these_pictures_there_is_none(eye, lens):
    """None is sent; an uncalibrated camera's zeros; one of another size."""
    eye.lens = lens
    with Ros2Camera(config(info="" if lens is None else None)) as camera, pytest.raises(ConfigError):
        _ = camera.intrinsics


def test_no_picture_is_said_with_the_reason(eye):
    eye.answers = False
    with pytest.raises(DeviceConnectionError, match=r"no picture came within 0\.05 s\. Nobody publishes there"):
        Ros2Camera(config())
    eye.node.publisher("/front/image_raw", COMPRESSED, SENSOR_DATA)
    with pytest.raises(DeviceConnectionError, match="/eye publishes there, but"):
        Ros2Camera(config())
    assert all(node.closed for node in eye.opened)


def test_a_picture_that_cannot_be_decoded_is_said_at_once(monkeypatch):
    eye = Eye(monkeypatch, message(IMAGE, height=6, width=8, encoding="16UC1", data=np.zeros(96, np.uint8)))
    with pytest.raises(ConfigError, match="'16UC1'"):
        Ros2Camera(config())
    assert eye.opened[0].closed


def test_the_newest_pictures_are_kept(eye):
    """Nobody waits for the past: of many between two looks the last is seen."""
    with Ros2Camera(config()) as camera:
        for value in range(40):
            eye.picture = raw_image(1000.0 + value, "eye", np.full((6, 8, 3), value, np.uint8))
            eye.send("/front/image_raw", IMAGE)
        pause = threading.Event()
        while camera.read().image[0, 0, 0] != 39:
            pause.wait(0.002)


def test_pictures_that_no_longer_come_are_stale(eye):
    now = [50.0]
    with Ros2Camera(config(max_age_s=0.5), now=lambda: now[0]) as camera:
        now[0] = 50.75
        with pytest.raises(StaleStateError, match=r"0\.750 s old, limit 0\.5 s"):
            camera.read()


def test_a_camera_that_fell_silent_is_listened_to_anew(eye):
    with Ros2Camera(config(restart_after_s=0.01)) as camera:
        pause = threading.Event()
        while camera.facts()["restarts"] < 1:
            pause.wait(0.002)
        assert eye.opened[0].closed
        while camera.facts()["pictures"] < 2:
            pause.wait(0.002)
