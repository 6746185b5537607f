"""A UR5e's controller on the network, with the twin for an arm: what ur_rtde connects to when there is no robot.

    python -m drivers.emulators.rtde --host 127.0.0.9

listens on the ports of the real one (RTDE 30004, dashboard 29999, scripts 30001-30003, Robotiq gripper 63352) and takes
lines on standard input: `state`, `protective_stop`, `emergency_stop`, `emergency_stop pressed=0`,
`freeze duration_s=0.5`, `drop_packets fraction=0.2 duration_s=1`, `restart duration_s=1`, `quit`.

One loop does everything: a controller cycle when it is due, sockets in between. At `speed` 1 a simulated second takes
a second. Faster, a cycle also waits (up to `patience_s`) for the answer of a client that answered the last one, so that
the law of a client that streams commands runs as often as it would on the real arm; a client that falls silent is
waited for once. Time stamps are simulated seconds throughout.
"""

import contextlib
import json
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from drivers.emulators.plant import Plant
from drivers.emulators.rtde_controller import Controller, ControllerOptions
from drivers.emulators.rtde_ports import LineClient, RtdeClient, ScriptClient
from drivers.emulators.rtde_script import program_from
from drivers.emulators.rtde_text import RobotiqPort, dashboard_answer
from robot_rl.errors import ConfigError, DeviceConnectionError

__all__ = ["RtdeEmulator", "main"]

PORTS = {"rtde": 30004, "dashboard": 29999, "primary": 30001, "secondary": 30002, "script": 30003, "robotiq": 63352}
GREETING = "Connected: Universal Robots Dashboard Server"
LATE_S = 0.05  # behind schedule by more than this, the schedule starts anew
FAULTS = ("protective_stop", "emergency_stop", "drop_packets", "restart", "freeze")


