"""Live topics into a bag, over real DDS on the loopback: what other readers find in it is what was published."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader

from drivers.ros2 import bag
from drivers.ros2 import messages as ros
from drivers.ros2.arguments import in_namespace
from drivers.ros2.bag import BagRecorder, recorded_by_default
from drivers.ros2.node import DEFAULT, LATCHED, SENSOR_DATA, Endpoint
from drivers.ros2.opening import open_node
from robot_rl.errors import ConfigError, StoreError

POSE, TF, IMAGE, COMPRESSED = (
    "geometry_msgs/msg/PoseStamped", "tf2_msgs/msg/TFMessage", "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
)  # fmt: skip
DOMAIN = "17"


@pytest.fixture
def domain(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", DOMAIN)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture
def robot(domain):
    """A node that publishes, where nobody listens who was killed in a run before: DDS takes 10 s to forget them."""
    node = open_node("robot", in_namespace(f"run_{time.time_ns()}"), transport="dds")
    yield node
    node.close()


@pytest.fixture
def recording(domain):
    """Starts a recorder in a thread: `recording(out, ...)`; `.stop()` ends it."""
    started = []

    class Recording:
        def __init__(self, out, **options):
            self.node = open_node("recorder", transport="dds")
            self.recorder = BagRecorder(self.node, out, **options)
            self.ended, self.error = threading.Event(), None
            self.thread = threading.Thread(target=self._run)
            self.thread.start()
            started.append(self)

        def _run(self):
            try:
                self.recorder.run(self.ended)
            except StoreError as error:
                self.error = error

        def stop(self):
            self.ended.set()
            self.thread.join(10.0)
            self.node.close()

    yield Recording
    for one in started:
        one.stop()


def until(what, timeout_s=15.0):
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def messages(path):
    """Topic -> messages, in the order of the bag."""
    found = {}
    with Reader(path) as reader:
        for connection, _, raw in reader.messages():
            found.setdefault(connection.topic, []).append(ros.decode(connection.msgtype, raw))
    return found


def poses(count, start=0):
    stamps = [1000.0 + 0.25 * i for i in range(start, start + count)]
    return [ros.message(POSE, header=ros.header(s, "base"), pose=ros.pose(np.arange(7) + s)) for s in stamps]


@pytest.mark.realtime
def test_everything_published_is_in_the_bag(robot, recording, tmp_path):
    fixed = ros.transform(3.0, "base", "camera", np.array([1.0, 2, 3, 0, 0, 0, 1]))
    latched = robot.publisher("/tf_static", TF, LATCHED)
    latched.publish(ros.message(TF, transforms=[fixed]))
    sure, fast = robot.publisher("target_pose", POSE), robot.publisher("current_pose", POSE, SENSOR_DATA)
    named = [robot.resolve(name) for name in ("target_pose", "current_pose", "later")]
    one = recording(tmp_path / "bag")
    until(lambda: sure.subscribers() and fast.subscribers() and one.recorder.topics.get("/tf_static"))
    before = time.time_ns()
    for pose in poses(300):
        sure.publish(pose)
        fast.publish(pose)
        time.sleep(0.002)
    later = robot.publisher("later", "std_msgs/msg/String")
    until(later.subscribers)
    later.publish(ros.message("std_msgs/msg/String", data="hello"))
    until(lambda: one.recorder.topics[named[0]] == 300 and one.recorder.topics[named[2]])
    one.stop()
    found = messages(tmp_path / "bag")
    assert found[named[0]] == poses(300)
    assert found[named[2]][0].data == "hello"
    assert found["/tf_static"][0].transforms == [fixed], "said before the recorder was there"
    assert len(found[named[1]]) > 250, "best effort, and over the loopback next to nothing is lost"
    assert set(found) == {*named, "/tf_static"}
    with Reader(tmp_path / "bag") as reader:
        offered = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
        stamps = [stamp for connection, stamp, _ in reader.messages() if connection.topic == named[0]]
    assert [(p.reliability, p.durability) for p in offered["/tf_static"]] == [
        (QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL)
    ]
    assert offered[named[1]][0].reliability is QosReliability.BEST_EFFORT
    assert offered[named[0]][0].durability is QosDurability.VOLATILE
    assert before < stamps[0] < stamps[-1] < time.time_ns(), "the moments they came"
    assert sorted(stamps) == stamps


@pytest.mark.realtime
def test_a_strangers_reader_opens_it(robot, recording, tmp_path):
    """Foxglove's own library, which shares no code with the one that wrote it, by the definitions in the bag."""
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    publisher, topic = robot.publisher("target_pose", POSE), robot.resolve("target_pose")
    one = recording(tmp_path / "bag", topics=[topic])
    until(publisher.subscribers)
    for pose in poses(20):
        publisher.publish(pose)
    until(lambda: one.recorder.topics[topic] == 20)
    one.stop()
    with (tmp_path / "bag/bag.mcap").open("rb") as file:
        read = [m for *_, m in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages()]
    assert [m.pose.position.z for m in read] == [1002.0 + 0.25 * i for i in range(20)]
    assert {m.header.frame_id for m in read} == {"base"}


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("free_gib", "max_gib", "match"),
    [(0.5, 100.0, r"the disk has 0.50 GiB left, limit 1 GiB"), (500.0, 1e-6, r"limit 1e-06 GiB \(max_gib\)")],
)
def test_a_full_disk_ends_it_cleanly(free_gib, max_gib, match, robot, recording, tmp_path, monkeypatch):
    publisher, topic = robot.publisher("target_pose", POSE), robot.resolve("target_pose")
    usage = namedtuple("usage", "total used free")
    free = [500.0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, int(free[0] * 2**30)))
    one = recording(tmp_path / "bag", max_gib=max_gib)
    until(publisher.subscribers)
    sent = poses(1000)
    for pose in sent:
        publisher.publish(pose)
        one.thread.join(0.01)
        if one.recorder.topics.get(topic):
            free[0] = free_gib
        if not one.thread.is_alive():
            break
    with pytest.raises(StoreError, match=match + r".*bag is whole up to here"):
        raise one.error
    found = messages(tmp_path / "bag")[topic]
    assert found == sent[: len(found)]


