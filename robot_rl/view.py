"""`robot-rl view`: a store in the browser. Frames to scrub through, curves beside them, whose steps they were."""

import threading
import time
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from tyro.conf import Positional, arg

from robot_rl.errors import ConfigError
from robot_rl.observation import ROOT, ObservationLayout
from robot_rl.rerun_log import RerunLog, log_store
from robot_rl.store import EpisodeStore
from robot_rl.store.labels import label_names
from robot_rl.store.layout import SOURCES

__all__ = ["StoreView", "serve", "view"]

PORT = 8070
HOSTS = ("127.0.0.1", "localhost")
SCALE = 3  # of small pictures
STATE = f"{ROOT}/state"


class StoreView:
    """What the page asks for, out of one store.

    Args:
        path: A store, or a run directory with `episodes/`.

    Raises:
        StoreError: It is none, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.store = EpisodeStore.open(path / "episodes" if (path / "episodes").is_dir() else path)
        self.cameras = list(ObservationLayout(self.store.observation_space).images)
        self._lock = threading.Lock()  # a store is read by one thread at a time

    def episodes(self) -> dict[str, Any]:
        """Every episode in a line, and what the store says of itself."""
        with self._lock:
            self.store.refresh()
            records = self.store.episode_table()
        return {
            "path": str(self.store.path),
            "metadata": {k: v for k, v in self.store.metadata.items() if isinstance(v, str | int | float)},
            "cameras": [name.rsplit("/", 1)[-1] for name in self.cameras],
            "episodes": [
                {
                    "index": r.index, "length": r.length, "success": r.success, "return": r.total_reward,
                    "instruction": r.instruction, "sources": r.sources, "closed": r.closed,
                }
                for r in records
            ],
        }  # fmt: skip

    def episode(self, index: int) -> dict[str, Any]:
        """The curves of one episode, by group, one value a row.

        Raises:
            ConfigError: There is no such episode.
        """
        record = self._record(index)
        labels = label_names(self.store.path)
        with self._lock:
            vectors = [n for n in self.store.layout.columns if n.startswith(f"{ROOT}/") and n not in self.cameras]
            rows = self.store.read(record.start, record.stop, [*vectors, "action", "reward", "source", "time", *labels])
        groups: dict[str, dict[str, list[float | None]]] = {"reward": {"reward": _numbers(rows["reward"])}}
        groups["reward"] |= {name: _numbers(rows[name]) for name in labels}
        groups["action"] = _columns("", rows["action"])
        layout = self.store.metadata.get("state_layout", {})
        for name in vectors:
            flat = rows[name].reshape(len(rows[name]), -1)
            if name == STATE and layout:
                for part, (start, stop) in layout.items():
                    groups[part] = _columns("", flat[:, start:stop])
            else:
                groups[name.removeprefix(f"{ROOT}/")] = _columns("", flat)
        whose = [SOURCES[int(s)] for s in rows["source"][: record.length]]
        elapsed = (rows["time"] - rows["time"][0]).tolist()
        return {"index": index, "rows": record.stop - record.start, "groups": groups, "sources": whose, "time": elapsed}

    def picture(self, index: int, camera: str, row: int) -> bytes:
        """One frame, JPEG.

        Raises:
            ConfigError: There is no such episode, camera or row.
        """
        record = self._record(index)
        name = next((n for n in self.cameras if n.rsplit("/", 1)[-1] == camera), None)
        if name is None or not 0 <= row < record.stop - record.start:
            raise ConfigError(f"Episode {index} has no picture of {camera!r} at row {row}.")
        with self._lock:
            image = self.store.read(record.start + row, record.start + row + 1, [name])[name][0]
        if len(image) < 256:
            image = cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR)
        return cv2.imencode(".jpg", cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR))[1].tobytes()

    def _record(self, index: int) -> Any:
        with self._lock:
            records = self.store.episode_table()
        if not 0 <= index < len(records):
            raise ConfigError(f"{self.store.path} has episodes 0 to {len(records) - 1}, no {index}.")
        return records[index]


def serve(view: StoreView, port: int = PORT) -> tuple[Any, int]:
    """Serve the page on loopback from a thread of its own.

    Returns:
        The server (set `should_exit` to end it) and its port.

    Raises:
        ConfigError: The port is taken.
    """
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(_application(view), host="127.0.0.1", port=port, log_level="critical"))

    def run() -> None:
        try:
            server.run()
        except SystemExit:  # how uvicorn says that the port is taken
            return

    thread = threading.Thread(target=run, name="store view", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise ConfigError(f"Port {port} of 127.0.0.1 is taken. Choose another: --port {port + 1}.")
        time.sleep(0.01)
    return server, server.servers[0].sockets[0].getsockname()[1]


def view(
    path: Annotated[Positional[Path], arg(metavar="STORE", help="An episode store, or a run directory with episodes/")],
    port: Annotated[int, arg(help="Of the page, on loopback")] = PORT,
    rerun: Annotated[bool, arg(help="In Rerun in place of the page; needs 'robot-rl[log]'")] = False,
    rerun_file: Annotated[Path | None, arg(metavar="OUT.rrd", help="Write it for Rerun in place of showing it")] = None,
) -> int:
    """Look through a store in the browser: frames, state, action, wrench and reward, whose steps they were."""
    shown = StoreView(path)
    if rerun or rerun_file is not None:
        with RerunLog(str(path), file=rerun_file) as log:
            log_store(log, shown.store)
        print(f"{shown.store.episodes} episodes: {rerun_file or 'the viewer'}")
        return 0
    server, port = serve(shown, port)
    print(f"Look at http://127.0.0.1:{port}   (Ctrl-C ends it)", flush=True)
    try:
        while True:
            time.sleep(0.5)
    except KeyboardInterrupt:
        server.should_exit = True
    return 0


def _application(view: StoreView) -> Any:
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))

    def page() -> Any:
        return HTMLResponse((Path(__file__).parent / "view.html").read_text())

    def episode(index: int) -> Any:
        return view.episode(index)

    def picture(index: int, camera: str, row: int) -> Any:
        return Response(view.picture(index, camera, row), media_type="image/jpeg")

    def refuse(_: Any, error: Exception) -> Any:
        return JSONResponse({"error": str(error)}, status_code=404)

    app.add_api_route("/", page)
    app.add_api_route("/episodes", view.episodes)
    app.add_api_route("/episode/{index}", episode)
    app.add_api_route("/picture/{index}/{camera}/{row}", picture)
    app.add_exception_handler(ConfigError, refuse)
    return app


def _columns(prefix: str, values: Any) -> dict[str, list[float | None]]:
    return {f"{prefix}{i}": _numbers(values[:, i]) for i in range(values.shape[1])}


def _numbers(values: Any) -> list[float | None]:
    """For JSON, which knows no NaN."""
    return [round(float(v), 6) if np.isfinite(v) else None for v in values]
