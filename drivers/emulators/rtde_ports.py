"""The sockets of a UR controller: RTDE clients with their recipes, and ports of plain lines."""

import contextlib
import socket
import struct
from collections.abc import Callable

from drivers.emulators.rtde_controller import Controller
from drivers.emulators.rtde_wire import INPUTS, OUTPUTS, Message, Recipe, Value, frame, take_frames

__all__ = ["LineClient", "RtdeClient", "ScriptClient"]

MOST_UNSENT = 1 << 20  # bytes a client may leave unread before it is dropped
PROTOCOL_VERSION = 2


class _Client:
    """A connection that never blocks."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.received = bytearray()
        self.unsent = bytearray()
        self.closed = False

    def read(self) -> None:
        """Take what has arrived, and act on it."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.received += data
        self.act()

    def act(self) -> None:
        """Answer what `received` holds."""

    def send(self, data: bytes) -> None:
        """Send now, or as soon as there is room."""
        if self.closed:
            return
        self.unsent += data
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self.unsent[:sent]
        if len(self.unsent) > MOST_UNSENT:
            self.close()

    def close(self) -> None:
        """Let go."""
        self.closed = True
        with contextlib.suppress(OSError):
            self.socket.close()


class RtdeClient(_Client):
    """One client of port 30004.

    Args:
        connection: Its socket.
        controller: Whose variables it reads and writes.
        taken: Input variables other clients have reserved; extended by this one's.
    """

    def __init__(self, connection: socket.socket, controller: Controller, taken: dict[str, "RtdeClient"]) -> None:
        super().__init__(connection)
        self.controller, self._taken = controller, taken
        self.outputs: Recipe | None = None
        self.every = 1  # cycles between packages
        self.streaming = False
        self.packages = 0  # received
        self._inputs: list[Recipe] = []
        self._count = 0

    @property
    def controls(self) -> bool:
        """Whether it writes inputs."""
        return bool(self._inputs)

    def publish(self, values: dict[str, Value], *, drop: bool) -> None:
        """Send a data package if one is due."""
        if not self.streaming or self.outputs is None:
            return
        self._count += 1
        if self._count % self.every == 0 and not drop:
            self.send(frame(Message.DATA, self.outputs.pack(1, values)))

    def act(self) -> None:
        try:
            for kind, payload in take_frames(self.received):
                self._message(kind, payload)
        except (ValueError, IndexError, struct.error):  # not RTDE: a controller drops the connection
            self.close()

    def close(self) -> None:
        for name in [n for n, owner in self._taken.items() if owner is self]:
            del self._taken[name]
        super().close()

    def _message(self, kind: int, payload: bytes) -> None:
        if kind == Message.DATA:
            self.packages += 1
            self.controller.write(self._inputs[payload[0] - 1].unpack(payload))
        elif kind == Message.PROTOCOL_VERSION:
            self.send(frame(kind, bytes([int.from_bytes(payload, "big") == PROTOCOL_VERSION])))
        elif kind == Message.CONTROLLER_VERSION:
            self.send(frame(kind, struct.pack(">4I", *self.controller.options.version)))
        elif kind == Message.SETUP_OUTPUTS:
            self._setup_outputs(payload)
        elif kind == Message.SETUP_INPUTS:
            self._setup_inputs(payload)
        elif kind in (Message.START, Message.PAUSE):
            self.streaming = kind == Message.START and self.outputs is not None
            self.send(frame(kind, bytes([self.streaming or kind == Message.PAUSE])))

    def _setup_outputs(self, payload: bytes) -> None:
        (frequency,) = struct.unpack_from(">d", payload)
        names = [n for n in payload[8:].decode("ascii").split(",") if n]
        recipe = Recipe(names, OUTPUTS)
        self.outputs = recipe if recipe.complete else None
        self.every = max(round(self.controller.options.frequency / max(frequency, 1.0)), 1)
        self.send(frame(Message.SETUP_OUTPUTS, bytes([int(recipe.complete)]) + ",".join(recipe.types).encode()))

    def _setup_inputs(self, payload: bytes) -> None:
        names = [n for n in payload.decode("ascii").split(",") if n]
        recipe = Recipe(names, INPUTS)
        types = [
            "IN_USE" if self._taken.get(name, self) is not self else kind
            for name, kind in zip(names, recipe.types, strict=True)
        ]
        number = 0
        if recipe.complete and "IN_USE" not in types:
            self._inputs.append(recipe)
            self._taken.update(dict.fromkeys(names, self))
            number = len(self._inputs)
        self.send(frame(Message.SETUP_INPUTS, bytes([number]) + ",".join(types).encode()))


class LineClient(_Client):
    """A client of a port of text lines: each line gets an answer, or none where that is empty."""

    def __init__(self, connection: socket.socket, answer: Callable[[str], str], greeting: str = "") -> None:
        super().__init__(connection)
        self._answer = answer
        if greeting:
            self.send(greeting.encode() + b"\n")

    def act(self) -> None:
        while b"\n" in self.received and not self.closed:
            line, _, rest = self.received.partition(b"\n")
            self.received = bytearray(rest)
            answer = self._answer(line.decode("utf-8", "replace").rstrip("\r"))
            if answer:
                self.send(answer.encode() + b"\n")


class ScriptClient(_Client):
    """A client of a script port: a program is everything from `def name():` to an `end` at a line's start."""

    def __init__(self, connection: socket.socket, run: Callable[[str], None]) -> None:
        super().__init__(connection)
        self._run = run

    def act(self) -> None:
        text = self.received.decode("utf-8", "replace")
        while "\nend\n" in text:
            program, _, text = text.partition("\nend\n")
            self._run(program)
        self.received = bytearray(text.encode())
