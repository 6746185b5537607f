"""A camera as topics: nothing without a listener, all that is listened to, and a camera that is lost and found."""

import logging
import threading

import numpy as np
import pytest

from drivers.cameras import CameraIntrinsics
from drivers.interfaces import Frame
from drivers.ros2 import cameras
from drivers.ros2.cameras import CameraPublisher, StageCamera
from drivers.ros2.images import COMPRESSED, IMAGE, INFO, decode_image
from drivers.ros2.messages import seconds
from drivers.ros2.node import SENSOR_DATA
from robot_rl.errors import ConfigError, DeviceConnectionError, StaleStateError
from tests.drivers.ros2.inprocess import Bus

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
LENS = CameraIntrinsics(10.0, 11.0, 3.5, 2.5, 8, 6)


class FakeCamera:
    """Gives a picture a read, each 0.1 s after the one before."""

    width, height = 8, 6

    def __init__(self, intrinsics=LENS):
        self._intrinsics, self.reads, self.closed, self.trouble, self.still = intrinsics, 0, False, None, False

    @property
    def intrinsics(self):
        if self._intrinsics is None:
            raise ConfigError("nobody calibrated it")
        return self._intrinsics

    def read(self):
        assert not self.closed
        if self.trouble is not None:
            raise self.trouble
        self.reads += not self.still
        return Frame(0.1 * self.reads, PICTURE)

    def close(self):
        self.closed = True


class Room:
    def __init__(self, camera, **options):
        self.bus, self.camera, self.opened, self.came = Bus(), camera, 0, []
        self.viewer = self.bus.node("viewer")
        self.publisher = CameraPublisher(self.bus.node("cameras"), "front", self.open, now=lambda: 0.75, **options)

    def open(self):
        self.opened += 1
        return self.camera

    def listen(self, topic, kind):
        self.viewer.subscribe(topic, kind, lambda content: self.came.append((topic, content)), SENSOR_DATA)


RAW, SMALL, FACTS = "front/image_raw", "front/image_raw/compressed", "front/camera_info"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(cameras, "IDLE_S", 0.001)
    monkeypatch.setattr(cameras, "REOPEN_S", 0.0)


@pytest.mark.parametrize(("topic", "kind"), [(RAW, IMAGE), (SMALL, COMPRESSED), (FACTS, INFO)])
def test_what_is_listened_to_is_sent(topic, kind):
    room = Room(FakeCamera())
    room.listen(topic, kind)
    room.publisher.send(room.camera)
    assert {name for name, _ in room.came} == {topic}
    assert len(room.bus.heard["/front/image_raw"]) == (topic == RAW)
    assert len(room.bus.heard["/front/image_raw/compressed"]) == (topic == SMALL)
    header = room.came[0][1].header
    assert header.frame_id == "front_optical_frame"


def test_pictures_are_stamped_when_they_were_taken():
    """Taken at 0.1 s on the camera's clock, which reads 0.75 s now; the bus's reads 1000 s (by hand: 999.35)."""
    room = Room(FakeCamera(), frame="eye")
    room.listen(RAW, IMAGE)
    room.listen(FACTS, INFO)
    room.publisher.send(room.camera)
    (_, picture), (_, facts) = room.came
    assert seconds(picture.header.stamp) == pytest.approx(999.35)
    assert picture.header.stamp == facts.header.stamp
    assert picture.header.frame_id == facts.header.frame_id == "eye"
    np.testing.assert_array_equal(decode_image(picture), PICTURE)
    assert (facts.k[0], facts.k[4]) == (10.0, 11.0)


def test_a_picture_is_sent_once():
    room = Room(FakeCamera())
    room.listen(RAW, IMAGE)
    room.publisher.send(room.camera)
    room.camera.still = True
    room.publisher.send(room.camera)
    assert (len(room.came), room.publisher.sent) == (1, 1)


@pytest.mark.parametrize("camera", [FakeCamera(intrinsics=None), type("Plain", (FakeCamera,), {"intrinsics": None})()])
def test_a_camera_that_nobody_calibrated_has_no_info(camera):
    room = Room(camera)
    room.listen(RAW, IMAGE)
    room.listen(FACTS, INFO)
    room.publisher.send(room.camera)
    assert [name for name, _ in room.came] == [RAW]


