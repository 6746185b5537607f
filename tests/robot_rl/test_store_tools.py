"""Damage of every kind to an episode store: found, named, repaired, and never read as something else."""

import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from robot_rl import cli
from robot_rl.errors import ConfigError, StoreError
from robot_rl.store import EpisodeStore
from robot_rl.store.check import check_store
from robot_rl.store.copy import merge_stores
from robot_rl.store.mend import mend_bit
from robot_rl.store.repair import repair_store
from robot_rl.store.stats import store_stats
from tests.robot_rl.test_store import ACTION, SPACE, add_episode, append, check_rows, create, observation

WRIST = "observation/images/wrist"
LENGTHS = (7, 30, 12, 25, 3)  # rows 0-7, 8-38, 39-51, 52-77, 78-81; wrist chunks of 16 rows


def sample(path: Path, lengths=LENGTHS) -> Path:
    with create(path, sync=False) as store:
        for episode, length in enumerate(lengths):
            add_episode(store, episode, length, success=episode % 2 == 0, time=1.7e9 + episode)
            store.commit()
    return path


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.suffix != ".lock"}


def test_a_sound_store_is_found_sound_while_it_is_written(tmp_path):
    sample(tmp_path / "s")
    with EpisodeStore.open(tmp_path / "s", write=True) as store:
        store.begin_episode(observation(5, 0))
        append(store, 5, 0, 9)
        store.commit()
        append(store, 5, 1, 9)
        report = check_store(tmp_path / "s")
        assert report.problems == []
        assert (report.rows, report.episodes) == (83, 6)
        assert report.whole == [(0, 8), (8, 39), (39, 52), (52, 78), (78, 82), (82, 83)]


