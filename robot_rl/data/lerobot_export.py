"""An episode store as a LeRobot dataset."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robot_rl.data import lerobot_layout as layout
from robot_rl.data.episodes import episodes_to_export
from robot_rl.errors import StoreError
from robot_rl.observation import ObservationLayout
from robot_rl.store import EpisodeStore
from robot_rl.store.records import EpisodeRecord

__all__ = ["export_lerobot"]

CODEC, PIXELS, QUALITY, KEY_EVERY = (
    "libx264",
    "yuv420p",
    "18",
    2,
)  # a key frame every second one: random access is cheap
AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


def export_lerobot(
    store: EpisodeStore,
    out: str | Path,
    *,
    robot_type: str = "",
    on_episode: Callable[[int, int], None] = lambda _done, _of: None,
) -> Path:
    """Write the closed episodes of a store as a LeRobotDataset v3.0.

    Args:
        store: What to export.
        out: The dataset's directory, not there yet or empty.
        robot_type: Written into info.json; the environment's arm by default.
        on_episode: Called with the episodes done and their number.

    Raises:
        ConfigError: The directory is not empty, or the store has no closed episode or no state.
        StoreError: The disk failed.
    """
    out = Path(out)
    records = episodes_to_export(store, out)
    try:
        return _Export(store, out, robot_type).run(records, on_episode)
    except OSError as error:
        raise StoreError(f"Cannot write {out}: {error.strerror or error}.", path=out) from error


class _Export:
    def __init__(self, store: EpisodeStore, out: Path, robot_type: str) -> None:
        self.store, self.out = store, out
        observations = ObservationLayout(store.observation_space)
        self.vectors = list(observations.vectors)
        self.cameras = {f"{layout.IMAGES}{n.rsplit('/', 1)[-1]}": n for n in observations.images}
        self.width = observations.size
        period = store.metadata.get("control_period_s") or 0.1
        self.fps = round(1.0 / float(period))
        self.robot_type = robot_type or str(store.metadata.get("env", {}).get("arm", "fr3"))
        self.tasks: dict[str, int] = {}
        self.episodes: list[dict[str, Any]] = []
        self.changes = False  # of what is asked for, within an episode
        self.statistics: dict[str, list[dict[str, list[Any]]]] = {}
        self.finals: list[dict[str, Any]] = []

    def run(self, records: list[EpisodeRecord], on_episode: Callable[[int, int], None]) -> Path:
        """Frames, videos, then what is said about them."""
        videos = {key: _Video(self.out, key, self.fps) for key in self.cameras}
        tables: list[pa.Table] = []
        self.changes = any(len(set(self._asked(record))) > 1 for record in records)
        first = 0
        for number, record in enumerate(records):
            frames, pictures = self._frames(number, record, first)
            row: dict[str, Any] = {
                "episode_index": number, "tasks": list(dict.fromkeys(self._asked(record))), "length": record.length,
                "data/chunk_index": 0, "data/file_index": 0,
                "dataset_from_index": first, "dataset_to_index": first + record.length,
                "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
            }  # fmt: skip
            for key, values in pictures.items():
                row |= videos[key].append(values)
            for name, values in {**frames, **pictures}.items():
                for what, numbers in self._count(name, np.asarray(values)).items():
                    row[f"stats/{name}/{what}"] = numbers
            tables.append(self._table(frames, self._asked(record)))
            self.episodes.append(row)
            first += record.length
            on_episode(number + 1, len(records))
        for video in videos.values():
            video.close()
        _write(layout.place(self.out, layout.DATA, 0), pa.concat_tables(tables))
        self._write_meta(first)
        return self.out

    def _frames(
        self, number: int, record: EpisodeRecord, first: int
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.uint8]]]:
        """An episode's columns, and its pictures by camera; its last observation is set aside."""
        rows, steps = self.store.read(record.start, record.stop), record.length
        state = np.concatenate([rows[n].reshape(len(rows[n]), -1) for n in self.vectors], 1).astype(np.float32)
        asked = [self.tasks.setdefault(text, len(self.tasks)) for text in self._asked(record)]
        index = np.arange(steps)
        frames = {
            layout.STATE: state[:steps],
            layout.ACTION: rows["action"][:steps].astype(np.float32),
            "next.reward": rows["reward"][:steps].astype(np.float32),
            "next.done": (rows["terminated"] | rows["truncated"])[:steps],
            "next.success": rows["success"][:steps],
            "source": rows["source"][:steps].astype(np.int64),
            "policy_version": rows["policy_version"][:steps].astype(np.int64),
            "timestamp": (index / self.fps).astype(np.float32),
            "frame_index": index,
            "episode_index": np.full(steps, number),
            "index": first + index,
            "task_index": np.array(asked),
        }
        pictures = {key: rows[name][:steps] for key, name in self.cameras.items()}
        final = {key: _png(rows[name][steps]) for key, name in self.cameras.items()}
        self.finals.append(
            {
                "episode_index": number,
                layout.STATE: state[steps].tolist(),
                "terminated": record.terminated,
                "time": rows["time"][:steps].tolist(),
                **final,
            }
        )
        return frames, pictures

    def _asked(self, record: EpisodeRecord) -> list[str]:
        """What was asked for at each step."""
        index = self.store.read(record.start, record.start + record.length, ["instruction"])["instruction"]
        return [self.store.instructions[i] for i in index.tolist()]

    def _count(self, name: str, values: NDArray[Any]) -> dict[str, list[Any]]:
        counted = layout.statistics(values)
        self.statistics.setdefault(name, []).append(counted)
        return counted

    def _table(self, frames: dict[str, NDArray[Any]], asked: list[str]) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        for name, values in frames.items():
            if values.ndim == 2:
                flat = pa.array(values.ravel(), pa.float32())
                columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
            else:
                columns[name] = pa.array(values)
        if self.changes:
            before = [asked[0], *asked]
            said = [[layout.interjection(new)] if new != old else [] for old, new in zip(before, asked, strict=False)]
            columns[layout.EVENTS] = pa.array(said, layout.EVENTS_TYPE)
        return pa.table(columns)

    def _write_meta(self, frames: int) -> None:
        _write(layout.place(self.out, layout.EPISODES, 0), pa.Table.from_pylist(self.episodes))
        _write(self.out / layout.OURS, pa.Table.from_pylist(self.finals))
        names = pa.array(list(self.tasks), pa.string())
        tasks = pa.table({"task_index": pa.array(list(self.tasks.values()), pa.int64()), "task": names})
        pandas = {"index_columns": ["task"], "column_indexes": [], "columns": [
            _pandas_column("task_index", "int64", "int64"),
            _pandas_column("task", "unicode", "object"),
        ]}  # fmt: skip
        _write(self.out / layout.TASKS, tasks.replace_schema_metadata({"pandas": json.dumps(pandas)}))
        stats = {name: layout.together(parts) for name, parts in self.statistics.items()}
        _write_json(self.out / layout.STATS, stats)
        space = json.loads(json.dumps(self.store.metadata.get("state_layout", {})))
        info = {
            "codebase_version": layout.VERSION, "robot_type": self.robot_type, "total_episodes": len(self.episodes),
            "total_frames": frames, "total_tasks": len(self.tasks), "chunks_size": layout.CHUNK_FILES,
            "data_files_size_in_mb": layout.DATA_MB, "video_files_size_in_mb": layout.VIDEO_MB, "fps": self.fps,
            "splits": {"train": f"0:{len(self.episodes)}"}, "data_path": layout.DATA,
            "video_path": layout.VIDEO if self.cameras else None, "features": self._features(),
            "robot_rl": {"metadata": {**self.store.metadata, "state_layout": space}},
        }  # fmt: skip
        _write_json(self.out / layout.INFO, info)

    def _features(self) -> dict[str, Any]:
        (actions,) = self.store.action_space.shape or (0,)
        parts = self.store.metadata.get("state_layout", {})
        names = [f"{n}.{i}" for n, (a, b) in parts.items() for i in range(b - a)]
        features: dict[str, Any] = {
            layout.STATE: {
                "dtype": "float32", "shape": [self.width], "names": names if len(names) == self.width else None,
            },
            layout.ACTION: {
                "dtype": "float32", "shape": [actions], "names": list(AXES[:actions]) if actions <= len(AXES) else None,
            },
        }  # fmt: skip
        features |= {
            n: {"dtype": d, "shape": [1], "names": None} for n, d in {**layout.SCALARS, **layout.INDICES}.items()
        }
        if self.changes:
            features[layout.EVENTS] = {"dtype": "language", "shape": [1], "names": None}
        for key, name in self.cameras.items():
            height, width, _ = ObservationLayout(self.store.observation_space).leaves[name].shape
            features[key] = {
                "dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": PIXELS,
                    "video.is_depth_map": False, "video.fps": self.fps, "video.channels": 3, "has_audio": False,
                },
            }  # fmt: skip
        return features