@pytest.mark.parametrize("fps", [0.0, 241.0, float("nan")])
def test_a_rate_that_is_none(fps):
    with pytest.raises(ConfigError, match=r"between 0\.1 and 240"):
        Room(FakeCamera(), fps=fps)


class Runs:
    """A publisher's thread, looked at by what it does."""

    def __init__(self, room):
        self.ended = threading.Event()
        self.thread = threading.Thread(target=room.publisher.run, args=(self.ended,))
        self.room = room

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.room.viewer.close()
        self.thread.join(30.0)
        assert not self.thread.is_alive()

    def until(self, condition):
        pause = threading.Event()
        while not condition():
            assert self.thread.is_alive()
            pause.wait(0.002)


def test_without_a_listener_nothing_is_read():
    room = Room(FakeCamera(), fps=240.0)
    with Runs(room) as runs:
        runs.until(lambda: room.opened)
        threading.Event().wait(0.02)
        assert room.camera.reads == 0
        room.listen(RAW, IMAGE)
        runs.until(lambda: len(room.came) > 3)
    assert room.camera.closed


def test_a_lost_camera_is_told_once_and_opened_again(caplog):
    room = Room(FakeCamera(), fps=240.0)
    room.listen(RAW, IMAGE)
    lost, found, attempts = room.camera, FakeCamera(), []

    def reopen():
        attempts.append(1)
        if len(attempts) < 5:
            raise DeviceConnectionError(f"not there, attempt {len(attempts)}")
        return found

    with Runs(room) as runs:
        runs.until(lambda: room.came)
        room.publisher._open = reopen
        lost.trouble = DeviceConnectionError("unplugged")
        runs.until(lambda: found.reads)
        runs.until(lambda: not room.publisher.trouble)
    assert lost.closed
    assert len(attempts) == 5
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == ["Camera front: unplugged"]


def test_a_late_camera_is_told_once_and_kept(caplog):
    room = Room(FakeCamera(), fps=240.0)
    room.listen(RAW, IMAGE)
    reads = []

    def read():
        reads.append(1)
        raise StaleStateError(f"the picture is {len(reads)} s old")

    room.camera.read = read
    with Runs(room) as runs:
        runs.until(lambda: len(reads) > 5)
        assert room.publisher.trouble.endswith("s old")
    assert room.opened == 1
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == ["Camera front: the picture is 1 s old"]


def test_asked_to_end_it_goes_on_until_nobody_looks():
    room = Room(FakeCamera(), fps=240.0)
    room.listen(RAW, IMAGE)
    with Runs(room) as runs:
        runs.until(lambda: room.came)
        runs.ended.set()
        seen = len(room.came)
        runs.until(lambda: len(room.came) > seen + 3)
        room.viewer.close()
        runs.thread.join(30.0)
    assert room.camera.closed


def test_asked_to_end_it_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(cameras, "LEAVE_S", 0.02)
    room = Room(FakeCamera(), fps=240.0)
    room.listen(RAW, IMAGE)
    with Runs(room) as runs:
        runs.until(lambda: room.came)
        runs.ended.set()
        runs.thread.join(30.0)
        assert not runs.thread.is_alive()


def test_a_camera_that_cannot_be_ends_it():
    room = Room(FakeCamera())

    def wrong():
        raise ConfigError("the crop does not fit")

    room.publisher._open = wrong
    with pytest.raises(ConfigError, match="crop"):
        room.publisher.run(threading.Event())


def test_a_camera_of_an_emulated_scene(monkeypatch):
    """By OpenGL's own relation: a vertical field of view of 90 degrees is a focal length of half the height."""

    class Stage:
        def __init__(self, host):
            self.host, self.closed = host, False

        def camera(self, name):
            assert name == "front"
            return 90.0, None

        def picture(self, name, height, width, *, depth):
            assert not depth
            return 5.0, np.full((height, width, 3), 9, np.uint8), None

        def close(self):
            self.closed = True

    monkeypatch.setattr(cameras, "Stage", Stage)
    camera = StageCamera("127.0.0.1", "front", 8, 6)
    assert camera.intrinsics.fy == pytest.approx(3.0)
    assert camera.read().image.shape == (6, 8, 3)
    camera.close()
    assert camera._stage.closed