@pytest.mark.parametrize("name", ["steps", WRIST])
def test_every_flipped_bit_is_met_at_the_read_and_put_right(tmp_path, name):
    sample(tmp_path / "s")
    before = contents(tmp_path / "s")
    file = next((tmp_path / "s" / name).glob("c.0*"))
    size = 8 * file.stat().st_size
    rng = np.random.default_rng(0)
    for bit in [0, size - 1, size - 33, *rng.integers(0, size, 12).tolist()]:
        flip(file, bit)
        with pytest.raises(StoreError, match=r"c\.0.*\(rows 0 to .*checksum.*robot-rl store check"):
            EpisodeStore.open(tmp_path / "s").read()
        assert mend_bit(file.read_bytes()) == before[str(file.relative_to(tmp_path / "s"))]
        flip(file, bit)
    flip(file, size // 3)
    repair = repair_store(tmp_path / "s")
    assert "flipped bit" in repair.done[0]
    assert repair.rows_lost == 0
    after = contents(tmp_path / "s")
    assert {n: d for n, d in after.items() if not n.startswith("quarantine/")} == before
    assert len([n for n in after if n.startswith("quarantine/")]) == 1


def test_two_flipped_bits_are_no_flipped_bit():
    import google_crc32c

    rng = np.random.default_rng(0)
    for _ in range(50):
        payload = rng.bytes(300)
        data = bytearray(payload + int(google_crc32c.value(payload)).to_bytes(4, "little"))
        for bit in rng.choice(8 * len(data), 2, replace=False):
            data[bit // 8] ^= 1 << bit % 8
        assert mend_bit(bytes(data)) is None


def test_a_damaged_picture_costs_its_episodes_and_says_so(tmp_path, capsys):
    path = sample(tmp_path / "s")
    store = EpisodeStore.open(path)
    store.write_label("reward/clip", np.arange(82), np.arange(82, dtype=np.float32))
    file = path / WRIST / "c.1.0.0.0"  # rows 16 to 31: episode 1 alone
    file.write_bytes(file.read_bytes()[:20])
    assert cli.main(["store", "check", str(path)]) == 1
    out, err = capsys.readouterr()
    assert f"{WRIST}/c.1.0.0.0" in out
    assert "rows 16 to 31, episode 1." in out
    assert f"robot-rl store repair {path}" in out
    assert "4 episodes (51 rows) are whole" in err
    with pytest.raises(StoreError, match="rows 16 to 31"):
        store.read(0, 20)
    store.read(32, 82)
    assert cli.main(["store", "repair", str(path)]) == 0
    out = capsys.readouterr().out
    assert "lost: 1 of 5 episodes, 31 of 82 rows (rows 8 to 38)" in out
    assert check_store(path).problems == []
    rows = EpisodeStore.open(path).read(columns=["observation/state", "episode", "reward/clip", "instruction"])
    assert rows["observation/state"][:, 0].tolist() == [0] * 8 + [2] * 13 + [3] * 26 + [4] * 4
    assert rows["episode"].tolist() == [0] * 8 + [1] * 13 + [2] * 26 + [3] * 4
    assert rows["reward/clip"].tolist() == [*range(8), *range(39, 82)]
    (aside,) = tmp_path.glob("s.before-repair-*")
    assert (aside / WRIST / "c.1.0.0.0").stat().st_size == 20, "the damaged store is kept as it was"
    with EpisodeStore.open(path, write=True) as store:
        assert [store.instructions[i] for i in rows["instruction"][[0, 8, 21, 50]]] == [
            f"episode {e}" for e in (0, 2, 3, 4)
        ]
        assert store.episodes == 4
        assert store.metadata["repairs"][0]["rows_cut"] == [[8, 39]]


def test_a_lost_file_is_noticed_even_where_the_camera_was_black(tmp_path):
    path = tmp_path / "s"
    with create(path) as store:
        store.begin_episode({**observation(0, 0), "images": {"wrist": np.zeros((4, 5, 3), np.uint8)}})
        for t in range(20):
            black = {**observation(0, t + 1), "images": {"wrist": np.zeros((4, 5, 3), np.uint8)}}
            store.append(action=[0, 0], reward=0.0, terminated=t == 19, truncated=False, next_observation=black)
    assert check_store(path).ok
    (path / WRIST / "c.0.0.0.0").unlink()
    with pytest.raises(StoreError, match="missing"):
        EpisodeStore.open(path).read()
    assert not check_store(path).ok


def test_a_damaged_table_costs_what_it_held(tmp_path):
    path = tmp_path / "s"
    with create(path, sync=False) as store:
        for episode in range(5):
            add_episode(store, episode, 699)
    file = path / "steps" / "c.1.0"  # rows 1024 to 2047: of episodes 1 and 2
    file.write_bytes(bytes(file.stat().st_size))
    report = check_store(path)
    assert [(p.rows, p.episodes) for p in report.problems] == [((1024, 2048), (1, 2))]
    assert report.whole == [(0, 700), (2100, 2800), (2800, 3500)]
    repair = repair_store(path)
    assert (repair.rows_lost, repair.episodes_lost) == (1400, 2)
    reader = EpisodeStore.open(path)
    assert (reader.rows, reader.episodes) == (2100, 3)
    assert np.unique(reader.read()["observation/state"][:, 0]).tolist() == [0, 3, 4]


def test_an_open_episode_stays_open_through_a_repair(tmp_path):
    path = sample(tmp_path / "s")
    with EpisodeStore.open(path, write=True) as store:
        add_episode(store, 5, 40)
        store.begin_episode(observation(6, 0))
        append(store, 6, 0, 9)
        append(store, 6, 1, 9)
    (path / WRIST / "c.0.0.0.0").write_bytes(b"x")
    repair_store(path)
    with EpisodeStore.open(path, write=True) as store:
        assert store.open_episode == 4
        for t in range(2, 9):
            append(store, 6, t, 9)
    rows = EpisodeStore.open(path).read()
    assert rows["observation/state"][-10:, 1].tolist() == list(range(10))
    assert (rows["observation/images/wrist"][-10:, 0, 0, 0] == 42 + np.arange(10)).all()
    assert check_store(path).problems == []


@pytest.mark.parametrize("open_episode", [False, True])
def test_a_damaged_commit_record_is_rebuilt_from_the_rows(tmp_path, open_episode):
    path = sample(tmp_path / "s")
    with EpisodeStore.open(path, write=True) as store:
        if open_episode:
            store.begin_episode(observation(5, 0), instruction="go on")
            append(store, 5, 0, 9)
    commit = json.loads((path / "commit.json").read_text())
    for damage in (lambda f: f.write_bytes(b""), lambda f: flip(f, 85), Path.unlink):
        damage(path / "commit.json")
        if (path / "commit.json").exists():
            with pytest.raises(StoreError, match=r"commit\.json is damaged.*robot-rl store repair"):
                EpisodeStore.open(path)
        assert not check_store(path).ok
        repair_store(path)
        assert json.loads((path / "commit.json").read_text()) == commit
        assert check_store(path).ok
    with EpisodeStore.open(path, write=True) as store:
        assert store.open_episode == (5 if open_episode else None)


def test_damaged_instructions_are_named(tmp_path):
    path = sample(tmp_path / "s")
    text = (path / "instructions.json").read_text()
    (path / "instructions.json").write_text(text.replace("episode 3", "episode 7"))
    with pytest.raises(StoreError, match=r"instructions\.json is damaged: its checksum"):
        EpisodeStore.open(path)
    assert any("look the others over" in line for line in repair_store(path).done)
    assert EpisodeStore.open(path).instructions[3] == "episode 7"
    (path / "instructions.json").write_text("[")
    assert any("5 of 5 texts are lost" in line for line in repair_store(path).done)
    assert EpisodeStore.open(path).instructions[3] == "(instruction 3, lost)"


def test_what_a_killed_writer_left_is_harmless_and_kept_aside(tmp_path, capsys):
    path = sample(tmp_path / "s")
    (path / "steps" / "c.0.0.123.partial").write_bytes(b"half")
    shutil.copy(path / WRIST / "c.0.0.0.0", path / WRIST / "c.77.0.0.0")
    assert cli.main(["store", "check", str(path)]) == 0
    assert "note: steps/c.0.0.123.partial" in capsys.readouterr().out
    repair = repair_store(path)
    assert repair.rows_lost == 0
    (aside,) = repair.kept_aside
    assert (aside / WRIST / "c.77.0.0.0").is_file()
    assert (aside / "steps" / "c.0.0.123.partial").read_bytes() == b"half"
    assert repair_store(path).done == []


def test_rows_that_contradict_each_other_are_named(tmp_path):
    path = sample(tmp_path / "s")
    group = zarr.open_group(path, mode="r+")
    columns = group.attrs["columns"]

    def put(row, name, value):
        group["steps"][row, columns[name]["start"]] = value

    put(3, "reward", np.nan)
    put(20, "source", 9)
    put(38, "final", 0)  # the last of episode 1
    put(60, "terminated", 1)
    put(70, "instruction", 5)
    found = [str(problem) for problem in check_store(path).problems]
    expected = [
        "steps is not finite, row 3, episode 0",
        "source is none of policy, human, script, row 20, episode 1",
        "instruction is not in instructions.json, row 70, episode 3",
        "an episode goes on after its final row, or changes without one, row 39, episode 2",
        "an episode goes on after terminated or truncated, row 61, episode 3",
    ]
    for line in expected:
        assert any(text.startswith(line) for text in found), (line, found)
    repair = repair_store(path, out=tmp_path / "copy")
    assert repair.path == tmp_path / "copy"
    assert EpisodeStore.open(tmp_path / "copy").read()["observation/state"][:, 0].tolist() == [4] * 4
    assert not check_store(path).ok, "with --out the store itself is left as it is"


def test_a_gap_in_the_numbers_costs_no_episode(tmp_path):
    path = sample(tmp_path / "s")
    group = zarr.open_group(path, mode="r+")
    start = group.attrs["columns"]["episode"]["start"]
    group["steps"][39:82, start] = group["steps"][39:82, start] + 5
    found = [str(problem) for problem in check_store(path).problems]
    assert any(text.startswith("episode numbers have a gap, row 39, episode 7.") for text in found), found
    assert any("counts 5 episodes; the last row is of episode 9" in text for text in found), found
    assert repair_store(path).rows_lost == 0
    check_rows(EpisodeStore.open(path))
    assert EpisodeStore.open(path).episodes == 5


def test_a_commit_record_that_counts_too_much(tmp_path):
    path = sample(tmp_path / "s")
    record = {"rows": 80, "episodes": 9, "open_episode": None, "instructions": 5}  # as older stores wrote it
    (path / "commit.json").write_text(json.dumps(record))
    found = [problem.what for problem in check_store(path).problems]
    assert "commit.json counts 9 episodes; the last row is of episode 4" in found
    assert any("open episode is None" in what for what in found)
    repair_store(path)
    assert EpisodeStore.open(path).rows == 78
    check_rows(EpisodeStore.open(path))


def test_a_repair_waits_for_no_writer(tmp_path):
    path = sample(tmp_path / "s")
    with EpisodeStore.open(path, write=True), pytest.raises(StoreError, match="being written by process"):
        repair_store(path)


def test_damaged_labels_are_unset_and_kept_aside(tmp_path):
    path = sample(tmp_path / "s")
    EpisodeStore.open(path).write_label("success/vlm", np.arange(82), np.ones(82, np.float32))
    (path / "labels/success/vlm/c/0").write_bytes(b"rubbish")
    with pytest.raises(StoreError, match=r"labels/success/vlm/c/0 \(rows 0 to 1023\) is damaged"):
        EpisodeStore.open(path).read(columns=["success/vlm"])
    assert "label" in check_store(path).problems[0].what
    repair = repair_store(path)
    assert repair.rows_lost == 0
    assert np.isnan(EpisodeStore.open(path).read(columns=["success/vlm"])["success/vlm"]).all()


def test_merging_keeps_everything_in_order(tmp_path):
    a, b = sample(tmp_path / "a"), sample(tmp_path / "b", (5, 20))
    with EpisodeStore.open(b, write=True) as store:
        store.begin_episode(observation(2, 0), instruction="episode 1")
        append(store, 2, 0, 9, source="human", policy_version=7)
        append(store, 2, 1, 9)
    EpisodeStore.open(b).write_label("reward/clip", np.array([3, 25]), np.array([0.5, 0.25]))
    commit = merge_stores(tmp_path / "m", [a, b])
    assert (commit["rows"], commit["episodes"]) == (82 + 6 + 21 + 3, 8)
    merged, first, second = (EpisodeStore.open(p) for p in (tmp_path / "m", a, b))
    rows, one, two = merged.read(), first.read(), second.read()
    for name, column in rows.items():
        if name not in ("episode", "instruction"):
            np.testing.assert_array_equal(column[:111], np.concatenate([one[name], two[name]])[:111], err_msg=name)
    assert rows["final"][-1]
    assert rows["observation/state"][-1].tolist() == [2, 2, np.float32(0.1)]
    table = merged.episode_table()
    assert [record.instruction for record in table] == [f"episode {e}" for e in (0, 1, 2, 3, 4, 0, 1, 1)]
    assert (table[-1].closed, table[-1].complete, table[-1].length) == (True, False, 2)
    clip = merged.read(columns=["reward/clip"])["reward/clip"]
    assert np.flatnonzero(~np.isnan(clip)).tolist() == [85, 107]
    assert merged.metadata["task"] == "reach"
    assert [m["first_episode"] for m in merged.metadata["merged"]] == [0, 5]
    assert merged.instructions == [f"episode {e}" for e in range(5)]
    with EpisodeStore.open(tmp_path / "m", write=True) as store:
        add_episode(store, 8, 3)
    assert check_store(tmp_path / "m").ok


def test_merging_what_does_not_fit_names_the_difference(tmp_path):
    a = sample(tmp_path / "a")
    other = gym.spaces.Dict({**SPACE.spaces, "state": gym.spaces.Box(-1, 1, (25,), np.float32)})
    EpisodeStore.create(tmp_path / "b", observation_space=other, action_space=ACTION).close()
    with pytest.raises(ConfigError, match=r"observation/state: float32 \(25,\) stored, float32 \(3,\) wanted"):
        merge_stores(tmp_path / "m", [a, tmp_path / "b"])
    with pytest.raises(StoreError, match="not empty"):
        merge_stores(a, [a])
    (a / WRIST / "c.2.0.0.0").unlink()
    with pytest.raises(StoreError, match="missing"):
        merge_stores(tmp_path / "m", [a])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_store_from_before_checksums_is_read_continued_and_merged(tmp_path, monkeypatch):
    before = lambda *, table, level=1: (BloscCodec(cname="lz4", clevel=1),)  # noqa: E731
    monkeypatch.setattr("robot_rl.store.writer.codecs", before)
    path = sample(tmp_path / "s")
    monkeypatch.undo()
    record = json.loads((path / "commit.json").read_text())
    plain = {key: record[key] for key in ("rows", "episodes", "open_episode", "instructions")}
    (path / "commit.json").write_text(json.dumps(plain))
    with EpisodeStore.open(path, write=True) as store:
        add_episode(store, 5, 20)
        check_rows(store)
    report = check_store(path)
    assert report.ok
    assert report.unprotected == ["steps", WRIST]
    merge_stores(tmp_path / "m", [path])
    assert check_store(tmp_path / "m").unprotected == []
    check_rows(EpisodeStore.open(tmp_path / "m"))
    (path / WRIST / "c.1.0.0.0").write_bytes(b"torn")
    with pytest.raises(StoreError, match=r"rows 16 to 31\) is damaged: it cannot be decoded"):
        EpisodeStore.open(path).read()


def test_a_crash_after_an_unacknowledged_end_leaves_the_open_episode_clean(tmp_path, monkeypatch):
    """The chunks of a commit that was never acknowledged hold the current row's step, end and instruction."""
    path = tmp_path / "s"
    store = create(path)
    store.begin_episode(observation(0, 0), instruction="first")
    append(store, 0, 0, 9)
    store.commit()

    def dies(*_, **__):
        raise KeyboardInterrupt

    append(store, 0, 1, 9, instruction="never acknowledged")
    store.begin_episode(observation(1, 0), instruction="nor this")
    append(store, 1, 0, 1)
    monkeypatch.setattr("robot_rl.store.writer.write_commit", dies)
    with pytest.raises(KeyboardInterrupt):
        store.commit()
    monkeypatch.undo()
    store._writer._lock.release()
    with EpisodeStore.open(path, write=True) as store:
        store.begin_episode(observation(1, 0))  # the interrupted episode ends with its last observation
        append(store, 1, 0, 1)
    rows = EpisodeStore.open(path).read()
    assert rows["final"].tolist() == [False, True, False, True]
    assert rows["reward"][1] == 0.0
    assert check_store(path).problems == []


def test_stats_against_a_count_by_hand(tmp_path, capsys):
    path = sample(tmp_path / "run" / "episodes")
    EpisodeStore.open(path).write_label("reward/clip", np.array([3, 25]), np.array([0.5, 0.25]))
    stats = store_stats(path)
    assert (stats["episodes"], stats["steps"], stats["rows"]) == (5, 77, 82)
    assert stats["success_rate"] == pytest.approx(3 / 5)
    assert stats["length"] == {"mean": 77 / 5, "min": 3, "median": 12, "max": 30}
    assert stats["episode_return"]["max"] == 435  # 0 + 1 + ... + 29
    assert stats["sources"] == {"policy": 77}
    assert stats["labels"] == {"reward/clip": 2}
    assert stats["bytes"][WRIST]["raw"] == 82 * 60
    assert stats["bytes"][WRIST]["stored"] == sum(f.stat().st_size for f in (path / WRIST).glob("c.*"))
    assert cli.main(["store", "stats", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 77
    assert cli.main(["store", "stats", str(path)]) == 0
    assert "60.0% of the closed episodes" in capsys.readouterr().out
    assert cli.main(["store", "merge", str(tmp_path / "m"), str(tmp_path / "run"), str(path)]) == 0
    assert "10 episodes, 164 rows from 2 store(s)" in capsys.readouterr().out
    assert cli.main(["store", "check", str(tmp_path)]) == 2
    assert "neither an episode store nor a run" in capsys.readouterr().err
