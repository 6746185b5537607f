"""The RealSense driver on Intel's own SDK, with virtual cameras on its bus."""

import math
import threading
import time

import mujoco
import numpy as np
import pytest

from drivers.cameras import CameraIntrinsics, Framing
from drivers.cameras_stream import StampMapper
from drivers.interfaces import Frame
from drivers.realsense import RealSenseCamera, RealSenseConfig
from drivers.twin.arms import load_arm
from drivers.twin.devices import TwinCamera
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceError, DeviceTimeoutError, StaleStateError

rs = pytest.importorskip(
    "pyrealsense2", exc_type=ImportError, reason="Intel's SDK is missing: pip install 'robot-rl[realsense]'"
)

from drivers.emulators.realsense import VirtualBus, VirtualRealSense, twin_pictures  # noqa: E402
from drivers.realsense_sdk import opencv_intrinsics  # noqa: E402

pytestmark = pytest.mark.realtime

LENS = CameraIntrinsics.from_fovy(45.0, 64, 48)
PATIENT = {"timeout_s": 30.0, "restart_after_s": 60.0}  # a slow machine is no fault


class Scene:
    """Pictures of one colour that counts up, at a depth of one metre, on a clock of its own."""

    def __init__(self):
        self.time_s, self.colour = 0.0, 10

    def __call__(self):
        image = np.full((LENS.height, LENS.width, 3), self.colour, np.uint8)
        return self.time_s, image, np.full((LENS.height, LENS.width), 1.0, np.float32)

    def advance(self, duration_s=0.1):
        self.time_s += duration_s
        self.colour += 1

    def now(self):
        return self.time_s


@pytest.fixture
def scene():
    return Scene()


@pytest.fixture
def bus():
    return VirtualBus()


@pytest.fixture
def virtual(scene, bus):
    return VirtualRealSense(scene, LENS, bus=bus, serial="cam1")


def pulled(virtual, bus, scene, **changes):
    """A driver on the scene's clock that asks for a picture at each read."""
    config = virtual.config(**{**PATIENT, **changes})
    return RealSenseCamera(config, context=bus.context, now=scene.now, before_read=virtual.push)


def paced(virtual, bus, **changes):
    return RealSenseCamera(virtual.config(**{**PATIENT, **changes}), context=bus.context)


def until(condition, attempts=200):
    """Wait, without a limit of its own on time, for another thread to get there."""
    for _ in range(attempts):
        if condition():
            return True
        threading.Event().wait(0.02)
    return False


def reads(camera):
    try:
        return camera.read()
    except DeviceError as error:
        return error


def test_every_read_on_a_simulated_clock_is_the_present_picture(virtual, bus, scene):
    with pulled(virtual, bus, scene) as camera:
        for _ in range(5):
            scene.advance()
            frame = camera.read()
            assert frame.time_s == scene.time_s
            assert frame.image.shape == (48, 64, 3)
            np.testing.assert_allclose(frame.image, scene.colour, atol=1)  # the sensor's noise is one bit
            assert frame.depth is None


def test_a_clock_that_starts_anew_is_followed(virtual, bus, scene):
    """The twin's reset: time goes back to zero, and no picture from before is given out as one of now."""
    with pulled(virtual, bus, scene) as camera:
        scene.advance(5.0)
        camera.read()
        scene.time_s, scene.colour = 0.0, 200
        frame = camera.read()
        assert frame.time_s == 0.0
        np.testing.assert_allclose(frame.image, 200, atol=1)


def test_a_frame_does_not_change_afterwards(virtual, bus, scene):
    with pulled(virtual, bus, scene, depth=True) as camera:
        frame = camera.read()
        image, depth = frame.image.copy(), frame.depth.copy()
        for _ in range(30):
            scene.advance()
            camera.read()
        np.testing.assert_array_equal(frame.image, image)
        np.testing.assert_array_equal(frame.depth, depth)


def test_a_camera_at_its_own_pace_gives_the_newest_picture(virtual, bus):
    with virtual.running(), paced(virtual, bus, max_age_s=60.0) as camera:
        first = camera.read()
        assert until(lambda: camera.read().time_s > first.time_s)
        assert camera.read().time_s <= time.monotonic()
        assert camera.facts()["pictures"] >= 2


def test_two_cameras_on_one_bus_are_told_apart(virtual, bus, scene):
    other_scene = Scene()
    other_scene.colour = 100
    other = VirtualRealSense(other_scene, LENS, bus=bus, serial="cam2")
    with pulled(virtual, bus, scene) as one, pulled(other, bus, other_scene) as two:
        assert abs(int(one.read().image.mean()) - 10) <= 1
        assert abs(int(two.read().image.mean()) - 100) <= 1


