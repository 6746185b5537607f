"""LeRobot datasets: the layout others read, and a round trip that loses nothing but what a video codec takes."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robot_rl import cli
from robot_rl.data import export_lerobot, import_lerobot
from robot_rl.data.lerobot_layout import statistics, together
from robot_rl.errors import ConfigError
from robot_rl.store import EpisodeStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("lerobot") / "demos"
    assert cli.main(["demo", "reach", "--episodes", "4", "--out", str(path), "--set", "observations=vision",
                     "image_size=64"]) == 0  # fmt: skip
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def dataset(store, tmp_path_factory):
    return export_lerobot(store, tmp_path_factory.mktemp("lerobot") / "dataset")


def test_the_layout_is_the_published_one(store, dataset):
    """Names, types and counts as `lerobot` 0.4 writes and asks for them."""
    info = json.loads((dataset / "meta/info.json").read_text())
    steps = sum(r.length for r in store.episode_table())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (4, steps, 1, 10)
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    assert info["splits"] == {"train": "0:4"}
    assert info["features"]["observation.images.front"]["shape"] == [64, 64, 3]
    assert info["features"]["observation.state"]["names"][0] == "gripper_opening.0"
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    assert set(table.column_names) == {n for n, f in info["features"].items() if f["dtype"] != "video"}
    assert table["index"].to_pylist() == list(range(steps))
    assert str(table.schema.field("timestamp").type) == "float"
    assert str(table.schema.field("action").type) == "fixed_size_list<element: float>[6]"
    episodes = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [e["length"] for e in episodes] == [r.length for r in store.episode_table()]
    assert episodes[1]["dataset_from_index"] == episodes[0]["dataset_to_index"]
    assert episodes[1]["tasks"] == ["move the gripper to the marker"]
    assert episodes[1]["videos/observation.images.front/from_timestamp"] == pytest.approx(episodes[0]["length"] / 10)
    for name in ("min", "max", "mean", "std", "count"):
        assert f"stats/observation.images.front/{name}" in episodes[0]
    tasks = pq.read_table(dataset / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0], "task": ["move the gripper to the marker"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    stats = json.loads((dataset / "meta/stats.json").read_text())
    assert np.shape(stats["observation.images.wrist"]["mean"]) == (3, 1, 1)
    state = np.stack(table["observation.state"].to_pylist())
    np.testing.assert_allclose(stats["observation.state"]["std"], state.std(0), rtol=1e-4, atol=1e-6)


def test_a_round_trip_keeps_every_number(store, dataset, tmp_path):
    back = import_lerobot(dataset, tmp_path / "back")
    for ours, theirs in zip(store.episode_table(), back.episode_table(), strict=True):
        a, b = store.read(ours.start, ours.stop), back.read(theirs.start, theirs.stop)
        for name in ("observation/state", "action", "reward", "terminated", "truncated", "success", "source", "final",
                     "policy_version", "time"):  # fmt: skip
            np.testing.assert_array_equal(a[name][: ours.length], b[name][: ours.length], err_msg=name)
        np.testing.assert_array_equal(a["observation/state"][-1], b["observation/state"][-1])
        for camera in ("observation/images/front", "observation/images/wrist"):
            away = np.abs(a[camera].astype(int) - b[camera].astype(int))
            assert away.mean() < 3.0, "what H.264 takes"
            np.testing.assert_array_equal(a[camera][-1], b[camera][-1])
        assert ours.instruction == theirs.instruction
    back.check_spaces(store.observation_space, store.action_space)
    back.close()


def test_what_is_imported_trains(dataset, tmp_path):
    import_lerobot(dataset, tmp_path / "back").close()
    settings = ["steps=20", "bc_updates=2", "batch_size=16", "utd_ratio=0.2", "eval_episodes=0", "env.image_size=64",
                "vision.shifts=1"]  # fmt: skip
    arguments = [
        "train",
        "reach",
        "--preset",
        "pixels",
        "--demos",
        str(tmp_path / "back"),
        "--run",
        str(tmp_path / "run"),
    ]
    assert cli.main([*arguments, "--set", *settings]) == 0


def test_what_is_said_within_an_episode_is_an_interjection(tmp_path):
    """Rows as `lerobot` 0.6 has them: on the very frame, without a time of their own, the user's."""
    space = gym.spaces.Dict({"state": gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)})
    store = EpisodeStore.create(
        tmp_path / "store", observation_space=space, action_space=gym.spaces.Box(-1, 1, (3,), np.float32),
        metadata={"control_period_s": 0.1},
    )  # fmt: skip
    said = [[None, "a bit to the left", None, "go on", "insert"], [None, None]]
    for texts in said:
        store.begin_episode({"state": np.zeros(2, np.float32)}, instruction="insert")
        for i, text in enumerate(texts):
            store.append(action=np.zeros(3), reward=0.0, terminated=False, truncated=i == len(texts) - 1,
                         next_observation={"state": np.full(2, i, np.float32)}, instruction=text)  # fmt: skip
    store.close()
    assert cli.main(["data", "export", str(store.path), str(tmp_path / "dataset")]) == 0
    table = pq.read_table(tmp_path / "dataset/data/chunk-000/file-000.parquet").to_pydict()

    def row(text):
        return {"role": "user", "content": text, "style": "interjection", "camera": None, "tool_calls": None}

    assert table["language_events"] == [
        [], [row("a bit to the left")], [], [row("go on")], [row("insert")], [], []
    ]  # fmt: skip
    assert table["task_index"] == [0, 1, 1, 2, 0, 0, 0]
    info = json.loads((tmp_path / "dataset/meta/info.json").read_text())
    assert info["features"]["language_events"] == {"dtype": "language", "shape": [1], "names": None}
    episodes = pq.read_table(tmp_path / "dataset/meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert episodes["tasks"] == [["insert", "a bit to the left", "go on"], ["insert"]]

    def asked(path):
        opened = EpisodeStore.open(path)
        return [opened.instructions[i] for i in opened.read(columns=["instruction"])["instruction"]]

    assert cli.main(["data", "import", str(tmp_path / "dataset"), str(tmp_path / "back")]) == 0
    assert asked(tmp_path / "back") == asked(store.path)

    one_task = pq.read_table(tmp_path / "dataset/data/chunk-000/file-000.parquet")
    where = one_task.column_names.index("task_index")
    pq.write_table(one_task.set_column(where, "task_index", pa.array([0] * 7)),
                   tmp_path / "dataset/data/chunk-000/file-000.parquet")  # fmt: skip
    assert cli.main(["data", "import", str(tmp_path / "dataset"), str(tmp_path / "theirs")]) == 0
    assert asked(tmp_path / "theirs") == asked(store.path), "others leave the task and only interject"


def test_others_have_neither_rewards_nor_a_last_observation(dataset, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    (other / "meta/robot_rl.parquet").unlink()
    path = other / "data/chunk-000/file-000.parquet"
    kept = pq.read_table(path).drop(["next.reward", "next.success", "next.done", "source", "policy_version"])
    pq.write_table(kept, path)
    store = import_lerobot(other, tmp_path / "store")
    for record in store.episode_table():
        assert record.success
        assert record.total_reward == 1.0
        assert record.sources == {"human": record.length}
        states = store.read(record.start, record.stop, ["observation/state"])["observation/state"]
        np.testing.assert_array_equal(states[-1], states[-2])
    store.close()


def test_statistics_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, 3))
    whole, parts = statistics(values), together([statistics(values[:30]), statistics(values[30:])])
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], err_msg=name)


def test_from_the_command_line_and_what_is_wrong_is_said(store, dataset, tmp_path, capsys):
    assert cli.main(["data", "export", str(store.path), str(tmp_path / "d")]) == 0
    assert cli.main(["data", "import", str(tmp_path / "d"), str(tmp_path / "s")]) == 0
    assert "4 episodes" in capsys.readouterr().out
    assert cli.main(["data", "export", str(store.path), str(dataset)]) == 2
    assert "not empty" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no LeRobot dataset"):
        import_lerobot(tmp_path, tmp_path / "x")
    info = json.loads((tmp_path / "d/meta/info.json").read_text())
    (tmp_path / "d/meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(ConfigError, match=r"v2\.1.*convert"):
        import_lerobot(tmp_path / "d", tmp_path / "x")
