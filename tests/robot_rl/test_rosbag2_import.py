"""Bags back into a store: a round trip that loses nothing, and what is said of bags that cannot be read."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pytest

from robot_rl import cli
from robot_rl.data import export_rosbag2, import_rosbag2
from robot_rl.errors import ConfigError, StoreError
from robot_rl.store import EpisodeStore

ACTIONS = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
NUMBERS = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
SEEN = gym.spaces.Dict(
    state=gym.spaces.Box(-np.inf, np.inf, (5,), np.float32),
    count=gym.spaces.Box(0, 2**40, (), np.int64),
    observation=gym.spaces.Box(-1.0, 1.0, (2,), np.float64),
    images=gym.spaces.Dict(
        wrist=gym.spaces.Box(0, 255, (12, 16, 3), np.uint8), depth=gym.spaces.Box(0, 255, (8, 10), np.uint8)
    ),
)


def recorded(path, space, *, lengths=(7, 1, 40), metadata=None):
    """A store of everything a step can be: the second episode ended by its task, the others interrupted."""
    rng = np.random.default_rng(3)
    space.seed(4)
    store = EpisodeStore.create(path, observation_space=space, action_space=ACTIONS, metadata=metadata)
    for episode, length in enumerate(lengths):
        store.begin_episode(space.sample(), instruction=f"task {episode}")
        for i in range(length):
            store.append(
                action=rng.uniform(-1, 1, 4).astype(np.float32), reward=float(np.float32(rng.normal())),
                terminated=episode == 1, truncated=episode == 0 and i == length - 1, next_observation=space.sample(),
                success=bool(rng.integers(2)), source=("policy", "human", "script")[rng.integers(3)],
                policy_version=int(rng.integers(2**50)), instruction=("", "more to the left", None)[rng.integers(3)],
                time=1.75e9 + 100 * episode + 0.1 * i + rng.uniform(0, 0.1),
            )  # fmt: skip
    store.begin_episode(space.sample())  # which closes the last one
    store.close()
    return store


def texts(store, rows):
    return [store.instructions[index] for index in rows["instruction"]]


def assert_same(ours, theirs):
    """Every column of every row, and what stands around them."""
    assert ours.rows == theirs.rows
    a, b = ours.read(), theirs.read()
    for name in ours.layout.columns:
        if name != "instruction":
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
            assert a[name].dtype == b[name].dtype
    assert texts(ours, a) == texts(theirs, b)
    assert ours.episode_table() == theirs.episode_table()
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    own = {"created", "package_version", "rosbag2"}
    assert {k: v for k, v in ours.metadata.items() if k not in own} == {
        k: v for k, v in theirs.metadata.items() if k not in own
    }


@pytest.mark.parametrize("space", [NUMBERS, SEEN], ids=["numbers alone", "with pictures"])
def test_a_round_trip_keeps_everything(space, tmp_path):
    store = recorded(tmp_path / "store", space, metadata={"task": "reach", "control_period_s": 0.1})
    bags = export_rosbag2(store, tmp_path / "bags")
    counted = []
    with import_rosbag2(bags, tmp_path / "back", on_episode=lambda *c: counted.append(c)) as back:
        pass
    assert counted == [(1, 3), (2, 3), (3, 3)]
    assert_same(store, back)
    assert [record.complete for record in back.episode_table()] == [True, True, False]
    assert back.metadata["rosbag2"] == "bags"


def test_demonstrations_by_the_command_line(tmp_path):
    demos, bags, back = (str(tmp_path / name) for name in ("demos", "bags", "back"))
    pictures = ["--set", "observations=vision", "image_size=64"]
    assert cli.main(["demo", "reach", "--episodes", "2", "--out", demos, *pictures]) == 0
    assert cli.main(["data", "export", demos, bags, "--format", "rosbag2"]) == 0
    assert cli.main(["data", "import", bags, back, "--format", "rosbag2"]) == 0
    assert_same(EpisodeStore.open(demos), EpisodeStore.open(back))


def test_one_bag_alone(tmp_path):
    store = recorded(tmp_path / "store", NUMBERS)
    bags = export_rosbag2(store, tmp_path / "bags")
    with import_rosbag2(bags / "episode_000001", tmp_path / "back") as back:
        (record,) = back.episode_table()
    assert (record.index, record.instruction, record.terminated) == (0, "task 1", True)


def test_steps_stay_in_order_where_the_clock_was_set_back(tmp_path):
    store = EpisodeStore.create(tmp_path / "store", observation_space=NUMBERS, action_space=ACTIONS)
    store.begin_episode(np.zeros(3), instruction="0")
    times = [1.75e9, 1.75e9 + 0.5, 1.75e9 - 30.0, 1.75e9 + 0.25, 1.75e9 + 0.75]
    for i, time in enumerate(times):
        store.append(action=np.zeros(4, np.float32), reward=i, terminated=False, truncated=i == 4,
                     next_observation=np.full(3, i + 1.0), instruction=str(i), time=time)  # fmt: skip
    store.close()
    with import_rosbag2(export_rosbag2(store, tmp_path / "bags"), tmp_path / "back") as back:
        rows = back.read()
    assert rows["reward"].tolist() == [0, 1, 2, 3, 4, 0]
    assert rows["observation"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert texts(back, rows) == ["0", "1", "2", "3", "4", "4"]
    assert (rows["time"][:5] - 1.75e9).tolist() == [0.0, 0.5, 0.5, 0.5, 0.75], "never back"


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    return export_rosbag2(recorded(folder / "store", NUMBERS), folder / "bags")


@pytest.fixture
def broken(bags, tmp_path):
    """A copy, to be broken: of its bags, the third one."""
    return shutil.copytree(bags, tmp_path / "bags") / "episode_000002"


def refused(path, tmp_path, match):
    with pytest.raises(ConfigError, match=match):
        import_rosbag2(path, tmp_path / "back")
    assert not (tmp_path / "back").exists(), "nothing was made"


def test_a_directory_that_is_no_bag(tmp_path):
    (tmp_path / "photos").mkdir()
    refused(tmp_path / "photos", tmp_path, "photos is no rosbag2 bag.*robot-rl data export")
    refused(tmp_path / "nowhere", tmp_path, "nowhere is no rosbag2 bag")


def test_a_torn_file(broken, tmp_path):
    file = broken / "episode_000002.mcap"
    file.write_bytes(file.read_bytes()[:-100])
    refused(broken.parent, tmp_path, r"episode_000002 \(episode_000002.mcap\) cannot be read: .*Export it again")


def test_a_file_with_a_hole(broken, tmp_path):
    """Found only while it is read: the episodes before it stay, and the store is left closed."""
    file = broken / "episode_000002.mcap"
    raw = bytearray(file.read_bytes())
    raw[200:1200] = bytes(1000)
    file.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"episode_000002 .*Export it again"):
        import_rosbag2(broken.parent, tmp_path / "back")
    with EpisodeStore.open(tmp_path / "back", write=True) as back:
        assert len(back.episode_table()) == 2


def test_a_bag_whose_export_was_killed(broken, tmp_path):
    (broken / "metadata.yaml").unlink()
    refused(broken.parent, tmp_path, "episode_000002 has no metadata.yaml")


def rewritten(bag, keep=lambda topic: True, custom=None):
    """The bag anew, with some of its topics, and something else in its metadata."""
    from rosbags.rosbag2 import Reader, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    old = bag.rename(bag.with_name(f"{bag.name}.old"))
    writer = Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP)
    with Reader(old) as reader:
        for key, value in (reader.storage.metadata.custom if custom is None else custom).items():
            writer.set_custom_data(key, value)
        with writer:
            store = get_typestore(Stores.ROS2_JAZZY)
            into = {c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store) for c in reader.connections
                    if keep(c.topic)}  # fmt: skip
            for connection, stamp, raw in reader.messages():
                if connection.topic in into:
                    writer.write(into[connection.topic], stamp, raw)
    shutil.rmtree(old)


def test_a_bag_from_somewhere_else(broken, tmp_path):
    rewritten(broken, keep=lambda topic: topic in ("/action", "/reward"), custom={})
    refused(broken, tmp_path, "episode_000002 was not written by.* Its topics: /action, /reward")


@pytest.mark.parametrize("topic", ["/action", "/observation/observation", "/instruction"])
def test_a_bag_that_something_was_taken_out_of(topic, broken, tmp_path):
    rewritten(broken, keep=lambda name: name != topic)
    with pytest.raises(ConfigError, match=f"episode_000002 has no {topic}.*Export it again"):
        import_rosbag2(broken, tmp_path / "back")


def test_bags_of_two_tasks(broken, tmp_path):
    from rosbags.rosbag2 import Reader

    with Reader(broken) as reader:
        said = json.loads(reader.storage.metadata.custom["robot_rl"])
    said["action_space"]["shape"] = [7]
    rewritten(broken, custom={"robot_rl": json.dumps(said)})
    refused(broken.parent, tmp_path, r"episode_000002.*action: float32 \(7,\) stored, float32 \(4,\) wanted")


def test_what_stands_at_the_output_is_not_touched(bags, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="exists and is not empty"):
        import_rosbag2(bags, tmp_path)
    assert cli.main(["data", "import", str(bags), str(tmp_path), "--format", "rosbag2"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