def test_depth_is_aligned_to_colour_and_in_metres(bus):
    """A step in depth at column 32 of colour, seen by a depth sensor of half the size, ends up at column 32 again."""

    def pictures():
        depth = np.full((48, 64), 2.0, np.float32)
        depth[:, 32:] = 0.5
        depth[:4] = 0.0
        return 0.0, np.zeros((48, 64, 3), np.uint8), depth

    virtual = VirtualRealSense(pictures, LENS, bus=bus, serial="deep", depth_divisor=2)
    with RealSenseCamera(
        virtual.config(depth=True), context=bus.context, now=lambda: 0.0, before_read=virtual.push
    ) as camera:
        depth = camera.read().depth
    assert depth.dtype == np.float32
    assert depth.shape == (48, 64)
    np.testing.assert_allclose(depth[10:40, 5:29], 2.0, atol=0.001)
    np.testing.assert_allclose(depth[10:40, 35:60], 0.5, atol=0.001)
    np.testing.assert_array_equal(depth[:3], 0.0)


def test_the_twin_through_the_sdk_is_where_pinhole_geometry_puts_it(bus):
    """Camera at (1.25, 0, 0.62) looking at (0.42, 0, 0.12), 45 degrees high, 480 pixels: f = 240 / tan(22.5 deg).

    A ball 0.1 m beside the point looked at, which is |(0.83, 0.5)| = 0.96897 m away, lies f * 0.1 / 0.96897 pixels to
    the right of the middle. Along the axis the table (z = 0) is 0.62 / 0.5 * 0.96897 = 1.2015 m away.
    """

    def ball(scene):
        body = scene.spec.worldbody.add_body(name="ball", pos=[0.42, 0.1, 0.12])
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.01, 0, 0], rgba=[1, 0, 0, 1], contype=0, conaffinity=0)

    twin = Twin(load_arm("fr3"), ball)
    twin.jump_to_joints(np.array([2.5, -0.041759, 0.0, -2.334272, 0.0, 2.292514, 0.785398]))  # out of the picture
    pictures, lens = twin_pictures(twin, "front")
    try:
        pictures()
    except DeviceError as error:
        pytest.skip(f"this machine cannot render: {error}")
    virtual = VirtualRealSense(pictures, lens, bus=bus, serial="front", depth_divisor=2)
    with RealSenseCamera(
        virtual.config(depth=True), context=bus.context, now=lambda: float(twin.data.time), before_read=virtual.push
    ) as camera:
        frame, intrinsics = camera.read(), camera.intrinsics
    focal = 240.0 / math.tan(math.radians(22.5))
    assert (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy) == pytest.approx((focal, focal, 319.5, 239.5))
    red = (frame.image[..., 0] > 2 * frame.image[..., 1].astype(int)) & (frame.image[..., 0] > 100)
    v, u = np.argwhere(red).mean(axis=0)
    assert (u, v) == pytest.approx((319.5 + focal * 0.1 / 0.96897, 239.5), abs=0.6)
    assert frame.depth[239:241, 319:321].mean() == pytest.approx(1.2015, abs=0.003)
    # The camera's own account of where it is says the same.
    pose = TwinCamera(twin, "front").pose_in_base()
    np.testing.assert_allclose(pose[:3], [1.25, 0.0, 0.62], atol=1e-9)


def test_crop_and_size_and_their_intrinsics(virtual, bus, scene):
    """The middle 48 of 64 columns, halved: a ray through the middle stays in the middle, f halves."""
    with pulled(virtual, bus, scene, image_size=24) as camera:
        assert camera.read().image.shape == (24, 24, 3)
        assert (camera.height, camera.width) == (24, 24)
        got = camera.intrinsics
        assert (got.fx, got.cx, got.cy) == pytest.approx((LENS.fx / 2, 11.5, 11.5))
        assert camera.full.read().image.shape == (48, 64, 3)
        assert camera.full.intrinsics.fx == pytest.approx(LENS.fx)
    with pytest.raises(ConfigError, match=r"crop=\(50, 0, 48, 48\).*not inside the 64 x 48"):
        pulled(virtual, bus, scene, crop=(50, 0, 48, 48), image_size=24)
    with pytest.raises(ConfigError, match="squeeze"):
        pulled(virtual, bus, scene, crop=(0, 0, 64, 48), image_size=24)


def test_a_framed_picture_keeps_a_point_on_its_ray():
    """One bright pixel in a picture of 60 x 40, cropped and shrunk by 4: where the intrinsics say it goes, it is."""
    full = CameraIntrinsics(50.0, 50.0, 29.5, 19.5, 60, 40)
    image = np.zeros((40, 60, 3), np.uint8)
    image[16:20, 24:28] = 255
    framing = Framing(crop=(12, 0, 40, 40), image_size=10)
    frame = framing.apply(Frame(0.0, image, np.ones((40, 60), np.float32)))
    point = np.array([[(25.5 - 29.5) / 50.0, (17.5 - 19.5) / 50.0, 1.0]])  # the middle of the bright block
    u, v = framing.intrinsics(full).project(point)[0]
    assert frame.image.argmax() // 3 == round(v) * 10 + round(u)
    assert frame.depth.shape == (10, 10)


