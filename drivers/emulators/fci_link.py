"""One listening port of the emulated controller, and the one client it serves: commands by TCP, states by UDP."""

import socket
import struct
from collections.abc import Callable

from drivers.emulators.fci_protocol import CONNECT_REQUEST
from robot_rl.errors import DeviceConnectionError

__all__ = ["Link"]

CONNECT = 0  # the same number for robot and gripper
INCOMPATIBLE_VERSION = 1
LARGEST_MESSAGE = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Link:
    """Accepts one client and cuts its commands out of the stream. Every method returns at once.

    A second client is refused by a reset, which the vendor's library reports as an interrupted connection; a mere close
    would leave it waiting for ever.

    Args:
        host: Address to listen on.
        port: Of the vendor's protocol.
        version: Of the interface; a client of another is told so and refused.
        header: Of a message: command, command id, size.
        status: Struct format of an answer's status.
        on_message: Called with command, command id and payload.
        on_close: Called when the client has gone.
    """

    def __init__(
        self, host: str, port: int, version: int, header: struct.Struct, status: str,
        on_message: Callable[[int, int, bytes], None], on_close: Callable[[], None],
    ) -> None:  # fmt: skip
        self.status = status
        self._address, self._version, self._header = (host, port), version, header
        self._on_message, self._on_close = on_message, on_close
        self._listener: socket.socket | None = None
        self._client: socket.socket | None = None
        self._buffer = bytearray()
        self.states: socket.socket | None = None

    def open(self) -> None:
        """Begin to listen. Raises DeviceConnectionError when the address cannot be had."""
        host, port = self._address
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(self._address)
            listener.listen(4)
        except (OSError, OverflowError) as error:
            listener.close()
            raise DeviceConnectionError(
                f"The emulated robot cannot listen on {host}:{port} ({error}). The vendor's client has these ports "
                "built in: give another address (--host 127.0.0.2, or one of this machine's own), or stop what "
                "listens there.",
                host=host,
                port=port,
            ) from error
        listener.setblocking(False)
        self._listener = listener

    def close(self) -> None:
        """Let go of the client and stop listening."""
        self.drop()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def drop(self) -> None:
        """Let go of the client."""
        connected = self._client is not None
        for connection in (self._client, self.states):
            if connection is not None:
                connection.close()
        self._client = self.states = None
        self._buffer.clear()
        if connected:
            self._on_close()

    @property
    def sockets(self) -> list[socket.socket]:
        """What to wait for with `select` before calling `serve`."""
        return [s for s in (self._listener, self._client) if s is not None]

    def serve(self) -> None:
        """Read what has come; accept or refuse who knocks."""
        if self._client is not None:
            self._read(self._client)
        if self._listener is None:
            return
        try:
            newcomer, _ = self._listener.accept()
        except BlockingIOError:
            return
        if self._client is not None:
            self._read(self._client)  # it may have left just before the other came
        if self._client is not None:
            newcomer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            newcomer.close()
            return
        newcomer.setblocking(False)
        newcomer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = newcomer

    def reply(self, command: int, command_id: int, status: int, more: bytes = b"") -> None:
        """Answer a command."""
        if self._client is None:
            return
        body = struct.pack(self.status, status) + more
        message = self._header.pack(command, command_id, self._header.size + len(body)) + body
        try:
            self._client.setblocking(True)
            self._client.sendall(message)
            self._client.setblocking(False)
        except OSError:
            self.drop()

    def _read(self, client: socket.socket) -> None:
        try:
            data = client.recv(LARGEST_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop()
            return
        self._buffer += data
        while len(self._buffer) >= self._header.size:
            command, command_id, size = self._header.unpack_from(self._buffer)
            if not self._header.size <= size <= LARGEST_MESSAGE:
                self.drop()  # not our protocol
                return
            if len(self._buffer) < size:
                return
            payload = bytes(self._buffer[self._header.size : size])
            del self._buffer[:size]
            if command == CONNECT:
                self._connect(client, command_id, payload)
            else:
                self._on_message(command, command_id, payload)

    def _connect(self, client: socket.socket, command_id: int, payload: bytes) -> None:
        version, port = CONNECT_REQUEST.unpack(payload)
        ours = struct.pack("<H", self._version)
        if version != self._version:
            self.reply(CONNECT, command_id, INCOMPATIBLE_VERSION, ours)
            return
        states = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        states.bind((self._address[0], 0))
        states.connect((client.getpeername()[0], port))
        states.setblocking(False)
        self.states = states
        self.reply(CONNECT, command_id, 0, ours)