class _Video:
    """Episodes of one camera, one after another in files of at most so many megabytes."""

    def __init__(self, out: Path, key: str, fps: int) -> None:
        self._out, self._key, self._fps = out, key, fps
        self._file, self._frames = -1, 0
        self._container: Any = None
        self._stream: Any = None

    def append(self, pictures: NDArray[np.uint8]) -> dict[str, Any]:
        """One episode; returns where it lies, as its row says."""
        if self._container is None or self._path.stat().st_size > layout.VIDEO_MB * 2**20:
            self._open(pictures.shape[1:3])
        container: Any = self._container
        begin = self._frames
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self._frames, Fraction(1, self._fps)
            container.mux(self._stream.encode(frame))
            self._frames += 1
        chunk, number = divmod(self._file, layout.CHUNK_FILES)
        where = f"videos/{self._key}"
        return {
            f"{where}/chunk_index": chunk, f"{where}/file_index": number,
            f"{where}/from_timestamp": begin / self._fps, f"{where}/to_timestamp": self._frames / self._fps,
        }  # fmt: skip

    def close(self) -> None:
        """Finish the file."""
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None

    @property
    def _path(self) -> Path:
        return layout.place(self._out, layout.VIDEO, self._file, video_key=self._key)

    def _open(self, size: tuple[int, ...]) -> None:
        self.close()
        self._file, self._frames = self._file + 1, 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._path), "w")
        options = {"crf": QUALITY, "g": str(KEY_EVERY), "bf": "0"}
        self._stream = self._container.add_stream(CODEC, rate=self._fps, options=options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = *size, PIXELS


def _pandas_column(name: str, kind: str, numpy_kind: str) -> dict[str, Any]:
    return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}


def _png(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="snappy")


def _write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=4))
