"""The episode store: what was acknowledged is there, whatever happened in between."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.errors import ConfigError, ShapeError, StoreError
from robot_rl.store import EpisodeStore
from robot_rl.store import files as store_files
from robot_rl.store.layout import space_from_json, space_to_json

ROOT = Path(__file__).parents[2]
ACTION = gym.spaces.Box(-1, 1, (2,), np.float32)
SPACE = gym.spaces.Dict(
    {
        "state": gym.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        "depth": gym.spaces.Box(0, np.inf, (), np.float64),
        "images": gym.spaces.Dict({"wrist": gym.spaces.Box(0, 255, (4, 5, 3), np.uint8)}),
    }
)


def observation(episode: int, t: int) -> dict[str, object]:
    return {
        "state": np.array([episode, t, 0.1], np.float32),
        "depth": np.float64(episode + t / 1000),
        "images": {"wrist": np.full((4, 5, 3), (7 * episode + t) % 256, np.uint8)},
    }


def create(path: Path, **options) -> EpisodeStore:
    return EpisodeStore.create(
        path, observation_space=SPACE, action_space=ACTION, metadata={"task": "reach"}, **options
    )


def append(store: EpisodeStore, episode: int, t: int, length: int, **options) -> None:
    last = t == length - 1
    step = {"reward": float(t), "terminated": last, "truncated": False, **options}
    store.append(action=[t / 100, -t / 100], next_observation=observation(episode, t + 1), **step)


def add_episode(store: EpisodeStore, episode: int, length: int, **options) -> None:
    store.begin_episode(observation(episode, 0), instruction=f"episode {episode}")
    for t in range(length):
        append(store, episode, t, length, **options)


def check_rows(store: EpisodeStore) -> None:
    """Every committed row against its own episode and t, which its state says."""
    rows = store.read()
    episode, t = rows["observation/state"][:, 0].astype(int), rows["observation/state"][:, 1].astype(int)
    np.testing.assert_array_equal(rows["episode"], episode)
    np.testing.assert_array_equal(rows["observation/depth"], episode + t / 1000)
    wrist = rows["observation/images/wrist"]
    np.testing.assert_array_equal(wrist, np.broadcast_to(((7 * episode + t) % 256)[:, None, None, None], wrist.shape))
    steps = ~rows["final"]
    np.testing.assert_array_equal(rows["action"][steps, 0], (t[steps] / 100).astype(np.float32))
    np.testing.assert_array_equal(rows["reward"][steps], t[steps].astype(np.float32))
    follows = np.diff(episode) == 0
    np.testing.assert_array_equal(np.diff(t)[follows], 1)
    assert (t[1:][~follows] == 0).all()
    assert rows["final"][:-1][~follows].all()
    assert not rows["final"][:-1][follows].any()


def test_rows_come_back_as_they_went_in(tmp_path):
    with create(tmp_path / "s") as store:
        add_episode(store, 0, 3, source="human", policy_version=2**40, time=1.7e9 + 0.123456)
        store.commit()
    reader = EpisodeStore.open(tmp_path / "s")
    assert (reader.rows, reader.episodes) == (4, 1)
    assert reader.metadata["task"] == "reach"
    assert reader.observation_space == SPACE
    assert reader.action_space == ACTION
    rows = reader.read()
    assert {name: rows[name].dtype.name for name in ("action", "final", "source", "policy_version", "instruction")} == {
        "action": "float32", "final": "bool", "source": "uint8", "policy_version": "int64", "instruction": "int32",
    }  # fmt: skip
    assert rows["final"].tolist() == [False, False, False, True]
    assert rows["terminated"].tolist() == [False, False, True, False]
    assert rows["reward"].tolist() == [0.0, 1.0, 2.0, 0.0]
    assert rows["source"].tolist() == [1, 1, 1, 0]
    assert rows["policy_version"].tolist() == [2**40] * 3 + [0]
    assert (rows["time"] == 1.7e9 + 0.123456).all()
    assert rows["observation/state"][:, 1].tolist() == [0.0, 1.0, 2.0, 3.0]
    check_rows(reader)


def test_the_episode_table_tells_what_happened(tmp_path):
    with create(tmp_path / "s") as store:
        add_episode(store, 0, 3, success=True)
        store.begin_episode(observation(1, 0), instruction="push")
        append(store, 1, 0, 9, source="human")
        append(store, 1, 1, 9, instruction="push harder")
        store.commit()
        first, second = store.episode_table()
        assert (first.start, first.stop, first.length, first.total_reward, first.success) == (0, 4, 3, 3.0, True)
        assert (first.complete, first.sources, first.instruction) == (True, {"policy": 3}, "episode 0")
        assert (second.start, second.stop, second.length, second.closed) == (4, 6, 2, False)
        assert (second.sources, second.instruction) == ({"policy": 1, "human": 1}, "push")
        assert [store.instructions[i] for i in store.read(4, 6)["instruction"]] == ["push", "push harder"]
        store.begin_episode(observation(2, 0))  # abandons episode 1: its last observation is its final row
        append(store, 2, 0, 1)
        store.commit()
        _, second, third = store.episode_table()
        assert (second.stop, second.length, second.closed, second.complete) == (7, 2, True, False)
        assert (third.index, third.start, third.complete) == (2, 7, True)
        check_rows(store)


def test_an_open_episode_goes_on_after_reopening(tmp_path):
    """Commit and reopen after every single step, over chunk edges of both kinds of array."""
    create(tmp_path / "s").close()
    for t in range(40):
        with EpisodeStore.open(tmp_path / "s", write=True) as store:
            if t == 0:
                store.begin_episode(observation(0, 0))
            else:
                assert store.open_episode == 0
            append(store, 0, t, 40)
    reader = EpisodeStore.open(tmp_path / "s")
    assert (reader.rows, reader.episodes) == (41, 1)
    check_rows(reader)
    assert reader.episode_table()[0].complete


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["", "commit", "reopen", "lose"])), max_size=8))
def test_any_sequence_of_episodes_commits_and_reopenings(tmp_path_factory, sequence):
    path = tmp_path_factory.mktemp("store") / "s"
    store, episode, committed = create(path, sync=False), 0, 0
    for length, then in sequence:
        add_episode(store, episode, length)
        episode += 1
        if then == "lose":  # a killed process: its lock is gone and so is what it had in memory
            store._writer._lock.release()
            episode = store.episodes
        elif then:
            store.commit()
            committed = store.rows
        if then in ("reopen", "lose"):
            if then == "reopen":
                store.close()
            store = EpisodeStore.open(path, write=True, sync=False)
            assert store.rows == committed
    store.close()
    reader = EpisodeStore.open(path)
    assert reader.episodes == episode
    assert [record.index for record in reader.episode_table()] == list(range(episode))
    check_rows(reader)


def test_large_commits_cross_the_table_s_chunks(tmp_path):
    with create(tmp_path / "s", sync=False) as store:
        for episode in range(3):
            add_episode(store, episode, 700)
        store.commit()
        for episode in range(3, 9):
            add_episode(store, episode, 700)
            store.commit()
        assert store.rows == 9 * 701
        check_rows(store)


def test_plain_zarr_reads_it(tmp_path):
    with create(tmp_path / "s") as store:
        add_episode(store, 0, 5)
    group = zarr.open_group(tmp_path / "s", mode="r")
    rows = json.loads((tmp_path / "s" / "commit.json").read_text())["rows"]
    column = group.attrs["columns"]["reward"]
    assert group[column["array"]][:rows, column["start"]].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 0.0]
    assert group["observation/images/wrist"][:rows].shape == (6, 4, 5, 3)


def test_a_reader_sees_commits_and_nothing_else(tmp_path):
    with create(tmp_path / "s") as store:
        reader = EpisodeStore.open(tmp_path / "s")
        add_episode(store, 0, 5)
        reader.refresh()
        assert reader.rows == 0
        assert store.rows == 0
        store.commit()
        assert reader.rows == 0
        reader.refresh()
        assert reader.rows == 6
        with pytest.raises(StoreError, match="6 are committed"):
            reader.read(0, 7)
        with pytest.raises(StoreError, match="no column 'colour'"):
            reader.read(columns=["colour"])
        with pytest.raises(StoreError, match="open for reading"):
            reader.commit()


WRITER = """
    import sys, time
    sys.path[:0] = {paths!r}
    from test_store import EpisodeStore, add_episode
    from pathlib import Path
    store = EpisodeStore.open(Path(sys.argv[1]), write=True)
    episode = store.episodes
    while True:
        add_episode(store, episode, 1 + episode % 23)
        store.commit()
        episode += 1
        print(store.rows, flush=True)
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    code = textwrap.dedent(WRITER).format(paths=[str(ROOT), str(Path(__file__).parent)])
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)


