"""The commands for people with a device in their hand: teleop, record; and replay of what they did."""

import contextlib
import getpass
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional, UseAppendAction, arg

from robot_rl.errors import ConfigError

__all__ = ["record", "replay", "teleop"]

Task = Annotated[Positional[str], arg(metavar="TASK", help="As listed by robot-rl tasks")]
Device = Annotated[
    str,
    arg(
        metavar="DEVICE[+DEVICE]",
        help="keyboard (this terminal), page (a browser), spacemouse, gamepad, leader:CELL.yaml (a second arm that you "
        "move by hand), or module:Class; options behind a comma: leader:CELL.yaml,scale=0.5",
    ),
]
Frame = Annotated[str, arg(help="Push along the room's axes (base) or the tool's (tcp)")]
Yaw = Annotated[float, arg(metavar="DEG", help="Where you stand: 0 behind the robot, 180 facing it")]
Cell = Annotated[str, arg(metavar="CELL.yaml", help="Where: a cell file; the simulated cell, in real time, by default")]
Rehearse = Annotated[bool, arg(help="With --cell: emulators stand in for its devices")]
Port = Annotated[int, arg(help="Of the page with the live pictures, at http://127.0.0.1:PORT; 0 for none")]
Settings = UseAppendAction[tuple[tuple[str, ...], ...]]
Set = Annotated[Settings, arg(metavar="KEY=VALUE ...", help="Options of the environment, for example arm=ur5e")]


