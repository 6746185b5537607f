"""A LeRobot dataset as an episode store: ours come back as they were, others' as far as they have what a step needs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import gymnasium as gym
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robot_rl.data import lerobot_layout as layout
from robot_rl.errors import ConfigError
from robot_rl.store import EpisodeStore
from robot_rl.store.layout import SOURCES

__all__ = ["import_lerobot"]


def import_lerobot(
    dataset: str | Path, out: str | Path, *, on_episode: Callable[[int, int], None] = lambda _done, _of: None
) -> EpisodeStore:
    """Write a LeRobotDataset v3.0 as a store.

    The state becomes `state`, each camera `images/<name>`. The instruction follows a frame's task and what a user
    interjects (`language_events`), whichever was said last. What the last action of an episode led to is not in the
    format: where `meta/robot_rl.parquet` has it, it is taken from there, else the last observation stands twice.
    Without a reward column an episode counts as a success and its last step is rewarded; without sources its steps are
    a person's. Actions outside [-1, 1] are scaled by the dataset's largest, and the store's metadata says by what.

    Args:
        dataset: Its directory.
        out: The store to make.
        on_episode: Called with the episodes done and their number.

    Returns:
        The store, open for writing.

    Raises:
        ConfigError: It is no dataset of this version, or lacks state or action.
        StoreError: The store cannot be written.
    """
    root = Path(dataset)
    info = _info(root)
    features = info["features"]
    cameras = {key.removeprefix(layout.IMAGES): key for key, f in features.items() if f["dtype"] == "video"}
    frames = _table(root, "data", None)
    episodes = _table(root, "meta/episodes", [c for c in _columns(root, "meta/episodes") if not c.startswith("stats/")])
    tasks = pq.read_table(root / layout.TASKS).to_pydict()
    texts = dict(zip(tasks["task_index"], next(v for k, v in tasks.items() if k != "task_index"), strict=True))
    ours = (
        {r["episode_index"]: r for r in pq.read_table(root / layout.OURS).to_pylist()}
        if (root / layout.OURS).is_file()
        else {}
    )
    state, action = (np.stack(frames[name]).astype(np.float32) for name in (layout.STATE, layout.ACTION))
    scale = np.maximum(np.abs(action).max(0), 1.0)
    store = EpisodeStore.create(
        out,
        observation_space=_space(state.shape[1], {n: features[k]["shape"] for n, k in cameras.items()}),
        action_space=gym.spaces.Box(-1.0, 1.0, (action.shape[1],), np.float32),
        metadata={
            **info.get("robot_rl", {}).get("metadata", {"task": "", "env": {}}),
            "control_period_s": 1.0 / info["fps"],
            "lerobot": str(root.name),
            "action_scale": scale.tolist(),
        },
    )
    for number, episode in enumerate(_rows(episodes)):
        first, stop = int(episode["dataset_from_index"]), int(episode["dataset_to_index"])
        pictures = {name: _decode(root, key, episode, stop - first, info["fps"]) for name, key in cameras.items()}
        part = {name: frames[name][first:stop] for name in frames}
        final = ours.get(int(episode["episode_index"]))
        _write(store, part, state[first:stop], action[first:stop] / scale, pictures, final, texts)
        on_episode(number + 1, info["total_episodes"])
    store.commit()
    return store


def _write(
    store: EpisodeStore,
    part: dict[str, list[Any]],
    state: NDArray[np.float32],
    action: NDArray[np.float32],
    pictures: dict[str, NDArray[np.uint8]],
    final: dict[str, Any] | None,
    texts: dict[int, str],
) -> None:
    count = len(state)

    def seen(i: int) -> Any:
        if i < count:
            return _observation(state[i], {n: p[i] for n, p in pictures.items()})
        if final is None:
            return seen(count - 1)
        last = {n: _picture(final[f"{layout.IMAGES}{n}"]) for n in pictures}
        return _observation(np.array(final[layout.STATE], np.float32), last)

    asked = _asked(part, texts)
    store.begin_episode(seen(0), instruction=asked[0])
    rewards = part.get("next.reward") or [*[0.0] * (count - 1), 1.0]
    successes = part.get("next.success") or [*[False] * (count - 1), True]
    terminated = final["terminated"] if final is not None else bool(successes[-1])
    for i in range(count):
        ends = i == count - 1
        store.append(
            action=action[i], reward=float(rewards[i]), terminated=ends and terminated,
            truncated=ends and not terminated, next_observation=seen(i + 1), success=bool(successes[i]),
            source=SOURCES[int(part["source"][i])] if "source" in part else "human",
            policy_version=int(part["policy_version"][i]) if "policy_version" in part else 0, instruction=asked[i],
            time=final["time"][i] if final is not None else float(part["timestamp"][i]),
        )  # fmt: skip
    store.commit()


def _asked(part: dict[str, list[Any]], texts: dict[int, str]) -> list[str]:
    """What is asked for at each frame of an episode."""
    tasks, asked = part["task_index"], list[str]()
    for i, task in enumerate(tasks):
        events: list[dict[str, Any]] = (part[layout.EVENTS][i] if layout.EVENTS in part else None) or []
        said = [e["content"] for e in events if e["style"] == "interjection" and e["role"] == "user" and e["content"]]
        asked.append(said[-1] if said else asked[-1] if i and task == tasks[i - 1] else texts[int(task)])
    return asked


def _info(root: Path) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads((root / layout.INFO).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{root} is no LeRobot dataset: {layout.INFO} cannot be read ({error}).") from error
    if info.get("codebase_version") != layout.VERSION:
        raise ConfigError(
            f"{root} has version {info.get('codebase_version')}; this reads {layout.VERSION}. Convert it with "
            "lerobot's own convert_dataset_v21_to_v30."
        )
    missing = [name for name in (layout.STATE, layout.ACTION) if name not in info["features"]]
    if missing:
        raise ConfigError(f"{root} has no {' and no '.join(missing)}; it has: {', '.join(info['features'])}.")
    return info


def _table(root: Path, folder: str, columns: list[str] | None) -> dict[str, list[Any]]:
    whole: dict[str, list[Any]] = {}
    for path in sorted((root / folder).glob("*/*.parquet")):
        for name, values in pq.read_table(path, columns=columns).to_pydict().items():
            whole.setdefault(name, []).extend(values)
    return whole


def _columns(root: Path, folder: str) -> list[str]:
    paths = sorted((root / folder).glob("*/*.parquet"))
    if not paths:
        raise ConfigError(f"{root} has no {folder}/*/*.parquet.")
    return list(pq.read_schema(paths[0]).names)


def _rows(table: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]


def _decode(root: Path, key: str, episode: dict[str, Any], count: int, fps: float) -> NDArray[np.uint8]:
    """The pictures of one episode: those of its frames, out of a file that may hold more."""
    number = int(episode[f"videos/{key}/chunk_index"]) * layout.CHUNK_FILES + int(episode[f"videos/{key}/file_index"])
    begin = float(episode[f"videos/{key}/from_timestamp"])
    pictures: list[NDArray[np.uint8]] = []
    with av.open(str(layout.place(root, layout.VIDEO, number, video_key=key))) as container:
        stream = container.streams.video[0]
        container.seek(max(0, int((begin - 0.5 / fps) / float(stream.time_base or 1))), stream=stream)
        for frame in container.decode(stream):
            if frame.time >= begin - 0.5 / fps:
                pictures.append(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
            if len(pictures) == count:
                break
    if len(pictures) != count:
        raise ConfigError(f"{key} of episode {episode['episode_index']} has {len(pictures)} frames, {count} were said.")
    return np.stack(pictures)


def _space(width: int, cameras: dict[str, Any]) -> gym.Space[Any]:
    spaces: dict[str, gym.Space[Any]] = {"state": gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)}
    if cameras:
        spaces["images"] = gym.spaces.Dict({n: gym.spaces.Box(0, 255, tuple(s), np.uint8) for n, s in cameras.items()})
    return gym.spaces.Dict(spaces)


def _observation(state: NDArray[np.float32], pictures: dict[str, NDArray[np.uint8]]) -> dict[str, Any]:
    return {"state": state, "images": pictures} if pictures else {"state": state}


def _picture(png: bytes) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ConfigError("A final picture in meta/robot_rl.parquet cannot be decoded.")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
