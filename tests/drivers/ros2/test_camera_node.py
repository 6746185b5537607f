"""camera_node: the cameras of a cell file, here a folder of pictures, as topics."""

import threading

import cv2
import numpy as np
import pytest

from drivers.emulators.ros2 import TwinPlant
from drivers.emulators.stage import StageServer
from drivers.interfaces import Frame
from drivers.ros2 import cameras
from drivers.ros2.arguments import checked
from drivers.ros2.images import COMPRESSED, IMAGE, INFO, decode_image
from drivers.ros2.node import SENSOR_DATA
from drivers.ros2.nodes.camera_node import PARAMETERS, CameraNode
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceTimeoutError
from tests.drivers.ros2.inprocess import Bus

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture
def film(tmp_path):
    """A folder with one picture, which is played again and again."""
    folder = tmp_path / "film"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), PICTURE[..., ::-1])
    return folder


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(cameras, "IDLE_S", 0.001)
    monkeypatch.setattr(cameras, "REOPEN_S", 0.0)


class Runs:
    """A node in a thread, and what of it is heard."""

    def __init__(self, path, **values):
        self.bus, self.ended, self.came, self.wrong = Bus(), threading.Event(), [], []
        self.viewer = self.bus.node("viewer")
        self.node = CameraNode(
            self.bus.node("camera_node"), checked(PARAMETERS, {"cell": path, "fps": 240.0, **values})
        )
        self.thread = threading.Thread(target=self.run)

    def run(self):
        try:
            self.node.run(self.ended)
        except ConfigError as error:
            self.wrong.append(error)

    def listen(self, topic, kind):
        self.viewer.subscribe(topic, kind, lambda content: self.came.append((topic, content)), SENSOR_DATA)

    def until(self, condition):
        pause = threading.Event()
        while not condition():
            assert self.thread.is_alive()
            pause.wait(0.002)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.viewer.close()
        self.thread.join(30.0)
        assert not self.thread.is_alive()


LENS = "width: 64, height: 48, intrinsics: [50, 51, 31.5, 23.5]"


def test_pictures_of_a_folder_as_topics(cell_file, film):
    """Whole, though the policy sees but a part: whoever listens crops."""
    path = cell_file(f"cameras: {{front: {{driver: opencv, source: {film}, crop: [8, 0, 48, 48], {LENS}}}}}")
    runs = Runs(path)
    runs.listen("front/image_raw", IMAGE)
    runs.listen("front/image_raw/compressed", COMPRESSED)
    runs.listen("front/camera_info", INFO)
    with runs:
        runs.until(lambda: len({topic for topic, _ in runs.came}) == 3)
    came = dict(runs.came)
    np.testing.assert_array_equal(decode_image(came["front/image_raw"]), PICTURE)
    assert decode_image(came["front/image_raw/compressed"]).shape == PICTURE.shape
    info = came["front/camera_info"]
    assert (info.width, info.height, info.k[0], info.k[5]) == (64, 48, 50.0, 23.5)
    assert info.header.frame_id == "front_optical_frame"


def test_one_of_several(cell_file, film):
    path = cell_file(
        f"cameras: {{front: {{driver: opencv, source: {film}}}, wrist: {{driver: opencv, source: {film}}}}}"
    )
    assert [one.name for one in Runs(path).node.publishers] == ["front", "wrist"]
    runs = Runs(path, camera="wrist")
    assert [one.name for one in runs.node.publishers] == ["wrist"]
    assert "/wrist/image_raw" in runs.bus.senders
    assert "/front/image_raw" not in runs.bus.senders


def test_what_is_in_ros_already_is_not_sent_again(cell_file, film):
    """It would hear itself."""
    text = f"cameras: {{front: {{driver: ros2, source: /front/image_raw}}, side: {{driver: opencv, source: {film}}}}}"
    assert [one.name for one in Runs(cell_file(text)).node.publishers] == ["side"]
    with pytest.raises(ConfigError, match="no camera 'front' that is not in ROS 2 already: side"):
        Runs(cell_file(text), camera="front")


