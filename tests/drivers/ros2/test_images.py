"""Pictures as messages: every encoding against cv2 or by hand, and what cannot be decoded."""

import cv2
import numpy as np
import pytest

from drivers.cameras import CameraIntrinsics
from drivers.ros2.images import (
    CHANNELS,
    COMPRESSED,
    IMAGE,
    INFO,
    camera_info,
    compressed_image,
    decode_image,
    image_kind,
    raw_image,
)
from drivers.ros2.messages import decode, encode, message, seconds
from robot_rl.errors import ConfigError, DeviceFaultError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (6, 8), np.uint8)


def image(encoding, pixels, padding=0):
    """As it comes off the wire, each row followed by `padding` bytes."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    rows = np.hstack([rows, np.full((height, padding), 7, np.uint8)])
    content = message(
        IMAGE, height=height, width=width, encoding=encoding, step=rows.shape[1], data=rows.reshape(-1)
    )  # fmt: skip
    return decode(IMAGE, encode(IMAGE, content))


ALPHA = np.full((6, 8, 1), 9, np.uint8)
SAME = {
    "rgb8": (RGB, RGB),
    "bgr8": (RGB[..., ::-1], RGB),
    "8UC3": (RGB[..., ::-1], RGB),
    "rgba8": (np.concatenate([RGB, ALPHA], 2), RGB),
    "bgra8": (np.concatenate([RGB[..., ::-1], ALPHA], 2), RGB),
    "mono8": (GREY, np.stack([GREY] * 3, 2)),
    "8UC1": (GREY, np.stack([GREY] * 3, 2)),
}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", SAME)
def test_pixels_are_what_was_sent(encoding, padding):
    """The order of channels, by numpy; what fills up rows is none of the picture."""
    sent, expected = SAME[encoding]
    decoded = decode_image(image(encoding, sent, padding))
    np.testing.assert_array_equal(decoded, expected)
    assert decoded.dtype == np.uint8


def test_yuv_by_hand():
    """YUY2 is Y0 U Y1 V; without colour (U = V = 128) grey, by BT.601: 1.164 (Y - 16)."""
    pixels = np.array([[[16, 128], [235, 128], [126, 128], [126, 128]]], np.uint8)
    decoded = decode_image(image("yuv422_yuy2", pixels))
    np.testing.assert_allclose(decoded[0, :, 0], [0, 255, 128, 128], atol=1)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_yuv_of_a_red_pixel():
    """BT.601 of pure red is Y 81.5, U 90.2, V 240 (ITU-R BT.601, 8 bit)."""
    decoded = decode_image(image("yuv422_yuy2", np.array([[[81, 90], [81, 240]]], np.uint8)))
    np.testing.assert_allclose(decoded[0, 0], [255, 0, 0], atol=3)


def test_every_known_encoding_is_tried_here():
    assert set(CHANNELS) == {*SAME, "yuv422_yuy2"}


def test_there_and_back():
    sent = raw_image(12.25, "front_optical_frame", RGB)
    came = decode(IMAGE, encode(IMAGE, sent))
    assert (came.height, came.width, came.step, came.encoding) == (6, 8, 24, "rgb8")
    assert (seconds(came.header.stamp), came.header.frame_id) == (12.25, "front_optical_frame")
    np.testing.assert_array_equal(decode_image(came), RGB)
    turned = raw_image(0.0, "", RGB[::-1, ::2])  # a view that does not lie in one piece
    np.testing.assert_array_equal(decode_image(turned), RGB[::-1, ::2])


def smooth():
    """A picture as a camera sees it, which JPEG keeps nearly as it is."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x, 5 * y, 255 - 2 * x], 2).astype(np.uint8)


def test_jpeg_there_and_back_is_nearly_the_same():
    picture = smooth()
    came = decode(COMPRESSED, encode(COMPRESSED, compressed_image(3.5, "wrist", picture)))
    assert came.format == "rgb8; jpeg compressed bgr8"  # as compressed_image_transport says it
    assert bytes(came.data[:2]) == b"\xff\xd8"
    assert (seconds(came.header.stamp), came.header.frame_id) == (3.5, "wrist")
    decoded = decode_image(came)
    assert decoded.shape == picture.shape
    assert np.abs(decoded.astype(int) - picture).mean() < 3.0
    assert len(came.data) < picture.size / 3


def test_png_there_is_exactly_the_same():
    _, data = cv2.imencode(".png", RGB[..., ::-1])
    content = message(COMPRESSED, format="bgr8; png compressed", data=data.reshape(-1))
    np.testing.assert_array_equal(decode_image(content), RGB)


@pytest.mark.parametrize("data", [np.zeros(0, np.uint8), np.full(64, 3, np.uint8)], ids=["empty", "noise"])
def test_a_damaged_compressed_picture_is_said(data):
    with pytest.raises(DeviceFaultError, match=r"compressed picture \(jpeg\) cannot be decoded"):
        decode_image(message(COMPRESSED, format="jpeg", data=data))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(6, 8, 100), (6, 8, 6 * 8 * 2), (0, 0, 0), (0, 8, 24), (6, 0, 24)]
)
def test_a_picture_of_too_few_bytes_is_said(height, width, size):
    content = message(IMAGE, height=height, width=width, encoding="rgb8", data=np.zeros(size, np.uint8))
    with pytest.raises(DeviceFaultError, match=f"{size} bytes are not {height} rows of {width} pixels"):
        decode_image(content)


def test_an_unknown_encoding_is_said():
    with pytest.raises(ConfigError, match="'16UC1' are not known; known: rgb8, bgr8"):
        decode_image(message(IMAGE, encoding="16UC1"))


def test_a_topic_says_what_is_in_it():
    assert image_kind("/front/image_raw") == IMAGE
    assert image_kind("/front/image_raw/compressed") == COMPRESSED


def test_camera_info():
    """sensor_msgs/CameraInfo: K and P row by row, P with a last column of zero, R the identity."""
    lens = CameraIntrinsics(600.0, 610.0, 320.5, 240.5, 640, 480, (0.1, -0.2, 0.01, 0.02, 0.3))
    info = decode(INFO, encode(INFO, camera_info(1.5, "front_optical_frame", lens)))
    assert (info.width, info.height, info.distortion_model) == (640, 480, "plumb_bob")
    assert (seconds(info.header.stamp), info.header.frame_id) == (1.5, "front_optical_frame")
    np.testing.assert_array_equal(info.k, [600, 0, 320.5, 0, 610, 240.5, 0, 0, 1])
    np.testing.assert_array_equal(info.p, [600, 0, 320.5, 0, 0, 610, 240.5, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(info.r, [1, 0, 0, 0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(info.d, [0.1, -0.2, 0.01, 0.02, 0.3])
