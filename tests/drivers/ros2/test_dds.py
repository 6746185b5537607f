"""A node over DDS, as others see it: two processes of one domain on loopback."""

import threading
import time

import numpy as np
import pytest

from drivers import bench_ros2
from drivers.ros2 import messages as ros
from drivers.ros2.arguments import Arguments, Remapping, in_namespace
from drivers.ros2.node import DEFAULT, LATCHED, NEWEST, SENSOR_DATA, Qos, mismatch
from drivers.ros2.opening import open_node
from robot_rl.errors import ConfigError, DeviceTimeoutError
from tests.drivers.ros2.emulated import apart

pytestmark = pytest.mark.realtime

STRING, TRIGGER = "std_msgs/msg/String", "std_srvs/srv/Trigger"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name, value in apart(26).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ROS_LOCALHOST_ONLY", raising=False)


@pytest.fixture
def pair():
    nodes = open_node("one"), open_node("two", in_namespace("left"))
    yield nodes
    for node in nodes:
        node.close()


def text(data):
    return ros.message(STRING, data=data)


def eventually(condition, limit_s=5.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_messages_arrive_in_order_and_whole(pair):
    one, two = pair
    heard = []
    two.subscribe("/words", STRING, lambda content: heard.append(content.data), Qos(depth=100))
    publisher = one.publisher("words", STRING, Qos(depth=100))
    eventually(publisher.subscribers)
    for i in range(50):
        publisher.publish(text(f"ä{i}"))
    eventually(lambda: len(heard) == 50)
    assert heard == [f"ä{i}" for i in range(50)]


def test_what_is_latched_reaches_who_comes_later(pair):
    one, two = pair
    one.publisher("state", STRING, LATCHED).publish(text("ready"))
    heard = []
    two.subscribe("/state", STRING, lambda content: heard.append(content.data), LATCHED)
    eventually(lambda: heard == ["ready"])


def test_a_service_answers_several_at_once(pair):
    one, two = pair
    both = threading.Barrier(2, timeout=5.0)

    def answer(_):
        both.wait()
        return ros.message(f"{TRIGGER}_Response", success=True, message="done")

    one.serve("work", TRIGGER, answer)
    answers = []
    ask = lambda: answers.append(two.call("/work", TRIGGER, ros.message(f"{TRIGGER}_Request"), 5.0).message)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["done", "done"]


def test_a_service_that_fails_or_is_missing_is_a_timeout(pair, caplog):
    one, two = pair

    def fail(_):
        raise ValueError("broken")

    one.serve("work", TRIGGER, fail)
    with pytest.raises(DeviceTimeoutError, match=r"/work took the request and has not answered within 1 s"):
        two.call("/work", TRIGGER, ros.message(f"{TRIGGER}_Request"), 1.0)
    assert "work could not be answered" in caplog.text
    with pytest.raises(DeviceTimeoutError, match="Nobody offers the ROS service /left/void"):
        two.call("void", TRIGGER, ros.message(f"{TRIGGER}_Request"), 0.2)


def test_the_graph_names_nodes_kinds_and_qos(pair):
    one, two = pair
    one.publisher("words", STRING, SENSOR_DATA)
    two.subscribe("/words", STRING, lambda _: None, LATCHED)
    eventually(lambda: one.subscribers("words") and two.publishers("/words"))
    eventually(lambda: two.publishers("/words")[0].node == "/one")
    (sender,), (listener,) = two.publishers("/words"), one.subscribers("words")
    assert (sender.kind, sender.qos.reliable) == (STRING, False)
    assert (listener.node, listener.qos.transient_local) == ("/left/two", True)
    assert "best effort" in mismatch(sender.qos, listener.qos)
    assert one.topics()["/words"] == STRING


def test_who_leaves_is_gone_from_the_graph(pair):
    _, two = pair
    three = open_node("three")
    three.publisher("words", STRING)
    eventually(lambda: two.publishers("/words"))
    three.close()
    three.close()  # twice is once
    eventually(lambda: not two.publishers("/words"))


def test_a_listener_that_fails_hears_the_next_one(pair, caplog):
    one, two = pair
    heard = []

    def take(content):
        heard.append(content.data)
        raise ValueError("broken")

    two.subscribe("/words", STRING, take)
    publisher = one.publisher("words", STRING)
    eventually(publisher.subscribers)
    for word in ("a", "b"):
        publisher.publish(text(word))
    eventually(lambda: heard == ["a", "b"])
    assert "could not be dealt with" in caplog.text


@pytest.mark.parametrize(
    ("offered", "requested", "why"),
    [
        (SENSOR_DATA, NEWEST, "best effort"),
        (DEFAULT, LATCHED, "volatile"),
        (LATCHED, SENSOR_DATA, ""),
        (NEWEST, NEWEST, ""),
    ],
)
def test_who_serves_whom(offered, requested, why):
    """The table of ROS 2's documentation on QoS compatibilities."""
    assert why in mismatch(offered, requested)
    assert bool(mismatch(offered, requested)) == bool(why)


@pytest.mark.parametrize(
    ("name", "options", "domain", "why"),
    [
        ("a-b", {}, "1", "cannot be called 'a-b'"),
        ("1st", {}, "1", "cannot be called '1st'"),
        ("one", {"transport": "zenoh"}, "1", "'zenoh': rclpy or dds"),
        ("one", {"transport": "dds"}, "300", "from 0 to 232"),
        ("one", {"transport": "dds"}, "two", "ROS_DOMAIN_ID is 'two'"),
    ],
)
def test_what_cannot_be_opened(name, options, domain, why, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    with pytest.raises(ConfigError, match=why):
        open_node(name, **options)


def test_parameters_are_those_of_the_command_line():
    node = open_node("one", Arguments("renamed", Remapping("/cell", (("words", "/said"),))))
    try:
        assert (node.name, node.resolve("words"), node.resolve("~/x")) == ("renamed", "/said", "/cell/renamed/x")
    finally:
        node.close()


def test_two_cameras_lose_nothing_and_poses_come_back(monkeypatch):
    """The benchmark, briefly: 640 x 480 at 30 Hz from another process, best effort."""
    monkeypatch.setattr(bench_ros2, "FILM_S", 3.0)
    monkeypatch.setattr(bench_ros2, "TRIPS", 50)
    records = {record["name"]: record for record in bench_ros2.ros2_benchmarks()}
    assert records["ros2_pictures_received"]["value"] == 1.0
    assert np.isfinite(records["ros2_round_trip_p99_ms"]["value"])
