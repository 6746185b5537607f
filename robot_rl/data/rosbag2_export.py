"""An episode store as rosbag2 bags (MCAP, zstd): one bag an episode, standard messages, no ROS needed to write them.

    topic                      message                       what, unit, frame
    /cameras/<name>/image_raw  sensor_msgs/Image             `images/<name>`: rgb8 (mono8 of one channel), in the frame
                                                             `<name>_optical_frame`
    /current_pose              geometry_msgs/PoseStamped     tcp [m], in `episode_start`: where the tcp began; with the
                                                             environment's frame=base in `base_facing_down`: at the
                                                             base's origin, turned as a tool that points down
    /current_twist             geometry_msgs/TwistStamped    of the tcp [m/s, rad/s], in `tcp`
    /current_wrench            geometry_msgs/WrenchStamped   of the robot on the world [N, N m], in `tcp`
    /gripper/joint_states      sensor_msgs/JointState        `gripper_opening` [m]
    /objects/<name>/pose       geometry_msgs/PoseStamped     a tracked object [m], in `tcp`
    /observation/<name>        std_msgs/Float32MultiArray    as stored (Float64MultiArray if it is not float32)
    /action                    std_msgs/Float32MultiArray    as executed, [-1, 1], in the policy's frame
    /reward                    std_msgs/Float32              of the step
    /success                   std_msgs/Bool                 the step achieved the task
    /terminated, /truncated    std_msgs/Bool                 how the step ended the episode
    /source                    std_msgs/String               whose action: policy, human, script
    /policy_version            std_msgs/Int64                of the policy that acted
    /instruction               std_msgs/String               at the first step and where it changes

Everything of a step is stamped with the step's `time` in the store (its end, UNIX), in the bag and in the headers;
where the clock was set back, with the latest time before, so that steps stay in order. The last observation has no time
of its own: it follows after the median time between the episode's steps. Orientations are computed (quaternions, from
rotation vectors and matrices); every other number is the stored one. metadata.yaml has, as JSON in
`custom_data/robot_rl`, the episode's number, success and sources, the store's metadata (with the state's layout) and
its spaces: what `import_rosbag2` makes a store of again.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_rl.data.episodes import episodes_to_export
from robot_rl.errors import ConfigError, StoreError
from robot_rl.geometry import quat_from_matrix, quat_from_rotvec
from robot_rl.observation import ROOT, ObservationLayout
from robot_rl.store import EpisodeStore
from robot_rl.store.layout import SOURCES, space_to_json
from robot_rl.store.records import EpisodeRecord, row_times

__all__ = ["CUSTOM_DATA", "export_rosbag2", "leaf_topic"]

CUSTOM_DATA = "robot_rl"  # the key in metadata.yaml
OBJECT_WIDTH = 9  # position, two columns of the rotation matrix
Rows = dict[str, NDArray[Any]]


def leaf_topic(layout: ObservationLayout, leaf: str) -> str:
    """The topic of a leaf of the observation."""
    if leaf in layout.images:
        return f"/cameras/{_camera(leaf)}/image_raw"
    return f"/{leaf}" if leaf != ROOT else f"/{ROOT}/{ROOT}"


def _camera(leaf: str) -> str:
    return leaf.removeprefix(f"{ROOT}/").removeprefix("images/")


def export_rosbag2(
    store: EpisodeStore, out: str | Path, *, on_episode: Callable[[int, int], None] = lambda _done, _of: None
) -> Path:
    """Write the closed episodes of a store as bags `episode_000000`, `episode_000001`, ...; see the module's table.

    Args:
        store: What to export.
        out: The directory of the bags, not there yet or empty.
        on_episode: Called with the episodes done and their number.

    Raises:
        ConfigError: The directory is not empty, the store has no closed episode, or `rosbags` is not installed.
        StoreError: The disk failed.
    """
    out = Path(out)
    records = episodes_to_export(store, out)
    try:
        import rosbags.rosbag2  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ConfigError("rosbag2 needs the package rosbags: pip install 'robot-rl[ros]'") from error
    try:
        for number, record in enumerate(records):
            _Bag(out / f"episode_{record.index:06d}", store, record).write()
            on_episode(number + 1, len(records))
    except OSError as error:
        raise StoreError(f"Cannot write {out}: {error.strerror or error}.", path=out) from error
    return out


class _Bag:
    def __init__(self, path: Path, store: EpisodeStore, record: EpisodeRecord) -> None:
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore

        self._store, self._record = store, record
        self._layout = ObservationLayout(store.observation_space)
        self._parts: dict[str, list[int]] = store.metadata.get("state_layout", {})
        self._base = store.metadata.get("env", {}).get("frame") == "base"
        self._typestore = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Any] = {}
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._now = (0, 0)  # [s], [ns]

    def write(self) -> None:
        """The whole episode, row by row."""
        record = self._record
        rows = self._store.read(record.start, record.stop)
        said = {
            "episode": record.index, "success": record.success, "sources": record.sources,
            "metadata": self._store.metadata, "observation_space": space_to_json(self._store.observation_space),
            "action_space": space_to_json(self._store.action_space),
        }  # fmt: skip
        self._writer.set_custom_data(CUSTOM_DATA, json.dumps(said))
        with self._writer:
            for i, time_s in enumerate(np.maximum.accumulate(row_times(rows["time"], record.length)).tolist()):
                second = int(time_s // 1)
                self._now = (second, round((time_s - second) * 1e9))
                if i < record.length:
                    self._step(rows, i)
                self._observation(rows, i)

    def _step(self, rows: Rows, i: int) -> None:
        index = rows["instruction"]
        if i == 0 or index[i] != index[i - 1]:
            self._put("/instruction", "std_msgs/msg/String", data=self._store.instructions[int(index[i])])
        self._array("/action", rows["action"][i])
        self._put("/reward", "std_msgs/msg/Float32", data=float(rows["reward"][i]))
        for name in ("success", "terminated", "truncated"):
            self._put(f"/{name}", "std_msgs/msg/Bool", data=bool(rows[name][i]))
        self._put("/source", "std_msgs/msg/String", data=SOURCES[int(rows["source"][i])])
        self._put("/policy_version", "std_msgs/msg/Int64", data=int(rows["policy_version"][i]))

    def _observation(self, rows: Rows, i: int) -> None:
        for name in self._layout.vectors:
            self._array(leaf_topic(self._layout, name), rows[name][i].reshape(-1))
        for name in self._layout.images:
            self._picture(name, rows[name][i])
        if f"{ROOT}/state" in rows:
            state = rows[f"{ROOT}/state"][i].astype(np.float64)
            for name, (start, stop) in self._parts.items():
                self._state(name, state[start:stop])

    def _state(self, name: str, values: NDArray[np.float64]) -> None:
        """A part of the state as the message it is made for, if there is one."""
        if name == "gripper_opening":
            none = np.zeros(0)
            self._put("/gripper/joint_states", "sensor_msgs/msg/JointState", frame="", name=["gripper_opening"],
                      position=values, velocity=none, effort=none)  # fmt: skip
        elif name == "tcp_pose":
            frame = "base_facing_down" if self._base else "episode_start"
            self._pose("/current_pose", frame, values[:3], quat_from_rotvec(values[3:]))
        elif name == "twist_tcp":
            twist = self._make("geometry_msgs/msg/Twist", linear=self._vector(values), angular=self._vector(values[3:]))
            self._put("/current_twist", "geometry_msgs/msg/TwistStamped", frame="tcp", twist=twist)
        elif name == "wrench_tcp":
            force, torque = self._vector(values), self._vector(values[3:])
            wrench = self._make("geometry_msgs/msg/Wrench", force=force, torque=torque)
            self._put("/current_wrench", "geometry_msgs/msg/WrenchStamped", frame="tcp", wrench=wrench)
        elif name.endswith("_pose") and len(values) == OBJECT_WIDTH:
            x, y = values[3:6], values[6:]
            quat_xyzw = quat_from_matrix(np.stack([x, y, np.cross(x, y)], 1))
            self._pose(f"/objects/{name.removesuffix('_pose')}/pose", "tcp", values[:3], quat_xyzw)

    def _picture(self, leaf: str, picture: NDArray[Any]) -> None:
        height, width, *channels = picture.shape
        self._put(
            leaf_topic(self._layout, leaf), "sensor_msgs/msg/Image", frame=f"{_camera(leaf)}_optical_frame",
            height=height, width=width, encoding="rgb8" if channels == [3] else "mono8", is_bigendian=0,
            step=picture.nbytes // height, data=picture.reshape(-1),
        )  # fmt: skip

    def _pose(self, topic: str, frame: str, position: NDArray[np.float64], quat_xyzw: NDArray[np.float64]) -> None:
        x, y, z, w = quat_xyzw.tolist()
        pose = self._make(
            "geometry_msgs/msg/Pose",
            position=self._vector(position, "Point"),
            orientation=self._make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w),
        )
        self._put(topic, "geometry_msgs/msg/PoseStamped", frame=frame, pose=pose)

    def _vector(self, values: NDArray[np.float64], kind: str = "Vector3") -> Any:
        x, y, z = values[:3].tolist()
        return self._make(f"geometry_msgs/msg/{kind}", x=x, y=y, z=z)

    def _array(self, topic: str, values: NDArray[Any]) -> None:
        size, dtype = len(values), values.dtype if values.dtype == np.float32 else np.dtype(np.float64)
        label = topic.rsplit("/", 1)[-1]
        dim = self._make("std_msgs/msg/MultiArrayDimension", label=label, size=size, stride=size)
        layout = self._make("std_msgs/msg/MultiArrayLayout", dim=[dim], data_offset=0)
        self._put(topic, f"std_msgs/msg/{dtype.name.title()}MultiArray", layout=layout, data=values.astype(dtype))

    def _make(self, kind: str, **fields: Any) -> Any:
        return self._typestore.types[kind](**fields)

    def _put(self, topic: str, kind: str, frame: str | None = None, **fields: Any) -> None:
        """A message of now; with a header where it has a frame."""
        second, nanosecond = self._now
        if frame is not None:
            stamp = self._make("builtin_interfaces/msg/Time", sec=second, nanosec=nanosecond)
            fields["header"] = self._make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self._typestore)
        data = self._typestore.serialize_cdr(self._make(kind, **fields), kind)
        self._writer.write(self._connections[topic], second * 10**9 + nanosecond, data)
