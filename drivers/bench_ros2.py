"""How fast messages go to and from ROS 2 over DDS, beside what the machine's loopback and cyclonedds alone do."""

import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from drivers.ros2 import messages as ros
from drivers.ros2.arm_link import POSE
from drivers.ros2.images import IMAGE, raw_image
from drivers.ros2.node import NEWEST, SENSOR_DATA, Node
from drivers.ros2.opening import open_node
from drivers.ros2.wire import structure, wire_class
from robot_rl.errors import DeviceError

__all__ = ["main", "ros2_benchmarks"]

DOMAIN = 99
TRIPS, PERIOD_S = 1000, 0.01
CAMERAS, FPS, FILM_S = ("front", "wrist"), 30.0, 10.0
SHAPE = (480, 640, 3)


def ros2_benchmarks() -> list[dict[str, Any]]:
    """Round trips of a target pose to another process and back, and two cameras from it."""
    os.environ |= {"ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    with subprocess.Popen([sys.executable, "-m", "drivers.bench_ros2"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        node = open_node("bench", transport="dds")
        try:
            trips, bare = _round_trips(node), _udp_round_trips(port)
            sent, came, late = _film(node)
        finally:
            node.close()
            other.terminate()
    ours, theirs = _encoding()
    p50, bare_p50 = 1e3 * np.median(trips), 1e3 * np.median(bare)
    note = f"p50 {p50:.2f} ms, {TRIPS} at {1 / PERIOD_S:.0f} Hz; UDP alone p50 {bare_p50:.2f} ms"
    film = f"of {sent} sent: two cameras, 640 x 480, {FPS:.0f} Hz, {FILM_S:.0f} s"
    return [
        _record("ros2_round_trip_p99_ms", 1e3 * np.percentile(trips, 99), "ms, target out, pose back",
                "an UDP datagram there and back, p99", 1e3 * np.percentile(bare, 99), note),
        _record("ros2_pictures_received", came / sent, film, "none lost", 1.0, f"p99 {1e3 * late:.1f} ms old"),
        _record("ros2_image_mb_per_s", ours, "MB/s, a 640 x 480 picture encoded", "cyclonedds's codec", theirs, ""),
    ]  # fmt: skip


def _record(name: str, value: float, unit: str, reference: str, reference_value: float, note: str) -> dict[str, Any]:
    return {
        "name": name, "value": float(value), "unit": unit, "reference": reference,
        "reference_value": float(reference_value), "ratio": float(value / reference_value), "note": note,
    }  # fmt: skip


def _round_trips(node: Node) -> list[float]:
    came = threading.Event()
    node.subscribe("current_pose", POSE, lambda _: came.set(), SENSOR_DATA)
    publisher = node.publisher("target_pose", POSE, NEWEST)
    end = time.monotonic() + 5.0
    while not (publisher.subscribers() and node.publishers("current_pose")):
        if time.monotonic() > end:
            raise DeviceError("The other process of the benchmark is not seen over DDS on loopback.")
        time.sleep(0.01)
    time.sleep(0.2)
    trips: list[float] = []
    for _ in range(TRIPS):
        came.clear()
        begun = time.perf_counter()
        publisher.publish(ros.message(POSE, header=ros.header(node.now(), "base"), pose=ros.pose(np.arange(7.0))))
        if not came.wait(1.0):
            raise DeviceError("A pose was lost on loopback.")
        trips.append(time.perf_counter() - begun)
        time.sleep(PERIOD_S)
    return trips


def _udp_round_trips(port: int) -> list[float]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.settimeout(1.0)
        trips: list[float] = []
        for _ in range(TRIPS):
            begun = time.perf_counter()
            link.sendto(bytes(100), ("127.0.0.1", port))
            link.recv(100)
            trips.append(time.perf_counter() - begun)
            time.sleep(PERIOD_S)
    return trips


def _film(node: Node) -> tuple[int, int, float]:
    """Pictures sent and received within a time, by their numbers; and the delay's 99th percentile [s]."""
    numbers: dict[str, list[int]] = {name: [] for name in CAMERAS}
    delays: list[float] = []

    def take(name: str, content: Any) -> None:
        numbers[name].append(int(content.header.frame_id))
        delays.append(node.now() - ros.seconds(content.header.stamp))

    for name in CAMERAS:
        node.subscribe(f"{name}/image_raw", IMAGE, lambda content, n=name: take(n, content), SENSOR_DATA)
    time.sleep(1.0)  # found by then
    first = {name: seen[-1] for name, seen in numbers.items()}
    for seen in (*numbers.values(), delays):
        seen.clear()
    time.sleep(FILM_S)
    sent = sum(seen[-1] - first[name] for name, seen in numbers.items())
    return sent, sum(map(len, numbers.values())), float(np.percentile(delays, 99))


def _encoding() -> tuple[float, float]:
    """MB/s of ours and of cyclonedds's own codec, for the same picture."""
    image = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    content = raw_image(0.0, "camera", image)
    fields = {name: getattr(content, name) for name, _ in ros.fields_of(IMAGE)}
    header: Any = structure("std_msgs/msg/Header")
    stamp: Any = structure("builtin_interfaces/msg/Time")
    picture: Any = structure(IMAGE)
    head = header(stamp=stamp(sec=0, nanosec=0), frame_id="camera")
    plain = picture(**fields | {"header": head, "data": image.reshape(-1).tolist()})
    wire = wire_class(IMAGE)(content)
    speeds = [
        _speed(lambda made=made: made.serialize(), image.nbytes, times) for made, times in ((wire, 200), (plain, 5))
    ]
    return speeds[0], speeds[1]


def _speed(do: Any, size: int, times: int) -> float:
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        do()
        taken.append(time.perf_counter() - begun)
    return 1e-6 * size / float(np.median(taken))


def main() -> None:
    """The other process: sends back what comes, over DDS and UDP, and two cameras' pictures while somebody looks."""
    node = open_node("bench_robot", transport="dds")
    back = node.publisher("current_pose", POSE, SENSOR_DATA)
    node.subscribe("target_pose", POSE, back.publish, NEWEST)
    cameras = [node.publisher(f"{name}/image_raw", IMAGE, SENSOR_DATA) for name in CAMERAS]
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    link.bind(("127.0.0.1", 0))
    threading.Thread(target=_echo, args=(link,), daemon=True).start()
    print(link.getsockname()[1], flush=True)  # noqa: T201 (the other process reads it)
    image, number, due = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8), 0, time.monotonic()
    while True:
        due = max(due + 1.0 / FPS, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        if any(camera.subscribers() for camera in cameras):
            number += 1
            for camera in cameras:
                camera.publish(raw_image(node.now(), str(number), image))


def _echo(link: socket.socket) -> None:
    while True:
        data, sender = link.recvfrom(2048)
        link.sendto(data, sender)


if __name__ == "__main__":
    main()
