"""rosbag2 bags that `export_rosbag2` wrote as an episode store again: every number of a step as it was.

Back come, bit for bit, the observations with the last one, actions, rewards, terminated, truncated, success, source,
policy version and instruction of every step, the spaces and the metadata. What the bags do not hold does not:

- labels beside the steps (`reward/<labeller>`);
- the episodes' numbers: they are counted anew, in the order of the bags' names;
- an episode that was open or had no step: it was not exported;
- of the times what is below a nanosecond (nothing of UNIX times), and a clock that was set back within an episode;
- `created` and `package_version` in the metadata, which are the new store's.

A torn or cut bag is named. A flipped bit is not always noticed: the bags have no checksums, as the store has.
"""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.data.rosbag2_export import CUSTOM_DATA, leaf_topic
from robot_rl.errors import ConfigError, RobotRLError
from robot_rl.observation import ROOT, ObservationLayout
from robot_rl.store import EpisodeStore
from robot_rl.store.layout import check_same_spaces, space_from_json

__all__ = ["import_rosbag2"]

STEP = ("action", "reward", "success", "terminated", "truncated", "source", "policy_version")
INSTRUCTION = "/instruction"
AGAIN = "Export it again: robot-rl data export STORE OUT --format rosbag2"


def import_rosbag2(
    bags: str | Path, out: str | Path, *, on_episode: Callable[[int, int], None] = lambda _done, _of: None
) -> EpisodeStore:
    """Write bags as a store; see the module for what comes back.

    Every bag is opened before the store is made. Should one turn out to be damaged within, the episodes before it are
    in the store.

    Args:
        bags: The directory that `export_rosbag2` made, or one bag in it.
        out: The store to make.
        on_episode: Called with the episodes done and their number.

    Returns:
        The store, open for writing.

    Raises:
        ConfigError: There is no bag, one cannot be read, is not of `export_rosbag2`, lacks messages or is of another
            task than the first, or `rosbags` is not installed.
        StoreError: The store cannot be written.
    """
    try:
        import rosbags.rosbag2  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise ConfigError("rosbag2 needs the package rosbags: pip install 'robot-rl[ros]'") from error
    root = Path(bags)
    paths = _bags(root)
    said = [_about(path) for path in paths]
    spaces = [tuple(space_from_json(each[f"{side}_space"]) for side in ("observation", "action")) for each in said]
    for path, (seen, done) in zip(paths, spaces, strict=True):
        check_same_spaces((seen, done), (spaces[0][0], spaces[0][1]), f"{path}, to be imported with {paths[0]},")
    store = EpisodeStore.create(
        out, observation_space=spaces[0][0], action_space=spaces[0][1],
        metadata={**said[0]["metadata"], "rosbag2": root.resolve().name},
    )  # fmt: skip
    try:
        for number, path in enumerate(paths):
            _write(store, *_read(path, store))
            on_episode(number + 1, len(paths))
    except BaseException:
        store.close()
        raise
    return store


def _bags(root: Path) -> list[Path]:
    """Every bag there, also one that lacks its metadata: it shall be missed, not passed over."""
    within = "" if any(root.glob("metadata.yaml")) or any(root.glob("*.mcap")) else "*/"
    found = {path.parent for name in ("metadata.yaml", "*.mcap") for path in root.glob(within + name)}
    if not found:
        raise ConfigError(
            f"{root} is no rosbag2 bag, and no directory in it is one: none has a metadata.yaml. Give the directory "
            "made by: robot-rl data export STORE OUT --format rosbag2"
        )
    return sorted(found)


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    """A bag's reader; whatever is wrong with its bytes is said as one error."""
    from rosbags.rosbag2 import Reader

    if not (path / "metadata.yaml").is_file():
        raise ConfigError(f"The bag {path} has no metadata.yaml: what wrote it did not come to its end. {AGAIN}")
    try:
        with Reader(path) as reader:
            yield reader
    except RobotRLError:
        raise
    except Exception as error:  # damaged bytes come as errors of a dozen kinds: zstd's, YAML's, struct's, ...
        files = ", ".join(sorted(file.name for file in path.glob("*.mcap"))) or "no .mcap file"
        raise ConfigError(f"The bag {path} ({files}) cannot be read: {str(error).rstrip('.')}. {AGAIN}") from error


def _about(path: Path) -> dict[str, Any]:
    """What the export said of an episode."""
    with _opened(path) as reader:
        topics = sorted(connection.topic for connection in reader.connections)
        custom = reader.storage.metadata.custom or {}
        about: dict[str, Any] = json.loads(custom.get(CUSTOM_DATA, "{}"))
    if "observation_space" not in about:
        raise ConfigError(
            f"The bag {path} was not written by `robot-rl data export`, or by one before it told the spaces: its "
            f"metadata.yaml has none in custom_data/{CUSTOM_DATA}. Its topics: {', '.join(topics) or 'none'}. {AGAIN}"
        )
    return about


def _read(path: Path, store: EpisodeStore) -> tuple[dict[str, list[Any]], list[Any]]:
    """An episode's columns by name, with `time` and `instruction`, and its observations."""
    from rosbags.typesys import Stores, get_typestore

    layout = ObservationLayout(store.observation_space)
    leaves = {leaf_topic(layout, leaf): leaf for leaf in layout.leaves}
    steps = {f"/{name}": name for name in STEP}
    found: dict[str, list[Any]] = {name: [] for name in [*leaves.values(), *STEP, "time", "instruction"]}
    typestore: Any = get_typestore(Stores.ROS2_JAZZY)
    asked = ""
    with _opened(path) as reader:
        wanted = [each for each in reader.connections if each.topic in {*leaves, *steps, INSTRUCTION}]
        if missing := sorted({*leaves, *steps, INSTRUCTION} - {each.topic for each in wanted}):
            raise ConfigError(f"The bag {path} has no {', no '.join(missing)}. Something was taken out of it. {AGAIN}")
        for connection, stamp, raw in reader.messages(wanted):
            topic, value = connection.topic, typestore.deserialize_cdr(raw, connection.msgtype).data
            if topic in leaves:
                box = layout.leaves[leaves[topic]]
                found[leaves[topic]].append(np.asarray(value).astype(box.dtype).reshape(box.shape))
            elif topic == INSTRUCTION:  # it holds from the next action on
                asked = value
            else:
                found[steps[topic]].append(value)
            if topic == "/action":
                found["time"].append(stamp // 10**9 + stamp % 10**9 * 1e-9)
                found["instruction"].append(asked)
    count = len(found["action"])
    for topic, name in {**steps, **leaves}.items():
        expected = count + (topic in leaves)
        if len(found[name]) != expected or not count:
            raise ConfigError(
                f"The bag {path} has {len(found[name])} messages on {topic}; with {count} on /action it takes "
                f"{max(expected, 1)}. It is damaged, or something was taken out of it. {AGAIN}"
            )
    seen = [{leaf.removeprefix(f"{ROOT}/"): found[leaf][i] for leaf in layout.leaves} for i in range(count + 1)]
    return {n: found[n] for n in (*STEP, "time", "instruction")}, found[ROOT] if ROOT in layout.leaves else seen


def _write(store: EpisodeStore, columns: dict[str, list[Any]], seen: list[Any]) -> None:
    store.begin_episode(seen[0], instruction=columns["instruction"][0])
    for i in range(len(seen) - 1):
        store.append(**{name: values[i] for name, values in columns.items()}, next_observation=seen[i + 1])
    if store.open_episode is not None:  # it was cut off: beginning another one closes it as it is
        store.begin_episode(seen[-1])
    store.commit()