class TerminalScreen:
    """States as they change, a line each; beeps or speech for who looks at the arm."""

    def __init__(self, *, beep: bool, speak: bool) -> None:
        self._beep, self._said = beep, ""
        self._voice = next((v for v in ("spd-say", "espeak-ng", "espeak") if shutil.which(v)), None) if speak else None
        if speak and self._voice is None:
            raise ConfigError("--speak needs a voice: sudo apt-get install espeak-ng. Or use --beep.")

    def show(self, status: dict[str, Any], pictures: Mapping[str, NDArray[np.uint8]] | None = None) -> None:
        """Say a new state."""
        del pictures
        text = f"episode {status['episode']} of {status['episodes']}: {status['state']}"
        if text == self._said:
            return
        self._said = text
        print(f"{text}.  {status['hint']}", flush=True)
        if self._beep and status["state"] in ("ready", "success", "failure"):
            print("\a" * (1 + (status["state"] != "ready")), end="", flush=True)
        if self._voice:
            subprocess.Popen([self._voice, status["state"]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Screens:
    """Several at once."""

    def __init__(self, *screens: Any) -> None:
        self._screens = screens

    def show(self, status: dict[str, Any], pictures: dict[str, NDArray[np.uint8]] | None = None) -> None:
        """On each."""
        for screen in self._screens:
            screen.show(status, pictures)


@contextlib.contextmanager
def _at_hand(
    task: str, device: str, frame: str, yaw_deg: float, cell: str, rehearse: bool, port: int, settings: Settings
) -> Generator[tuple[Any, Any, Any, dict[str, Any]]]:
    """An environment with a device in it, the page beside, and the options the environment was made with."""
    import gymnasium as gym

    from drivers.teleop import TeleopSet, open_teleop
    from drivers.teleop.page import Page
    from robot_rl.assignments import assignments
    from robot_rl.environments import make
    from tasks.intervention import DeviceHand, Intervention

    options = assignments(pair.removeprefix("env.") for pair in chain.from_iterable(settings))
    if options.get("observations") != "vision":  # pictures are for the person alone: larger ones
        options = {"image_size": 256, **options}
    options = {"render_mode": "rgb_array", **options}
    if cell != "twin":
        options |= {"cell": cell, **({"rehearse": True} if rehearse else {})}
    else:
        options.setdefault("real_time", True)
    names = device.split("+")
    names += ["page"] if port and "page" not in names else []
    hands = [
        open_teleop(name, frame=frame, yaw_deg=yaw_deg, options={"port": port} if name == "page" else None)
        for name in names
    ]
    page = next((hand.source for hand in hands if isinstance(hand.source, Page)), None)
    env = make(task, options)
    try:
        inner: gym.Env[Any, Any] = env.unwrapped
        together = TeleopSet(hands)
        wrapped = Intervention(env, DeviceHand(inner, together))  # pyright: ignore[reportArgumentType]
        for hand in hands:
            print(f"{hand.source.name}:")
            for control, meaning in hand.source.controls.items():
                print(f"  {control:<26} {meaning}")
        if page is not None:
            print(
                f"Live: {page.address}   (from another machine: ssh -L {page.port}:127.0.0.1:{page.port} ...)",
                flush=True,
            )
        kept = {
            k: v for k, v in options.items() if k not in ("render_mode", "real_time") and (k, v) != ("image_size", 256)
        }
        yield wrapped, together, page, kept
    finally:
        with contextlib.suppress(NameError, UnboundLocalError):
            together.close()  # pyright: ignore[reportPossiblyUnboundVariable]
        env.close()


def teleop(
    task: Task = "reach",
    device: Device = "keyboard",
    frame: Frame = "base",
    yaw_deg: Yaw = 0.0,
    cell: Cell = "twin",
    rehearse: Rehearse = False,
    port: Port = 8060,
    set: Set = (),  # noqa: A002 (the flag's name)
) -> int:
    """Drive an arm by hand, to try a device or a task; nothing is recorded."""
    with _at_hand(task, device, frame, yaw_deg, cell, rehearse, port, set) as (env, _, page, _), _ending() as ended:
        screens = Screens(TerminalScreen(beep=False, speak=False), *([page] if page else []))
        robot, episode = env.unwrapped, 0
        while not ended:
            env.reset(seed=episode)
            episode += 1
            over, step, info = False, 0, {}
            while not over and not ended:
                _, _, terminated, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
                over, step = terminated or truncated, step + 1
                pictures = {name: camera.read().image for name, camera in robot.cell.cameras.items()}
                status = {"state": "driving", "hint": "escape: stop", "instruction": robot.instruction, "step": step,
                          "steps": robot.task.spec.max_steps, "episode": episode, "episodes": episode}  # fmt: skip
                screens.show(status, pictures)
            print("success" if info.get("success") else info.get("fault", "ended without success"), flush=True)
            if "operator_stop" in info:
                break
    return 0


def record(  # noqa: PLR0913 (the command line's options)
    task: Task,
    episodes: Annotated[int, arg(help="In the store at the end; one that is there is gone on with")] = 20,
    device: Device = "keyboard",
    out: Annotated[Path | None, arg(metavar="STORE", help="demos/<task> by default")] = None,
    frame: Frame = "base",
    yaw_deg: Yaw = 0.0,
    keep_failures: Annotated[bool, arg(help="Keep episodes that failed too")] = False,
    operator: Annotated[str, arg(help="Who records; your user's name by default")] = "",
    beep: Annotated[bool, arg(help="Beep when it is your turn and when an episode ends")] = False,
    speak: Annotated[bool, arg(help="Say so instead, where a speech synthesiser is installed")] = False,
    cell: Cell = "twin",
    rehearse: Rehearse = False,
    port: Port = 8060,
    rerun: Annotated[bool, arg(help="Also show pictures and curves, live, in Rerun; needs 'robot-rl[log]'")] = False,
    rerun_file: Annotated[Path | None, arg(metavar="OUT.rrd", help="Write them for Rerun in place of showing")] = None,
    set: Set = (),  # noqa: A002 (the flag's name)
) -> int:
    """Record demonstrations by hand; a crash loses nothing, and the same command goes on where it ended."""
    from robot_rl.environments import store_metadata
    from robot_rl.rerun_log import RerunLog
    from tasks.recording import Recorder

    if episodes < 1:
        raise ConfigError(f"--episodes is {episodes}; it must be at least 1.")
    path = Path("demos") / task if out is None else out
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = RerunLog(str(path), file=rerun_file) if rerun or rerun_file else None
    with (
        shown or contextlib.nullcontext(),
        _at_hand(task, device, frame, yaw_deg, cell, rehearse, port, set) as (env, hand, page, options),
    ):
        screens = Screens(TerminalScreen(beep=beep, speak=speak), *([page] if page else []))
        metadata = {**store_metadata(env, task, options), "operator": operator or getpass.getuser()}
        watching = {"on_step": _into(shown, env.unwrapped, metadata["state_layout"])} if shown else {}
        recorder = Recorder(env, hand, path, screens, metadata=metadata, keep_failures=keep_failures, **watching)
        try:
            if recorder.left_behind:
                print(
                    f"A session before this one was cut off; its last episode lies in {recorder.left_behind}. Add it "
                    f"with: robot-rl store merge {path}-whole {path} {recorder.left_behind}",
                    file=sys.stderr,
                )
            with _ending(recorder):
                summary = recorder.record(episodes)
        finally:
            recorder.close()
    print(summary)
    print(f"Train with: robot-rl train {task} --demos {path}")
    return 0


def _into(log: Any, robot: Any, parts: Any) -> Any:
    """Recorded steps as they come, and what the cameras see where that is not observed."""
    log.parts = parts

    def step(observation: Any, taken: dict[str, Any]) -> None:
        seen = {} if "images" in observation else {n: c.read().image for n, c in robot.cell.cameras.items()}
        log.step(taken["time"], observation, {**taken, "instruction": robot.instruction}, seen)

    return step


def replay(
    store: Annotated[
        Positional[Path], arg(metavar="STORE", help="An episode store, or a run directory with episodes/")
    ],
    episode: Annotated[int, arg(help="Which of its episodes")] = 0,
    seed: Annotated[int, arg(help="Of the reset before; the one it was recorded with repeats it on the twin")] = 0,
    cell: Cell = "twin",
    rehearse: Rehearse = False,
    real_time: Annotated[bool, arg(help="On the twin: as slowly as it was")] = False,
) -> int:
    """Execute an episode's actions again, through the same limits, and say how far the tcp strays."""
    from robot_rl.environments import make
    from robot_rl.store import EpisodeStore

    opened = EpisodeStore.open(store / "episodes" if (store / "episodes").is_dir() else store)
    records, task = opened.episode_table(), opened.metadata.get("task")
    if not 0 <= episode < len(records):
        raise ConfigError(f"{opened.path} has episodes 0 to {len(records) - 1}, no {episode}.")
    if not task:
        raise ConfigError(f"{opened.path} does not say which task it is of; it cannot be executed.")
    options = {k: v for k, v in opened.metadata.get("env", {}).items() if k not in ("cell", "rehearse", "teleop")}
    options |= {"real_time": True} if real_time else {}
    options |= {"cell": cell, **({"rehearse": True} if rehearse else {})} if cell != "twin" else {}
    record = records[episode]
    actions = opened.read(record.start, record.start + record.length, ["action"])["action"]
    states = opened.read(record.start, record.stop, ["observation/state"])["observation/state"]
    env = make(task, options)
    try:
        where = env.unwrapped.state_layout["tcp_pose"]  # pyright: ignore[reportAttributeAccessIssue]
        env.reset(seed=seed)
        away, info = np.zeros((0, 6)), {}
        for step, action in enumerate(actions):
            observation, _, terminated, truncated, info = env.step(action)
            away = np.vstack([away, observation["state"][where] - states[step + 1][where]])
            if terminated or truncated:
                break
    finally:
        env.close()
    strayed = 1000 * np.linalg.norm(away[:, :3], axis=1)
    print(
        f"{len(away)} of {len(actions)} actions executed; the tcp strayed {strayed.max():.1f} mm at most, "
        f"{np.median(strayed):.1f} mm at the median. {info.get('fault', 'success' if info.get('success') else '')}"
    )
    return 0


@contextlib.contextmanager
def _ending(recorder: Any = None) -> Generator[list[bool]]:
    """SIGINT and SIGTERM end things after the current step."""
    ended: list[bool] = []

    def end(*_: Any) -> None:
        if ended:
            raise KeyboardInterrupt
        ended.append(True)
        if recorder is not None:
            recorder.stop_requested = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
