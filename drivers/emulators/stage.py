"""The stage around an emulated robot: where its props stand, what its cameras see, and what goes wrong with it.

On metal a person arranges the scene and eyes look at it. Beside an emulator, which only speaks its vendor's protocol,
this does: `StageServer` in the emulator's process, `Stage` wherever a cell is opened in rehearsal. One JSON line each
way; a picture follows its line as raw bytes.
"""

import json
import selectors
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from drivers.emulators.plant import TurnLock
from drivers.interfaces import TrackedPose
from drivers.twin.devices import TwinCamera, TwinGripper
from drivers.twin.twin import Twin
from robot_rl.errors import ConfigError, DeviceConnectionError, DeviceError, RobotRLError

__all__ = ["PORT", "Stage", "StageServer", "StageTracker"]

Array = NDArray[np.float64]

PORT = 1340
TIMEOUT_S = 60.0  # a first picture on a busy machine takes its time


class StagePlant(Protocol):
    """What a stage looks at: a simulated cell that somebody else moves."""

    twin: Twin
    gripper: TwinGripper
    lock: TurnLock

    @property
    def time_s(self) -> float:
        """Simulated seconds."""
        ...

    def place(self, name: str, pose: Array) -> None:
        """Put a prop at a pose in `base`, shape (7,), at rest."""
        ...


class StageServer:
    """Serves the stage of a plant in a thread.

    Args:
        plant: The simulated cell.
        inject: Makes a named fault happen in the emulator beside it.
        facts: What a client should know: task, lockstep, speed.
        host: Address to listen on.

    Raises:
        DeviceConnectionError: The address is taken.
    """

    def __init__(
        self, plant: StagePlant, inject: Callable[..., None], facts: dict[str, Any], host: str = "127.0.0.1"
    ) -> None:
        self._plant, self._inject, self._facts = plant, inject, facts
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._data: mujoco.MjData | None = None  # a copy to render from, so that physics need not wait
        try:
            self._listener = socket.create_server((host, PORT))
        except OSError as error:
            raise DeviceConnectionError(
                f"The stage cannot listen on {host}:{PORT}: another emulator or sim_node runs there. "
                "End it, or give this one an address of its own, 127.0.0.2 for example (--host; -p stage:=)."
            ) from error
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._running = True
        self._thread = threading.Thread(target=self._serve, name="stage", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End, and free the pictures' OpenGL."""
        self._running = False
        self._thread.join(5.0)
        self._listener.close()

    def _serve(self) -> None:
        while self._running:
            for key, _ in self._selector.select(0.1):
                connection = key.fileobj
                if connection is self._listener:
                    accepted, _ = self._listener.accept()
                    accepted.settimeout(TIMEOUT_S)
                    self._selector.register(accepted, selectors.EVENT_READ, accepted.makefile("rb"))
                    continue
                assert isinstance(connection, socket.socket)
                try:
                    line = key.data.readline()
                    if line:
                        connection.sendall(self._answer(json.loads(line)))
                        continue
                except OSError:
                    pass
                self._let_go(connection, key.data)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket) and key.fileobj is not self._listener:
                self._let_go(key.fileobj, key.data)
        for renderer in self._renderers.values():
            renderer.close()

    def _let_go(self, connection: socket.socket, stream: Any) -> None:
        self._selector.unregister(connection)
        stream.close()
        connection.close()

    def _answer(self, request: dict[str, Any]) -> bytes:
        try:
            result, payload = self._do(**request), b""
            if isinstance(result, tuple):
                result, payload = result
            return json.dumps({"result": result, "bytes": len(payload)}).encode() + b"\n" + payload
        except RobotRLError as error:
            return json.dumps({"error": str(error), "kind": type(error).__name__}).encode() + b"\n"

    def _do(self, op: str, **fields: Any) -> Any:
        plant = self._plant
        if op == "facts":
            return {**self._facts, "time_s": plant.time_s}
        if op == "poses":
            with plant.lock:
                poses = {name: plant.twin.body_pose(name).tolist() for name in fields["names"]}
                return {"time_s": plant.time_s, "poses": poses}
        if op == "place":
            return plant.place(fields["name"], np.array(fields["pose"]))
        if op == "open_gripper":
            with plant.lock:
                return plant.gripper.jump_to(float(fields["opening"]))
        if op == "camera":
            return self._camera(fields["name"])
        if op == "picture":
            return self._picture(**fields)
        if op == "inject":
            return self._inject(fields["name"], **fields["options"])
        raise ConfigError(f"The stage knows no {op!r}.")

    def _picture(self, camera: str, height: int, width: int, depth: bool) -> tuple[dict[str, Any], bytes]:
        """Colour as uint8 (H, W, 3), then depth as float32 metres (H, W) where asked for."""
        plant, model = self._plant, self._plant.twin.model
        name = self._camera_name(camera)
        data = self._data = self._data or mujoco.MjData(model)
        with plant.lock:
            mujoco.mj_copyData(data, model, plant.twin.data)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        renderer = self._renderers.get((height, width))
        if renderer is None:
            try:
                renderer = self._renderers[height, width] = mujoco.Renderer(model, height, width)
            except Exception as error:  # PyOpenGL, GLFW and EGL each raise their own kind
                raise DeviceError(f"No OpenGL for the emulator's cameras ({type(error).__name__}: {error}).") from error
        renderer.update_scene(data, camera=name)
        payload = renderer.render().tobytes()
        if depth:
            renderer.enable_depth_rendering()
            payload += renderer.render().astype(np.float32).tobytes()
            renderer.disable_depth_rendering()
        return {"time_s": float(data.time)}, payload

    def _camera(self, camera: str) -> dict[str, Any]:
        """Vertical field of view [deg], and pose in `base`."""
        plant, name = self._plant, self._camera_name(camera)
        with plant.lock:
            pose = TwinCamera(plant.twin, camera).pose_in_base()
        return {"fovy": float(plant.twin.model.camera(name).fovy[0]), "pose": pose.tolist()}

    def _camera_name(self, camera: str) -> str:
        model = self._plant.twin.model
        names = [model.camera(i).name for i in range(model.ncam)]
        name = next((n for n in names if n.removeprefix("tool/") == camera), None)
        if name is None:
            known = [n.removeprefix("tool/") for n in names]
            raise ConfigError(f"The emulator's scene has no camera {camera!r}; it has {', '.join(known)}.")
        return name