@pytest.mark.realtime
def test_a_disk_that_fails_ends_it_with_a_message(robot, recording, tmp_path, monkeypatch):
    publisher = robot.publisher("target_pose", POSE)
    one = recording(tmp_path / "bag")
    until(publisher.subscribers)

    def fail():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(one.recorder._writer.storage, "close_chunk", fail)
    publisher.publish(poses(1)[0])
    one.thread.join(10.0)
    with pytest.raises(StoreError, match=r"No space left on device.*mcap recover .*bag.mcap -o mended/bag_0.mcap"):
        raise one.error
    assert not (tmp_path / "bag/metadata.yaml").exists()


PROGRAM = "import sys; from drivers.ros2.nodes.bag_node import main; sys.exit(main())"


@pytest.fixture
def program(domain):
    """Starts the node's program: `program(out, ...)`; it does not outlive the test."""
    started = []

    def start(out, *more):
        environment = {**os.environ, "ROBOT_RL_ROS_TRANSPORT": "dds", "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", PROGRAM, "--ros-args", "-p", f"out:={out}", *more]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def on_the_disk(file):
    """Topics and messages of a file without its end, record by record: what `mcap recover` finds in it."""
    from mcap.exceptions import EndOfFile
    from mcap.records import Channel, Message
    from mcap.stream_reader import StreamReader

    records = []
    with file.open("rb") as stream, contextlib.suppress(EndOfFile):
        records.extend(StreamReader(stream).records)
    return [r.topic for r in records if isinstance(r, Channel)], [r.data for r in records if isinstance(r, Message)]


@pytest.mark.realtime
def test_the_program_ends_with_a_whole_bag(robot, program, tmp_path):
    wanted, other = robot.publisher("target_pose", POSE), robot.publisher("other", POSE)
    topic = robot.resolve("target_pose")
    process = program(tmp_path / "bag", "-p", f"topics:=[{topic}, /nobody]")
    until(wanted.subscribers, 30.0)
    for pose in poses(30):
        wanted.publish(pose)
        other.publish(pose)
    until(lambda: len(on_the_disk(tmp_path / "bag/bag.mcap")[1]) == 30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20.0)
    assert process.returncode == 0, said
    assert "bag: 30 messages on 1 topics" in said
    assert "Nothing came on /nobody" in said
    assert messages(tmp_path / "bag") == {topic: poses(30)}


