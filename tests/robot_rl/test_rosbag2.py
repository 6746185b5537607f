"""rosbag2 bags: what other people's readers find in them is what the store holds."""

import json
import sys

import numpy as np
import pytest
import yaml

from robot_rl import cli
from robot_rl.data import export_rosbag2
from robot_rl.errors import ConfigError
from robot_rl.geometry import matrix_from_quat, rotvec_from_quat
from robot_rl.store import EpisodeStore
from robot_rl.store.layout import SOURCES


def demos(path, *settings):
    assert cli.main(["demo", "pick_cube", "--episodes", "2", "--out", str(path), "--set", *settings]) == 0
    return EpisodeStore.open(path)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A store with pictures, and its bags by way of the command line."""
    folder = tmp_path_factory.mktemp("rosbag2")
    store = demos(folder / "demos", "observations=vision", "image_size=64")
    assert cli.main(["data", "export", str(store.path), str(folder / "bags"), "--format", "rosbag2"]) == 0
    return store, folder / "bags"


def messages(bag):
    """Topic -> [(time [ns], message)], in the order of the bag."""
    from rosbags.highlevel import AnyReader

    found = {}
    with AnyReader([bag]) as reader:
        for connection, stamp, data in reader.messages():
            found.setdefault(connection.topic, []).append((stamp, reader.deserialize(data, connection.msgtype)))
    return found


def test_every_number_of_the_store_is_there(seen):
    store, bags = seen
    assert sorted(p.name for p in bags.iterdir()) == ["episode_000000", "episode_000001"]
    for record in store.episode_table():
        rows = store.read(record.start, record.stop)
        found = messages(bags / f"episode_{record.index:06d}")

        def column(topic, field, found=found):
            return np.stack([np.asarray(getattr(m, field)) for _, m in found[topic]])

        np.testing.assert_array_equal(column("/observation/state", "data"), rows["observation/state"])
        for camera in ("front", "wrist"):
            images = [m for _, m in found[f"/cameras/{camera}/image_raw"]]
            assert {(m.encoding, m.height, m.width, m.step) for m in images} == {("rgb8", 64, 64, 192)}
            np.testing.assert_array_equal(
                np.stack([m.data for m in images]).reshape(-1, 64, 64, 3), rows[f"observation/images/{camera}"]
            )
        steps = {name: rows[name][: record.length] for name in rows}
        np.testing.assert_array_equal(column("/action", "data"), steps["action"])
        for name in ("reward", "success", "terminated", "truncated", "policy_version"):
            np.testing.assert_array_equal(column(f"/{name}", "data"), steps[name], err_msg=name)
        assert [m.data for _, m in found["/source"]] == [SOURCES[s] for s in steps["source"]]
        assert [m.data for _, m in found["/instruction"]] == ["pick up the cube"]


def test_one_clock_that_only_goes_forward(seen):
    store, bags = seen
    record = store.episode_table()[1]
    found = messages(bags / "episode_000001")
    times = store.read(record.start, record.start + record.length, ["time"])["time"]
    for topic, rows in found.items():
        stamps = np.array([stamp for stamp, _ in rows])
        assert (np.diff(stamps) > 0).all(), topic
        said = [s // 10**9 + (s % 10**9) * 1e-9 for s in stamps.tolist()][: record.length]
        np.testing.assert_array_equal(said, times[: len(said)], err_msg=topic)
        for stamp, message in rows:
            if hasattr(message, "header"):
                assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp


def test_the_state_in_messages_that_ros_tools_draw(seen):
    store, bags = seen
    record = store.episode_table()[0]
    found = messages(bags / "episode_000000")
    state = store.read(record.start, record.stop)["observation/state"].astype(float)
    parts = {name: state[:, a:b] for name, (a, b) in store.metadata["state_layout"].items()}

    def xyz(v):
        return [v.x, v.y, v.z]

    joints, poses, twists, wrenches = (
        [message for _, message in found[topic]]
        for topic in ("/gripper/joint_states", "/current_pose", "/current_twist", "/current_wrench")
    )
    assert joints[0].name == ["gripper_opening"]
    assert [m.position.tolist() for m in joints] == parts["gripper_opening"].tolist()
    assert poses[0].header.frame_id == "episode_start"
    assert [xyz(m.pose.position) for m in poses] == parts["tcp_pose"][:, :3].tolist()
    turns = [m.pose.orientation for m in poses]
    rotvecs = np.array([rotvec_from_quat(np.array([q.x, q.y, q.z, q.w])) for q in turns])
    np.testing.assert_allclose(rotvecs, parts["tcp_pose"][:, 3:], atol=1e-9)
    assert [[*xyz(m.twist.linear), *xyz(m.twist.angular)] for m in twists] == parts["twist_tcp"].tolist()
    assert [[*xyz(m.wrench.force), *xyz(m.wrench.torque)] for m in wrenches] == parts["wrench_tcp"].tolist()
    assert np.abs(parts["wrench_tcp"]).max() > 0, "or this would say nothing"
    assert twists[0].header.frame_id == wrenches[0].header.frame_id == "tcp"


def test_objects_and_changes_of_what_is_asked_for(tmp_path):
    store = demos(tmp_path / "demos", "frame=base")
    record = store.episode_table()[0]
    rows = store.read(record.start, record.stop)
    changed = EpisodeStore.create(
        tmp_path / "changed", observation_space=store.observation_space, action_space=store.action_space,
        metadata=store.metadata,
    )  # fmt: skip
    changed.begin_episode({"state": rows["observation/state"][0]}, instruction="pick up the cube")
    for i, text in enumerate([None, "more to the left", None, "pick up the cube"]):
        changed.append(
            action=rows["action"][i], reward=0.0, terminated=False, truncated=i == 3, instruction=text,
            next_observation={"state": rows["observation/state"][i + 1]}, time=100.0 + 0.1 * i,
        )  # fmt: skip
    changed.close()
    found = messages(export_rosbag2(changed, tmp_path / "bags") / "episode_000000")
    assert [(s, m.data) for s, m in found["/instruction"]] == [
        (100_000_000_000, "pick up the cube"), (100_100_000_000, "more to the left"),
        (100_300_000_000, "pick up the cube"),
    ]  # fmt: skip
    assert [s for s, _ in found["/observation/state"]][-1] == 100_400_000_000, "the last observation comes a step later"
    assert found["/current_pose"][0][1].header.frame_id == "base_facing_down"
    start, stop = store.metadata["state_layout"]["cube_pose"]
    for row, (_, message) in zip(rows["observation/state"][:, start:stop], found["/objects/cube/pose"], strict=False):
        turn, position = message.pose.orientation, message.pose.position
        assert [position.x, position.y, position.z] == row[:3].tolist()
        columns = matrix_from_quat(np.array([turn.x, turn.y, turn.z, turn.w]))[:, :2].T.ravel()
        np.testing.assert_allclose(columns, row[3:], atol=1e-6)
        assert message.header.frame_id == "tcp"


def test_a_strangers_reader_opens_it(seen):
    """Foxglove's own library, which shares no code with the one that wrote it."""
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    store, bags = seen
    record = store.episode_table()[0]
    with (bags / "episode_000000/episode_000000.mcap").open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        assert reader.get_summary().statistics.message_count > 10 * record.length
        actions = [m.data for _, _, _, m in reader.iter_decoded_messages(topics=["/action"])]
        pictures = [m.data for _, _, _, m in reader.iter_decoded_messages(topics=["/cameras/wrist/image_raw"])]
    rows = store.read(record.start, record.stop, ["action", "observation/images/wrist"])
    np.testing.assert_array_equal(np.array(actions, np.float32), rows["action"][:-1])
    assert pictures[-1] == rows["observation/images/wrist"][-1].tobytes()


def test_metadata_says_what_the_bag_is_of(seen):
    store, bags = seen
    about = yaml.safe_load((bags / "episode_000001/metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert about["storage_identifier"] == "mcap"
    said = json.loads(about["custom_data"]["robot_rl"])
    assert said["episode"] == 1
    assert said["success"] is True
    assert said["metadata"]["state_layout"] == store.metadata["state_layout"]


def test_what_is_wrong_is_said(seen, tmp_path, capsys, monkeypatch):
    store, bags = seen
    assert cli.main(["data", "export", str(store.path), str(bags), "--format", "rosbag2"]) == 2
    assert "not empty" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    with pytest.raises(ConfigError, match=r"pip install 'robot-rl\[ros\]'"):
        export_rosbag2(store, tmp_path / "new")