class RtdeEmulator:
    """A UR5e controller that listens on the network and moves a plant. A context manager.

    Args:
        plant: The arm; `Plant("ur5e", build)`.
        host: Address to listen on. Several run side by side on 127.0.0.x.
        frequency: Cycle of the controller [Hz]: 500 as an e-Series, 125 as a CB3.
        speed: Simulated seconds per second, at most. A cycle takes 0.1 ms and a client's answer
            about 0.5 ms, so a client that streams commands sees about 3 on two cores, whatever more is asked for.
        patience_s: How long a cycle waits for a client's answer at `speed` above 1 [s].
        options: Version, remote control, collision limits; its frequency is `frequency`.

    Raises:
        ConfigError: The plant is not a UR5e, or frequency or speed are out of range.
    """

    def __init__(
        self, plant: Plant, host: str = "127.0.0.1", frequency: float = 500.0, speed: float = 1.0,
        patience_s: float = 0.05, options: ControllerOptions | None = None,
    ) -> None:  # fmt: skip
        if plant.twin.arm_model.name != "ur5e":
            raise ConfigError(f"The RTDE emulator moves a ur5e, not a {plant.twin.arm_model.name!r}.")
        if frequency not in (125.0, 500.0) or not 0.01 <= speed <= 100.0:
            raise ConfigError(
                f"frequency is {frequency:g} Hz and speed {speed:g}; a UR has 125 or 500 Hz, and speed is 0.01 to 100."
            )
        self.plant, self.host, self.speed, self.patience_s = plant, host, speed, patience_s
        options = options or ControllerOptions()
        self.options = replace(options, frequency=frequency)
        self.controller = Controller(plant, self.options)
        self.gripper = RobotiqPort(plant)
        self._listeners: dict[str, socket.socket] = {}
        self._clients: list[RtdeClient | LineClient | ScriptClient] = []
        self._taken: dict[str, RtdeClient] = {}
        self._requests: queue.Queue[Callable[[], None]] = queue.Queue()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._frozen_until = self._dropping_until = self._down_until = 0.0
        self._drop_fraction = 0.0
        self._rng = np.random.default_rng(0)
        self._answered, self._packages = False, 0
        self._packaged_at, self._packaged_sim = time.monotonic(), 0.0

    def __enter__(self) -> "RtdeEmulator":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and run in a thread. Raises DeviceConnectionError when an address is in use."""
        self._listen()
        self._thread = threading.Thread(target=self._loop, name="rtde-emulator", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close every port."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._close_all()

    def inject(self, fault: str, **options: float) -> None:
        """Make something go wrong.

        Args:
            fault: `protective_stop`; `emergency_stop` (`pressed`: 1 or 0); `freeze`, the state stream stops
                (`duration_s`, wall time); `drop_packets` (`fraction`, `duration_s`); `restart`, the controller is gone
                for `duration_s` and starts anew.
            options: As named there.

        Raises:
            ConfigError: There is no such fault or option.
        """
        known = {"pressed": 1.0, "duration_s": 1.0, "fraction": 0.5}
        if fault not in FAULTS or not options.keys() <= known.keys():
            raise ConfigError(f"No fault {fault!r} with {sorted(options)}; there are {FAULTS}, with {sorted(known)}.")
        chosen = known | options
        until = time.monotonic() + chosen["duration_s"]

        def act() -> None:
            if fault == "protective_stop":
                self.controller.protective_stop("injected")
            elif fault == "emergency_stop":
                self.controller.emergency_stop(chosen["pressed"] > 0.0)
            elif fault == "freeze":
                self._frozen_until = until
            elif fault == "drop_packets":
                self._dropping_until, self._drop_fraction = until, chosen["fraction"]
            else:
                self._down_until = until
                self._close_all()

        self._requests.put(act)

    def state(self) -> dict[str, Any]:
        """What the plant and the controller are at, for whoever rehearses."""
        with self.plant.lock:
            plant, controller = self.plant, self.controller
            return {
                "time_s": controller.time_s, "q": plant.q.tolist(), "qd": plant.qd.tolist(),
                "tcp_pose": plant.tcp_pose.tolist(), "wrench_base": plant.wrench_base().tolist(),
                "opening": plant.gripper.opening(), "robot_mode": controller.robot_mode.name,
                "safety_mode": controller.safety_mode.name, "program": controller.program is not None,
                "force_mode": controller.force is not None, "message": controller.message,
                "digital_out": controller.digital_out,
            }  # fmt: skip

    # The loop

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            while not self._requests.empty():
                self._requests.get()()
            if self._down_until:
                self._stay_down()
                due = time.monotonic()
                continue
            self._await_answer()
            self.controller.cycle()
            self.gripper.step(self.controller.period_s)
            self._publish()
            self._watchdog()
            due += self.controller.period_s / self.speed
            now = time.monotonic()
            if now - due > LATE_S:
                due = now
            self._serve(0.0)
            while (left := due - time.monotonic()) > 0.0:
                self._serve(left)

    def _publish(self) -> None:
        now = time.monotonic()
        if now < self._frozen_until:
            return
        values = self.controller.values()
        dropping = now < self._dropping_until and self._rng.random() < self._drop_fraction
        for client in self._clients:
            if isinstance(client, RtdeClient):
                client.publish(values, drop=dropping)

    def _serve(self, wait_s: float) -> None:
        if any(client.closed for client in self._clients):
            self._clients = [client for client in self._clients if not client.closed]
        listeners = {sock: name for name, sock in self._listeners.items()}
        clients = {client.socket: client for client in self._clients}
        ready, _, _ = select.select([*listeners, *clients], [], [], wait_s)
        for sock in ready:
            if sock in listeners:
                self._accept(listeners[sock], sock)
            else:
                clients[sock].read()
        for client in self._clients:
            if client.unsent:
                client.send(b"")

    def _accept(self, name: str, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            if name == "rtde":
                client = RtdeClient(connection, self.controller, self._taken)
            elif name == "dashboard":
                client = LineClient(connection, lambda line: dashboard_answer(self.controller, line), GREETING)
            elif name == "robotiq":
                client = LineClient(connection, self.gripper.answer)
            else:
                client = ScriptClient(connection, self._run_script)
            self._clients.append(client)

    def _run_script(self, text: str) -> None:
        if self.options.remote_control:
            self.controller.run(program_from(self.controller, text))

    def _await_answer(self) -> None:
        """Faster than real time, give a client that answers every cycle the chance to do so."""
        packages = self._count_packages()
        if packages != self._packages:
            self._note(packages)
            self._answered = True
        elif self.speed > 1.0 and self._answered and self.controller.streaming:
            give_up = time.monotonic() + self.patience_s
            while packages == self._packages and (left := give_up - time.monotonic()) > 0.0 and self._requests.empty():
                self._serve(min(left, LATE_S))
                packages = self._count_packages()
            self._answered = packages != self._packages
            self._note(packages)

    def _count_packages(self) -> int:
        return sum(client.packages for client in self._clients if isinstance(client, RtdeClient))

    def _note(self, packages: int) -> None:
        if packages != self._packages:
            self._packages = packages
            self._packaged_at, self._packaged_sim = time.monotonic(), self.controller.time_s

    def _watchdog(self) -> None:
        """UR's rtde_set_watchdog: too long without an input package, in either time, stops the program."""
        hz = self.controller.watchdog_hz
        silent = min(time.monotonic() - self._packaged_at, self.controller.time_s - self._packaged_sim)
        if hz > 0.0 and silent > 1.0 / hz and self._count_packages() == self._packages:
            self.controller.run(None)
            self.controller.message = f"RTDE watchdog: no input for {silent:.2f} s"

    # Ports

    def _listen(self) -> None:
        for name, port in PORTS.items():
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self.host, port))
            except OSError as error:
                listener.close()
                self._close_all()
                raise DeviceConnectionError(
                    f"The RTDE emulator cannot listen on {self.host}:{port}: {error.strerror}. Stop the other emulator "
                    "there, or choose another host, 127.0.0.2 for example.",
                    host=self.host,
                    port=port,
                ) from error
            listener.listen()
            listener.setblocking(False)
            self._listeners[name] = listener

    def _close_all(self) -> None:
        for client in self._clients:
            client.close()
        for listener in self._listeners.values():
            listener.close()
        self._clients, self._listeners = [], {}
        self._taken.clear()

    def _stay_down(self) -> None:
        if time.monotonic() < self._down_until:
            time.sleep(0.01)
            return
        self._down_until = 0.0
        self.controller = Controller(self.plant, self.options)
        self._listen()


def main(arguments: list[str] | None = None) -> None:
    """Run one emulator until standard input says `quit` or ends; see the module's documentation."""
    import argparse

    parser = argparse.ArgumentParser(description="Emulate a UR5e's controller.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--frequency", type=float, default=500.0)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--version", default="5.13.0.0", help="controller version to report")
    parser.add_argument("--local-control", action="store_true", help="as if the pendant were not in remote control")
    chosen = parser.parse_args(arguments)
    major, minor, bugfix, build = (int(part) for part in chosen.version.split("."))
    options = ControllerOptions(version=(major, minor, bugfix, build), remote_control=not chosen.local_control)
    with RtdeEmulator(Plant("ur5e"), chosen.host, chosen.frequency, chosen.speed, options=options) as emulator:
        _say({"listening": chosen.host})
        for line in sys.stdin:
            command, *pairs = line.split() or ["state"]
            if command == "quit":
                break
            try:
                if command != "state":
                    emulator.inject(command, **{k: float(v) for k, _, v in (p.partition("=") for p in pairs)})
                _say(emulator.state())
            except (ConfigError, ValueError) as error:
                _say({"error": str(error)})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
