"""A page in the browser as keyboard and screen: keys that are held, what the robot sees, what is going on.

It listens on loopback. From afar: ssh -L 8060:127.0.0.1:8060 ROBOT, then open the same address there. The page says
twenty times a second which keys are down; a page that falls silent has let go of everything.
"""

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from drivers.teleop.device import BUTTONS, LOG, Raw
from drivers.teleop.keyboard import KEYS, SAID
from robot_rl.errors import DeviceConnectionError

__all__ = ["Page"]

PORT = 8060
SILENT_S = 0.5  # without a word from the page: nothing is held
STATUS_S = 0.1  # between words to the page
START_S = 10.0
QUALITY = 85  # of the pictures, JPEG
HOSTS = ("127.0.0.1", "localhost", "::1")


class Page:
    """Keys and buttons of a browser's page; a `Source`, and a screen.

    Args:
        port: Of the page; 0 takes any free one.
        title: Of the page.

    Attributes:
        port: Where it listens, once open.
    """

    name = "page"
    controls = {  # noqa: RUF012 (never changed)
        "W S, A D, R F held": "forward back, left right, up down",
        "U O, I K, J L held": "turn, tilt forward back, tilt sideways",
        "shift held": "drive, even while standing still",
        "space": "open or close the gripper",
        "enter, backspace, Z": "success, failure, re-record",
        "P, escape": "pause, stop",
    }

    def __init__(self, port: int = PORT, title: str = "robot-rl") -> None:
        self.port, self._title = port, title
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._keys: frozenset[str] = frozenset()
        self._clicks: set[str] = set()
        self._heard_s = -np.inf
        self._status: dict[str, Any] = {}
        self._pictures: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        """To open in a browser."""
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Serve the page.

        Raises:
            DeviceConnectionError: The port is taken.
        """
        if self._thread is not None:
            return
        import uvicorn

        config = uvicorn.Config(
            self._application(), host="127.0.0.1", port=self.port, log_level="critical", ws="websockets"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="teleop page", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self._thread = None
                raise DeviceConnectionError(f"Port {self.port} of 127.0.0.1 is taken. Choose another: --port 8061.")
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        LOG.warning("Live page: %s", self.address)

    def poll(self) -> Raw:
        """What is held and was clicked."""
        with self._lock:
            clicks, self._clicks = self._clicks, set()
            keys = self._keys if time.monotonic() - self._heard_s < SILENT_S else frozenset[str]()
        deflection = [0.0] * 6
        for key in keys & KEYS.keys():
            axis, sign = KEYS[key]
            deflection[axis] += sign
        held = {SAID[key] for key in keys & SAID.keys()} | (clicks & BUTTONS.keys())
        return Raw(tuple(deflection), frozenset(held | ({"engage"} if "shift" in keys else set())))

    def show(self, status: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]] | None = None) -> None:
        """Put something on the page.

        Args:
            status: `state`, `title`, `hint`, `episode`, `episodes`, `step`, `steps` and whatever else is to be listed.
            pictures: Of each camera, uint8, RGB, shape (H, W, 3).
        """
        encoded = {name: _jpeg(picture) for name, picture in (pictures or {}).items()}
        with self._lock:
            self._status = dict(status)
            self._pictures.update(encoded)

    def close(self) -> None:
        """End the page."""
        if self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(5.0)
            self._thread = None

    def _serve(self) -> None:
        try:
            self._server.run()
        except SystemExit:  # how uvicorn says that the port is taken
            return

    def _application(self) -> Any:
        from fastapi import FastAPI, WebSocket
        from fastapi.responses import HTMLResponse, Response
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.websockets import WebSocketDisconnect

        app = FastAPI(openapi_url=None)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))

        async def page() -> Any:
            return HTMLResponse((Path(__file__).parent / "page.html").read_text().replace("{{title}}", self._title))

        async def camera(name: str) -> Any:
            with self._lock:
                picture = self._pictures.get(name)
            headers = {"Cache-Control": "no-store"}
            return Response(picture or b"", 200 if picture else 404, headers=headers, media_type="image/jpeg")

        async def talk(socket: WebSocket) -> None:
            origin = socket.headers.get("origin", "")
            if not any(origin.startswith(f"http://{host}:") for host in HOSTS):
                await socket.close(code=1008)  # another site's page must not move the arm
                return
            await socket.accept()
            telling = asyncio.create_task(self._tell(socket))
            try:
                while True:
                    self._hear(await socket.receive_text())
            except WebSocketDisconnect:
                pass
            finally:
                telling.cancel()
                with self._lock:
                    self._keys = frozenset()

        app.add_api_route("/", page)
        app.add_api_route("/camera/{name}", camera)
        app.add_api_websocket_route("/talk", talk)
        return app

    def _hear(self, text: str) -> None:
        try:
            said = json.loads(text)
            keys, clicks = frozenset(map(str, said["keys"])), set(map(str, said.get("clicks", ())))
        except (ValueError, KeyError, TypeError):
            return
        with self._lock:
            self._keys, self._heard_s = keys, time.monotonic()
            self._clicks |= clicks

    async def _tell(self, socket: Any) -> None:
        while True:
            with self._lock:
                status = {
                    **self._status,
                    "cameras": sorted(self._pictures),
                    "controls": self.controls,
                    "buttons": BUTTONS,
                }
            await socket.send_text(json.dumps(status))
            await asyncio.sleep(STATUS_S)


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    shown = cv2.resize(picture, (384, 384 * picture.shape[0] // picture.shape[1]), interpolation=cv2.INTER_LINEAR)
    return cv2.imencode(".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[
        1
    ].tobytes()
