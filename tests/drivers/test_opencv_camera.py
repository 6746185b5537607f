"""The OpenCV camera on files that OpenCV wrote, and on a stand-in for a USB device."""

import threading

import cv2
import numpy as np
import pytest

from drivers.cameras import CameraIntrinsics
from drivers.interfaces import Frame
from drivers.opencv_camera import OpenCvCamera, OpenCvConfig
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceError, StaleStateError

pytestmark = pytest.mark.realtime

# In the order OpenCV writes: blue, green, red.
COLOURS_BGR = [(250, 5, 5), (5, 250, 5), (5, 5, 250)]
COLOURS_RGB = [(5, 5, 250), (5, 250, 5), (250, 5, 5)]


@pytest.fixture
def folder(tmp_path):
    for i, colour in enumerate(COLOURS_BGR):
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), np.full((48, 64, 3), colour, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for colour in COLOURS_BGR:
        writer.write(np.full((48, 64, 3), colour, np.uint8))
    writer.release()
    return path


def reads(camera):
    try:
        return camera.read()
    except DeviceError as error:
        return error


def until(condition, attempts=200):
    for _ in range(attempts):
        if condition():
            return True
        threading.Event().wait(0.02)
    return False


def stepped(source, **changes):
    return OpenCvCamera(OpenCvConfig(source=source, paced=False, timeout_s=30.0, **changes), now=lambda: 0.0)


@pytest.mark.parametrize(("kind", "tolerance"), [("folder", 0), ("video", 12)])
def test_pictures_come_in_order_in_rgb_and_begin_again(kind, tolerance, request):
    with stepped(request.getfixturevalue(kind)) as camera:
        for colour in [*COLOURS_RGB, COLOURS_RGB[0]]:
            frame = camera.read()
            assert frame.image.shape == (48, 64, 3)
            np.testing.assert_allclose(frame.image, np.broadcast_to(colour, (48, 64, 3)), atol=tolerance)


def test_a_paced_video_goes_on_by_itself(video):
    """Its own rate is 20 Hz; three pictures and then the first again."""
    with OpenCvCamera(OpenCvConfig(source=video, max_age_s=60.0)) as camera:
        first = camera.read()
        assert until(lambda: camera.facts()["pictures"] >= 5)
        assert camera.read().time_s > first.time_s
        assert camera.facts()["mode"] == "64 x 48 at 20 Hz"


def test_the_end_of_a_film_without_loop(folder):
    with stepped(folder, loop=False, reconnect_s=0.1) as camera:
        for _ in COLOURS_RGB:
            camera.read()
        with pytest.raises(DeviceConnectionError, match="has ended"):
            camera.read()
        assert until(lambda: "Given up" in str(reads(camera)))


def test_a_paced_film_that_ended_is_noticed(video):
    with OpenCvCamera(OpenCvConfig(source=str(video), loop=False, max_age_s=60.0)) as camera:
        assert until(lambda: "has ended" in str(reads(camera)))


def test_crop_size_and_intrinsics(folder):
    lens = CameraIntrinsics(60.0, 60.0, 31.5, 23.5, 64, 48)
    config = OpenCvConfig(source=folder, paced=False, timeout_s=30.0, crop=(8, 0, 48, 48), image_size=12)
    with OpenCvCamera(config, intrinsics=lens) as camera:
        assert camera.read().image.shape == (12, 12, 3)
        assert camera.full.read().image.shape == (48, 64, 3)
        got = camera.intrinsics
        assert (got.fx, got.cx, got.width) == pytest.approx((15.0, 5.5, 12))
    with stepped(folder) as camera, pytest.raises(ConfigError, match="not known; a tracker needs them"):
        _ = camera.intrinsics
    with pytest.raises(ConfigError, match="for 640 x 480 pictures, the camera gives 64 x 48"):
        OpenCvCamera(config, intrinsics=CameraIntrinsics.from_fovy(45.0, 640, 480))
    with pytest.raises(ConfigError, match="not inside"):
        stepped(folder, crop=(40, 0, 48, 48))


def test_files_that_are_not_there_or_no_pictures(tmp_path):
    with pytest.raises(ConfigError, match=r"No device, video file or folder .*nowhere.mp4"):
        stepped(tmp_path / "nowhere.mp4")
    with pytest.raises(ConfigError, match="holds no picture"):
        stepped(tmp_path)
    (tmp_path / "film.mp4").write_text("nonsense")
    with pytest.raises(ConfigError, match="holds no picture"):
        stepped(tmp_path / "film.mp4")


def test_a_device_that_is_not_there():
    with pytest.raises(DeviceConnectionError, match=r"/dev/video97 does not open.*Check its plug"):
        OpenCvCamera(OpenCvConfig(source="/dev/video97"))


class UsbStandIn:
    """cv2.VideoCapture of a device: what OpenCV's own does, without one."""

    plugged, settings, picture, sizes = True, {}, 0, (640, 480)
    allowed = threading.Semaphore(0)

    def __init__(self, number):
        self.number = number

    def isOpened(self):
        return UsbStandIn.plugged

    def set(self, key, value):
        UsbStandIn.settings[key] = value
        return key != cv2.CAP_PROP_GAIN

    def get(self, key):
        width, height = UsbStandIn.sizes
        return {
            cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_POS_MSEC: 0.0,
        }.get(key, 0.0)  # fmt: skip

    def grab(self):
        UsbStandIn.allowed.acquire(timeout=0.05)
        return UsbStandIn.plugged

    def retrieve(self):
        UsbStandIn.picture += 1
        return True, np.full((480, 640, 3), UsbStandIn.picture % 250, np.uint8)

    def release(self):
        pass


@pytest.fixture
def usb(monkeypatch):
    UsbStandIn.plugged, UsbStandIn.settings, UsbStandIn.sizes = True, {}, (640, 480)
    monkeypatch.setattr(cv2, "VideoCapture", UsbStandIn)
    return UsbStandIn


def test_a_device_is_locked_as_asked(usb):
    """V4L2 counts exposure in 100 us; 1 is manual, 3 automatic."""
    OpenCvCamera(OpenCvConfig(source=2, exposure_us=15600, white_balance_k=4600)).close()
    assert usb.settings[cv2.CAP_PROP_EXPOSURE] == 156
    assert usb.settings[cv2.CAP_PROP_AUTO_EXPOSURE] == 1
    assert usb.settings[cv2.CAP_PROP_WB_TEMPERATURE] == 4600
    assert usb.settings[cv2.CAP_PROP_AUTO_WB] == 0
    OpenCvCamera(OpenCvConfig(source="2")).close()
    assert usb.settings[cv2.CAP_PROP_AUTO_EXPOSURE] == 3
    assert usb.settings[cv2.CAP_PROP_AUTO_WB] == 1
    with pytest.raises(ConfigError, match=r"/dev/video2 does not take gain=5"):
        OpenCvCamera(OpenCvConfig(source="/dev/video2", gain=5))


def test_a_device_without_that_size(usb):
    usb.sizes = (320, 240)
    with pytest.raises(ConfigError, match="cannot do 640 x 480, the nearest is 320 x 240"):
        OpenCvCamera(OpenCvConfig(source=0))


def test_a_device_unplugged_and_plugged_in_again(usb):
    with OpenCvCamera(OpenCvConfig(source=0, max_age_s=60.0, timeout_s=30.0)) as camera:
        camera.read()
        usb.plugged = False
        assert until(lambda: isinstance(reads(camera), DeviceConnectionError))
        assert "/dev/video0 was unplugged" in str(reads(camera))
        usb.plugged = True
        assert until(lambda: isinstance(reads(camera), Frame))
        assert camera.facts()["restarts"] == 1


def test_a_frozen_device_is_noticed(usb, monkeypatch):
    monkeypatch.setattr(usb, "retrieve", lambda self: (True, np.full((480, 640, 3), 7, np.uint8)))
    config = OpenCvConfig(source=0, max_age_s=60.0, timeout_s=30.0, frozen_after_s=0.2)
    with OpenCvCamera(config) as camera:
        assert until(lambda: isinstance(reads(camera), StaleStateError))
        assert "very same picture" in str(reads(camera))