def test_what_was_acknowledged_survives_sigkill_and_readers_never_see_a_torn_row(tmp_path):
    create(tmp_path / "s").close()
    reader = EpisodeStore.open(tmp_path / "s")
    rng = np.random.default_rng(0)
    for kill in range(10):
        writer = start_writer(tmp_path / "s")
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        for _ in range(3):  # reading while it writes
            reader.refresh()
            check_rows(reader)
        time.sleep(rng.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout:
            acknowledged = int(line) if line.endswith("\n") else acknowledged
        writer.wait()
        writer.stdout.close()
        reader.refresh()
        assert reader.rows >= acknowledged > 0, f"kill {kill}"
        check_rows(reader)
    with EpisodeStore.open(tmp_path / "s", write=True) as store:
        assert not list((tmp_path / "s").rglob("*.partial"))
        add_episode(store, store.episodes, 5)
    reader.refresh()
    check_rows(reader)
    assert [record.complete for record in reader.episode_table()] == [True] * reader.episodes


def test_a_crash_between_chunks_and_commit_record_leaves_the_commit(tmp_path, monkeypatch):
    store = create(tmp_path / "s")
    add_episode(store, 0, 10)
    store.commit()

    def dies(path: Path, data: object, *, sync: bool) -> None:
        if path.name == "commit.json":
            raise KeyboardInterrupt
        store_files.write_whole(path, data, sync=sync)

    monkeypatch.setattr("robot_rl.store.commit.write_whole", dies)
    add_episode(store, 1, 20)
    with pytest.raises(KeyboardInterrupt):
        store.commit()
    monkeypatch.undo()
    store._writer._lock.release()
    with EpisodeStore.open(tmp_path / "s", write=True) as store:
        assert (store.rows, store.episodes) == (11, 1)
        add_episode(store, 1, 2)  # over the torn tail
    reader = EpisodeStore.open(tmp_path / "s")
    assert reader.rows == 14
    check_rows(reader)


def fills_up(path: Path, make_room) -> None:
    """Append until the disk is full, make room, commit, and find every row."""
    store = EpisodeStore.open(path, write=True)
    episode, committed = store.episodes, store.rows

    def fill() -> None:
        nonlocal episode, committed
        for _ in range(400):
            add_episode(store, episode, 40)
            episode += 1
            store.commit()
            committed = store.rows

    with pytest.raises(StoreError, match="disk is full") as caught:
        fill()
    assert caught.value.disk_full
    reader = EpisodeStore.open(path)
    assert reader.rows == committed
    check_rows(reader)
    assert not list(path.rglob("*.partial"))
    with pytest.raises(StoreError, match="disk is full"):
        store.close()
    make_room()
    store.commit()
    assert store.rows == 41 * episode
    add_episode(store, episode, 3)
    store.close()
    reader.refresh()
    check_rows(reader)
    assert reader.episodes == episode + 1


@pytest.mark.skipif(
    os.geteuid() != 0, reason="mounting a small disk needs root; the file size limit is tested beside it"
)
def test_a_full_disk_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this container may not mount: {mounted.stderr.decode().strip()}")
    try:
        rubbish = disk / "rubbish"
        rubbish.write_bytes(bytes(200_000))
        create(disk / "s").close()
        fills_up(disk / "s", rubbish.unlink)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_size_limit_is_met_like_a_full_disk(tmp_path):
    create(tmp_path / "s").close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, hard))  # the table's chunk outgrows it
    try:
        fills_up(tmp_path / "s", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_second_writer_is_refused_and_told_who_has_it(tmp_path):
    store = create(tmp_path / "s")
    with pytest.raises(StoreError, match=f"process {os.getpid()}"):
        EpisodeStore.open(tmp_path / "s", write=True)
    store.close()
    writer = start_writer(tmp_path / "s")
    assert writer.stdout is not None
    writer.stdout.readline()
    with pytest.raises(StoreError, match=f"process {writer.pid}"):
        EpisodeStore.open(tmp_path / "s", write=True)
    writer.kill()
    writer.wait()
    writer.stdout.close()
    EpisodeStore.open(tmp_path / "s", write=True).close()


def test_the_spaces_of_another_task_are_refused_by_key(tmp_path):
    with create(tmp_path / "s") as store:
        store.check_spaces(SPACE, ACTION)
        other = gym.spaces.Dict({**SPACE.spaces, "state": gym.spaces.Box(-1, 1, (25,), np.float32)})
        with pytest.raises(ConfigError, match=r"observation/state: float32 \(3,\) stored, float32 \(25,\) wanted"):
            store.check_spaces(other, ACTION)
        with pytest.raises(ConfigError, match=r"action: float32 \(2,\) stored, float32 \(7,\) wanted"):
            store.check_spaces(SPACE, gym.spaces.Box(-1, 1, (7,), np.float32))
        with pytest.raises(ConfigError, match=r"wrist: uint8 \(4, 5, 3\) stored, absent wanted"):
            store.check_spaces(gym.spaces.Dict({k: v for k, v in SPACE.items() if k != "images"}), ACTION)


def test_labels_stand_beside_the_rewards(tmp_path):
    with create(tmp_path / "s") as store:
        add_episode(store, 0, 1500)
        store.commit()
        annotator = EpisodeStore.open(tmp_path / "s")
        annotator.write_label("reward/clip", np.array([3, 1400]), np.array([0.5, 0.25]))
        rows = annotator.read(columns=["reward", "reward/clip"])
        assert np.flatnonzero(~np.isnan(rows["reward/clip"])).tolist() == [3, 1400]
        assert rows["reward/clip"][[3, 1400]].tolist() == [0.5, 0.25]
        assert rows["reward"][3] == 3.0
        add_episode(store, 1, 3000)
        store.commit()
        assert np.isnan(store.read(1400, 4000, ["reward/clip"])["reward/clip"][1:]).all()
        with pytest.raises(StoreError, match="1501 are committed"):
            annotator.write_label("reward/clip", np.array([1501]), np.array([0.5]))
        with pytest.raises(StoreError, match="cannot name a label"):
            annotator.write_label("../reward", np.array([1]), np.array([0.5]))
        with pytest.raises(StoreError, match="no column 'reward/vlm'"):
            store.read(columns=["reward/vlm"])


def test_what_is_not_a_store_says_what_to_do(tmp_path):
    with pytest.raises(StoreError, match="not an episode store"):
        EpisodeStore.open(tmp_path)
    create(tmp_path / "s").close()
    with pytest.raises(StoreError, match="not empty"):
        create(tmp_path / "s")
    header = json.loads((tmp_path / "s" / "zarr.json").read_text())
    header["attributes"]["robot_rl_store"]["format"] = 99
    (tmp_path / "s" / "zarr.json").write_text(json.dumps(header))
    with pytest.raises(StoreError, match=r"format 99.*Update"):
        EpisodeStore.open(tmp_path / "s")
    (tmp_path / "s" / "zarr.json").unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        EpisodeStore.open(tmp_path / "s")


def test_wrong_input_is_refused_and_adds_nothing(tmp_path):
    with create(tmp_path / "s") as store:
        with pytest.raises(StoreError, match="begin_episode"):
            append(store, 0, 0, 5)
        store.begin_episode(observation(0, 0))
        wrong = observation(0, 1)
        wrong["images"] = {"wrist": np.zeros((4, 5, 3), np.float32)}
        arguments = {"action": [0.0, 0.0], "reward": 0.0, "terminated": False, "truncated": False}
        with pytest.raises(ShapeError, match=r"wrist.*float32, expected uint8"):
            store.append(**arguments, next_observation=wrong)
        with pytest.raises(ShapeError, match="finite"):
            store.append(**{**arguments, "reward": np.nan}, next_observation=observation(0, 1))
        with pytest.raises(ConfigError, match="ghost"):
            store.append(**arguments, next_observation=observation(0, 1), source="ghost")
        store.commit()
        assert store.rows == 0
        append(store, 0, 0, 1)
        store.commit()
        check_rows(store)
    with pytest.raises(ConfigError, match="JSON"):
        EpisodeStore.create(tmp_path / "t", observation_space=SPACE, action_space=ACTION, metadata={"x": object()})
    with pytest.raises(ConfigError, match="Discrete"):
        EpisodeStore.create(tmp_path / "u", observation_space=gym.spaces.Discrete(3), action_space=ACTION, metadata={})


@pytest.mark.parametrize(
    "space", [SPACE, ACTION, gym.spaces.Box(np.array([0.0, -np.inf]), np.array([1.0, 3.3]), dtype=np.float64)]
)
def test_spaces_survive_json(space):
    assert space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False))) == space