def test_settings_reach_the_sensor(virtual, bus, scene):
    """UVC counts exposure in 100 us; a step of 10 K rounds the white balance."""
    with pulled(virtual, bus, scene, exposure_us=8000, white_balance_k=4504, gain=32):
        sensor = next(s for s in virtual._device.query_sensors() if s.supports(rs.option.exposure))
        assert sensor.get_option(rs.option.exposure) == 80
        assert sensor.get_option(rs.option.white_balance) == 4500
        assert sensor.get_option(rs.option.gain) == 32
        assert sensor.get_option(rs.option.enable_auto_exposure) == 0
        assert sensor.get_option(rs.option.enable_auto_white_balance) == 0
    with pulled(virtual, bus, scene) as camera:
        assert sensor.get_option(rs.option.enable_auto_exposure) == 1
        facts = camera.facts()
    assert facts["exposure"] == "automatic"
    assert facts["asic_temperature_c"] == pytest.approx(36.0)
    assert facts["model"] == "Virtual RealSense"


def test_settings_out_of_range_say_the_range(virtual, bus, scene):
    with pytest.raises(ConfigError, match=r"exposure_us=5000000.0 is outside .* 100 to 1e\+06"):
        pulled(virtual, bus, scene, exposure_us=5e6)
    with pytest.raises(ConfigError, match="needs exposure_us"):
        pulled(virtual, bus, scene, gain=10)
    pulled(virtual, bus, scene).close()  # the failed attempts left the camera free


def test_no_camera_unknown_serial_and_several_without_one(virtual, bus, scene):
    with pytest.raises(DeviceConnectionError, match="Connected: none"):
        RealSenseCamera(context=VirtualBus().context)
    with pytest.raises(DeviceConnectionError, match=r"RealSense 999 is not connected. Connected: cam1") as caught:
        RealSenseCamera(RealSenseConfig(serial="999"), context=bus.context)
    assert "cam1" in caught.value.present
    VirtualRealSense(scene, LENS, bus=bus, serial="cam2")
    with pytest.raises(ConfigError, match="Several RealSense cameras and no serial"):
        RealSenseCamera(context=bus.context)


def test_a_mode_it_does_not_have(virtual, bus, scene):
    with pytest.raises(ConfigError, match=r"cannot do 1280 x 720 at 30 Hz.*64 x 48 at 30"):
        pulled(virtual, bus, scene, width=1280, height=720)


def test_a_camera_somebody_else_has(virtual, bus, scene):
    with pulled(virtual, bus, scene), pytest.raises(DeviceConnectionError, match="Another program may have it"):
        pulled(virtual, bus, scene)


def test_a_camera_that_never_sends(virtual, bus):
    with paced(virtual, bus, timeout_s=0.3) as camera, pytest.raises(DeviceTimeoutError, match="no picture came"):
        camera.read()


def test_a_picture_that_was_asked_for_and_did_not_come(virtual, bus, scene):
    with pulled(virtual, bus, scene, timeout_s=0.5) as camera:
        assert until(lambda: isinstance(reads(camera), Frame))
        virtual.freeze("silent")
        with pytest.raises(DeviceTimeoutError):
            camera.read()
        virtual.thaw()
        scene.advance()
        assert until(lambda: isinstance(reads(camera), Frame))
        assert camera.read().time_s == scene.time_s


def test_a_camera_that_hangs_is_opened_anew(virtual, bus, scene):
    with pulled(virtual, bus, scene, restart_after_s=0.3) as camera:
        virtual.freeze("silent")
        with pytest.raises(DeviceConnectionError, match="sent nothing new for"):
            camera.read()
        virtual.thaw()
        assert until(lambda: isinstance(reads(camera), Frame))
        assert camera.facts()["restarts"] >= 1


def test_a_camera_that_stops_sending_is_stale(virtual, bus, scene):
    """The scene's clock goes on, the pictures do not."""
    with RealSenseCamera(virtual.config(max_age_s=0.3), context=bus.context, now=scene.now) as camera:
        virtual.push()
        assert camera.read().time_s == 0.0
        scene.advance(0.25)
        camera.read()
        scene.advance(0.15)
        with pytest.raises(StaleStateError, match=r"is 0.400 s old, limit 0.3 s \(max_age_s\)") as caught:
            camera.read()
        assert caught.value.age_s == pytest.approx(0.4)