@pytest.mark.realtime
def test_what_is_left_after_sigkill(robot, program, tmp_path):
    """All but what came since the last look."""
    publisher = robot.publisher("target_pose", POSE)
    process = program(tmp_path / "bag")
    until(publisher.subscribers, 30.0)
    for pose in poses(30):
        publisher.publish(pose)
    file = tmp_path / "bag/bag.mcap"
    until(lambda: len(on_the_disk(file)[1]) == 30)
    process.kill()
    process.wait()
    assert sorted(path.name for path in (tmp_path / "bag").iterdir()) == ["bag.mcap"]
    topics, raw = on_the_disk(file)
    assert topics == [robot.resolve("target_pose")]
    assert [ros.decode(POSE, each) for each in raw] == poses(30)


class Graph:
    """A node that only knows of others."""

    def __init__(self, **topics):
        self.seen = topics
        self.heard = []

    def resolve(self, name):
        return f"/{name}".replace("//", "/")

    def topics(self):
        return {f"/{name}": kind for name, (kind, _) in self.seen.items()}

    def publishers(self, topic):
        kind, offers = self.seen[topic[1:]]
        return [Endpoint("/robot", kind, offer) for offer in offers]

    def subscribe(self, topic, kind, take, qos):
        self.heard.append((topic, str(qos)))


def looked(recorder, times=1):
    """Have it look; the file stays closed to the disk."""
    ended = threading.Event()
    count = iter(range(times))
    ended.wait = lambda _: next(count, None) is None
    recorder.run(ended)


def test_a_subscription_fits_every_publisher(tmp_path):
    node = Graph(
        a=(POSE, [DEFAULT]), b=(POSE, [DEFAULT, SENSOR_DATA]), c=(TF, [LATCHED, LATCHED]), d=(TF, [LATCHED, DEFAULT]),
        nobody=(POSE, []),
    )  # fmt: skip
    looked(BagRecorder(node, tmp_path / "bag"), times=3)
    assert node.heard == [
        ("/a", "reliable, volatile"), ("/b", "best effort, volatile"), ("/c", "reliable, transient local"),
        ("/d", "reliable, volatile"),
    ]  # fmt: skip
    with Reader(tmp_path / "bag") as reader:
        assert {c.topic: len(c.ext.offered_qos_profiles) for c in reader.connections} == {
            "/a": 1, "/b": 2, "/c": 2, "/d": 2
        }  # fmt: skip


def test_what_cannot_be_recorded_is_said_once(tmp_path, caplog):
    node = Graph(odd=("foo_msgs/msg/Odd", [DEFAULT]), late=(POSE, [DEFAULT]))
    recorder = BagRecorder(node, tmp_path / "bag")
    look = recorder._look

    def and_then_another_came():
        look()
        node.seen["late"] = (POSE, [DEFAULT, SENSOR_DATA])

    recorder._look = and_then_another_came
    looked(recorder, times=4)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert warnings[0].startswith("/odd is not recorded: Unknown ROS 2 message 'foo_msgs/msg/Odd'")
    assert warnings[1].startswith("/late has a later publisher that is not recorded: the publisher is best effort")
    assert node.heard == [("/late", "reliable, volatile")]


def test_what_is_recorded_by_default():
    seen = {
        "/rosout": "rcl_interfaces/msg/Log", "/parameter_events": "rcl_interfaces/msg/ParameterEvent", "/tf": TF,
        "/gripper/_action/status": "action_msgs/msg/GoalStatusArray", "/wrist/image_raw": IMAGE,
        "/wrist/image_raw/compressed": COMPRESSED, "/front/image_raw": IMAGE,
    }  # fmt: skip
    assert recorded_by_default(seen) == {"/tf", "/wrist/image_raw/compressed", "/front/image_raw"}


def test_an_empty_bag_is_readable(tmp_path):
    looked(BagRecorder(Graph(), tmp_path / "bag"))
    assert messages(tmp_path / "bag") == {}


def test_where_it_cannot_be_written_is_said(tmp_path):
    with pytest.raises(ConfigError, match="is there already; nothing in it was touched"):
        BagRecorder(Graph(), tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"Cannot write .*file/bag: Not a directory"):
        looked(BagRecorder(Graph(), tmp_path / "file/bag"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(bag, "LOOK_S", 0.3)
