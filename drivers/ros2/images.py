"""Pictures as ROS messages, and back."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from drivers.cameras import CameraIntrinsics
from drivers.ros2.messages import Message, header, message
from robot_rl.errors import ConfigError, DeviceFaultError

__all__ = ["COMPRESSED", "IMAGE", "INFO", "camera_info", "compressed_image", "decode_image", "image_kind", "raw_image"]

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
JPEG_QUALITY = 90
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC3": 3, "8UC1": 1, "yuv422_yuy2": 2}
TO_RGB: dict[str, Any] = {
    "bgr8": cv2.COLOR_BGR2RGB, "8UC3": cv2.COLOR_BGR2RGB, "rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB, "8UC1": cv2.COLOR_GRAY2RGB, "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
}  # fmt: skip


def image_kind(topic: str) -> str:
    """The kind of message that a topic of pictures has, by its name."""
    return COMPRESSED if topic.endswith("compressed") else IMAGE


def raw_image(stamp_s: float, frame: str, image: NDArray[np.uint8]) -> Message:
    """sensor_msgs/Image of uint8 RGB, shape (H, W, 3)."""
    height, width, _ = image.shape
    return message(
        IMAGE, header=header(stamp_s, frame), height=height, width=width, encoding="rgb8", step=3 * width,
        data=np.ascontiguousarray(image).reshape(-1),
    )  # fmt: skip


def compressed_image(stamp_s: float, frame: str, image: NDArray[np.uint8]) -> Message:
    """sensor_msgs/CompressedImage (JPEG) of uint8 RGB, shape (H, W, 3)."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    # as image_transport says it: what was compressed, and into what
    return message(
        COMPRESSED, header=header(stamp_s, frame), format="rgb8; jpeg compressed bgr8", data=data.reshape(-1)
    )


def decode_image(content: Message) -> NDArray[np.uint8]:
    """uint8 RGB, shape (H, W, 3), of an Image or CompressedImage.

    Raises:
        ConfigError: An encoding that is not known.
        DeviceFaultError: A picture that cannot be decoded.
    """
    if hasattr(content, "format"):
        data = np.asarray(content.data)
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if bgr is None:
            raise DeviceFaultError(f"A compressed picture ({content.format}) cannot be decoded.")
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    channels = CHANNELS.get(content.encoding)
    if channels is None:
        raise ConfigError(f"Pictures encoded as {content.encoding!r} are not known; known: {', '.join(CHANNELS)}.")
    data, width = np.asarray(content.data), channels * content.width
    if not content.height or not width or data.size % content.height or data.size // content.height < width:
        raise DeviceFaultError(
            f"A picture cannot be decoded: {data.size} bytes are not {content.height} rows of {content.width} pixels "
            f"encoded as {content.encoding}."
        )
    rows = data.reshape(content.height, -1)[:, :width]
    image = rows.reshape(content.height, content.width, channels)
    if content.encoding == "rgb8":
        return image
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), TO_RGB[content.encoding]), np.uint8)


def camera_info(stamp_s: float, frame: str, intrinsics: CameraIntrinsics) -> Message:
    """sensor_msgs/CameraInfo of the pictures that `intrinsics` are for."""
    matrix = intrinsics.matrix
    return message(
        INFO, header=header(stamp_s, frame), height=intrinsics.height, width=intrinsics.width,
        distortion_model="plumb_bob", d=np.array(intrinsics.distortion, np.float64), k=matrix.reshape(-1),
        r=np.eye(3).reshape(-1), p=np.hstack([matrix, np.zeros((3, 1))]).reshape(-1),
    )  # fmt: skip