class Stage:
    """The stage of an emulator somewhere else: what tasks arrange their props with.

    Args:
        host: Where the emulator listens.
        patience_s: How long it is waited for, where it was started at the same time.

    Raises:
        DeviceConnectionError: Nothing listens there.
    """

    def __init__(self, host: str, patience_s: float = 0.0) -> None:
        self.host = host
        self._lock = threading.Lock()
        try:
            self._socket = _connected(host, patience_s)
        except OSError as error:
            raise DeviceConnectionError(
                f"No emulator answers at {host}:{PORT} ({error}). Start one, for example: "
                "robot-rl emulate fr3 --task peg_insert (or ur5e)",
                host=host,
            ) from error
        self._socket.settimeout(TIMEOUT_S)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def facts(self) -> dict[str, Any]:
        """Task, arm, lockstep, speed, tags, simulated time [s]."""
        return self._ask("facts")[0]

    def body_pose(self, name: str) -> Array:
        """Pose of a body in `base`, shape (7,)."""
        return np.array(self._ask("poses", names=[name])[0]["poses"][name])

    def poses(self, names: tuple[str, ...]) -> tuple[float, dict[str, Array]]:
        """Simulated time [s] and the pose of each body in `base`, shape (7,)."""
        result, _ = self._ask("poses", names=list(names))
        return result["time_s"], {name: np.array(pose) for name, pose in result["poses"].items()}

    def place(self, name: str, pose: Array) -> None:
        """Put a prop at a pose in `base`, shape (7,), at rest."""
        self._ask("place", name=name, pose=np.asarray(pose, dtype=np.float64).tolist())

    def open_gripper(self, opening: float) -> None:
        """Set the gripper's opening [m] in no time, as a person who hands it its tool."""
        self._ask("open_gripper", opening=opening)

    def camera(self, name: str) -> tuple[float, Array]:
        """A camera's vertical field of view [deg] and its pose in `base`, shape (7,), OpenCV's axes."""
        result, _ = self._ask("camera", name=name)
        return result["fovy"], np.array(result["pose"])

    def picture(
        self, camera: str, height: int, width: int, *, depth: bool = True
    ) -> tuple[float, NDArray[np.uint8], NDArray[np.float32]]:
        """What a camera sees: simulated time [s], colour (H, W, 3), depth [m] (H, W), or none of it."""
        facts, payload = self._ask("picture", camera=camera, height=height, width=width, depth=depth)
        pixels = height * width
        colour = np.frombuffer(payload, np.uint8, 3 * pixels).reshape(height, width, 3)
        far = np.frombuffer(payload, np.float32, pixels if depth else 0, offset=3 * pixels)
        return facts["time_s"], colour, far.reshape(-1, width)

    def inject(self, name: str, **options: Any) -> None:
        """Make a fault happen in the emulator; its docstring names them."""
        self._ask("inject", name=name, options=options)

    def close(self) -> None:
        """Let go of the connection."""
        self._stream.close()
        self._socket.close()

    def _ask(self, op: str, **fields: Any) -> tuple[Any, bytes]:
        with self._lock:
            try:
                self._socket.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
                line = self._stream.readline()
                if not line:
                    raise ConnectionResetError("it closed the connection")
                reply = json.loads(line)
                payload = self._stream.read(reply["bytes"]) if reply.get("bytes") else b""
            except OSError as error:
                raise DeviceConnectionError(
                    f"The emulator's stage at {self.host}:{PORT} is gone ({error}). Start the emulator again."
                ) from error
        if "error" in reply:
            raise {"ConfigError": ConfigError}.get(reply["kind"], DeviceError)(reply["error"])
        return reply["result"], payload


def _connected(host: str, patience_s: float) -> socket.socket:
    end = time.monotonic() + patience_s
    while True:
        try:
            return socket.create_connection((host, PORT), 2.5)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


class StageTracker:
    """Ground truth of named bodies on a stage.

    Args:
        stage: Whose.
        names: Bodies to report.
        now: The cell's clock, when it is not the emulator's: poses are then stamped when they were asked for.
    """

    def __init__(self, stage: Stage, names: tuple[str, ...], now: Callable[[], float] | None = None) -> None:
        self._stage, self._names, self._now = stage, names, now

    def poses(self) -> dict[str, TrackedPose]:
        """Pose of every named body in `base`."""
        time_s, poses = self._stage.poses(self._names)
        stamp = time_s if self._now is None else self._now()
        return {name: TrackedPose(stamp, pose) for name, pose in poses.items()}