@pytest.mark.parametrize("how", ["repeat", "picture"])
def test_a_frozen_camera_is_noticed(virtual, bus, scene, how):
    """The last frame again and again is as none; new stamps on the same bits are a frozen picture after a second."""
    with RealSenseCamera(virtual.config(max_age_s=0.5), context=bus.context, now=scene.now) as camera:
        virtual.push()
        camera.read()
        virtual.freeze(how)
        caught = None
        for _ in range(60):
            scene.advance(1.0 / 30.0)
            pushed = camera.facts()["pictures"]
            virtual.push()
            if how == "picture":
                assert until(lambda n=pushed: camera.facts()["pictures"] > n)
            if isinstance(answer := reads(camera), StaleStateError):
                caught = answer
                break
        assert caught is not None
        assert ("very same picture" if how == "picture" else "max_age_s") in str(caught)


def test_a_frame_sent_twice_is_no_answer(virtual, bus, scene):
    with pulled(virtual, bus, scene, timeout_s=0.5) as camera:
        assert until(lambda: isinstance(reads(camera), Frame))
        virtual.freeze("repeat")
        with pytest.raises(DeviceTimeoutError):
            camera.read()


def test_unplugged_and_plugged_in_again(virtual, bus, scene):
    with pulled(virtual, bus, scene) as camera:
        camera.read()
        virtual.unplug()
        scene.advance()
        with pytest.raises(DeviceConnectionError, match=r"cam1.*looked for, for 60 s \(reconnect_s\)"):
            camera.read()
        with pytest.raises(DeviceConnectionError):
            camera.read()
        virtual.replug()
        scene.advance()
        assert until(lambda: isinstance(reads(camera), Frame))
        assert camera.read().time_s == scene.time_s
        assert camera.facts()["restarts"] == 1


def test_a_camera_that_stays_away_is_given_up(virtual, bus, scene, caplog):
    with pulled(virtual, bus, scene, reconnect_s=0.2) as camera:
        virtual.unplug()
        assert until(lambda: "Given up" in str(reads(camera)))
        virtual.replug()
        assert "Given up" in str(reads(camera))
    assert any("Given up" in record.message for record in caplog.records)


def test_closed_is_closed(virtual, bus, scene):
    camera = pulled(virtual, bus, scene)
    camera.close()
    camera.close()
    with pytest.raises(DeviceConnectionError, match="was closed"):
        camera.read()
    pulled(virtual, bus, scene).close()


def test_stamps_lose_the_jitter_and_never_lie_in_the_future():
    """A clock 100 s behind ours and delays of 5 to 25 ms: what is left is the smallest delay so far."""
    rng = np.random.default_rng(0)
    mapper, worst = StampMapper(), 0.0
    for k in range(300):
        taken = 100.0 + k / 30.0
        arrived = taken + 0.005 + 0.02 * rng.random()
        stamp = mapper(taken - 100.0, arrived)
        assert stamp <= arrived
        if k > 50:
            worst = max(worst, abs(stamp - taken - 0.005))
    assert worst < 0.0015
    assert mapper(None, 7.0) == 7.0
    assert mapper(5000.0, 200.0) == 200.0  # the camera's clock started anew


def test_inverse_lens_model_becomes_opencvs():
    """The SDK turns a pixel into a ray; OpenCV, with the coefficients we fit, turns it into the same pixel."""
    given = rs.intrinsics()
    given.width, given.height, given.fx, given.fy, given.ppx, given.ppy = 640, 480, 610.0, 608.0, 322.0, 243.0
    given.model, given.coeffs = rs.distortion.inverse_brown_conrady, [0.05, -0.08, 0.001, -0.0007, 0.02]
    lens = opencv_intrinsics(rs, given)
    pixels = np.array([[10.0, 15.0], [320.0, 240.0], [600.0, 100.0], [630.0, 470.0]])
    rays = np.array([rs.rs2_deproject_pixel_to_point(given, list(p), 0.8) for p in pixels])
    np.testing.assert_allclose(lens.project(rays), pixels, atol=0.05)
    ideal = CameraIntrinsics(610.0, 608.0, 322.0, 243.0, 640, 480)
    assert np.abs(ideal.project(rays) - pixels).max() > 1.0  # there was something to model


@pytest.mark.parametrize(
    ("raised", "advice"),
    [
        (ModuleNotFoundError("No module named 'pyrealsense2'"), r"pip install 'robot-rl\[realsense\]'"),
        (ImportError("libusb-1.0.so.0: cannot open shared object file"), "libusb-1.0.so.0.*apt install libusb-1.0-0"),
    ],
)
def test_a_missing_sdk_says_what_to_install(monkeypatch, raised, advice):
    def fail(name):
        raise raised

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(ConfigError, match=advice):
        RealSenseCamera()