@pytest.mark.parametrize(
    ("text", "values", "said"),
    [
        ("arm: {driver: twin}", {}, "no camera ''.*: none"),
        ("cameras: {front: {driver: opencv, source: /x}}", {"camera": "wrist"}, "no camera 'wrist'.*: front"),
        ("", {"cell": ""}, "needs a cell file"),
        ("", {"cell": "twin"}, "needs a cell file"),
        ("", {"cell": "/no/such.yaml"}, "no cell file"),
        ("cameras: {front: {driver: opencv, source: /x}}", {"fps": 1000.0}, "between 0.1 and 240"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(cell_file, text, values, said):
    with pytest.raises(ConfigError, match=said):
        Runs(cell_file(text), **values)


def test_an_emulator_that_is_not_there_is_said(cell_file):
    with pytest.raises(DeviceConnectionError, match=r"No emulator answers at 127\.0\.250\.1"):
        Runs(cell_file("cameras: {front: {driver: realsense, serial: '1'}}"), rehearse="127.0.250.1")


@pytest.mark.parametrize(
    ("camera", "said"),
    [
        ("driver: opencv, source: /no/such/film", "/no/such/film"),
        ("driver: twin", "needs an arm with driver: twin"),
    ],
)
def test_a_camera_that_cannot_be_ends_the_node(cell_file, film, camera, said):
    """In one message, whatever the others do."""
    path = cell_file(f"cameras: {{front: {{{camera}}}, side: {{driver: opencv, source: {film}}}}}")
    runs = Runs(path)
    with runs:
        runs.thread.join(30.0)
    (error,) = runs.wrong
    assert said in str(error)


class FlakyCamera:
    """A third party's camera, lost at its third picture; the next one that is opened is well."""

    opened = []  # noqa: RUF012

    def __init__(self, width, height, **_options):
        self.width, self.height, self.reads, self.closed = width, height, 0, False
        self.opened.append(self)

    def read(self):
        assert not self.closed
        self.reads += 1
        if len(self.opened) == 1 and self.reads == 3:
            raise DeviceConnectionError("unplugged")
        if self.reads == 2:
            raise DeviceTimeoutError("late")
        return Frame(0.1 * self.reads + len(self.opened), PICTURE)

    def close(self):
        self.closed = True


def test_a_lost_camera_is_opened_anew(cell_file, caplog):
    FlakyCamera.opened.clear()
    path = cell_file("cameras: {front: {driver: 'tests.drivers.ros2.test_camera_node:FlakyCamera'}}")
    runs = Runs(path)
    runs.listen("front/image_raw", IMAGE)
    with runs:
        runs.until(lambda: len(FlakyCamera.opened) == 2 and FlakyCamera.opened[1].reads > 5)
    assert [camera.closed for camera in FlakyCamera.opened] == [True, True]
    assert [record.message for record in caplog.records][:2] == ["Camera front: late", "Camera front: unplugged"]


@pytest.mark.realtime
def test_in_rehearsal_an_emulators_scene_is_seen(cell_file):
    """Two virtual RealSenses look at a twin; in the end the emulator is let go of."""
    pytest.importorskip("pyrealsense2", reason="pip install 'robot-rl[realsense]'")
    host = "127.0.241.1"
    server = StageServer(TwinPlant("fr3"), lambda **_: None, {}, host)
    server.start()
    cell = "cameras: {front: {driver: realsense, serial: '1'}, wrist: {driver: realsense, serial: '2'}}"
    runs = Runs(cell_file(cell), rehearse=host)
    try:
        runs.listen("front/image_raw", IMAGE)
        runs.listen("wrist/camera_info", INFO)
        with runs:
            runs.until(lambda: len({topic for topic, _ in runs.came}) == 2)
    finally:
        server.stop()
    came = dict(runs.came)
    assert decode_image(came["front/image_raw"]).std() > 1.0  # it shows something
    assert (came["wrist/camera_info"].width, came["wrist/camera_info"].height) == (640, 480)
