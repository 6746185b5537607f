"""The task room's commands: what can be learnt here, and emulated robots to rehearse it on."""

import signal
import time
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from robot_rl.errors import ConfigError

__all__ = ["emulate", "tasks"]

FAULT = {"fr3": "reflex", "ur5e": "protective_stop", "ros2": "freeze"}
PATIENCE_S = 0.5  # how long a controller faster than real time waits for the client's answer of a cycle


def tasks() -> int:
    """List the tasks, with their Gymnasium ids and options."""
    from rich.console import Console
    from rich.table import Table

    from tasks import TASKS, task_class

    table = Table()
    for title in ("task", "Gymnasium id"):
        table.add_column(title, no_wrap=True)
    for title in ("asked to", "step", "limit", "tracks"):
        table.add_column(title)
    for name in TASKS:
        cls = task_class(name)
        spec = cls.spec
        table.add_row(
            name, f"robot_rl/{cls.__name__}-v0", spec.instruction, f"{spec.control_period_s * 1000:.0f} ms",
            f"{spec.max_steps} steps", ", ".join(spec.objects),
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(
        "Options of every task, as --set env.KEY=VALUE:\n"
        "  arm=fr3|ur5e|PATH.xml  observations=state|vision  reward=sparse|dense|external  frame=start|base\n"
        "  max_steps=N  gripper_penalty=0.02  action_repeat=1  action_history=0  randomise=true|false  image_size=128\n"
        "  reset_free=true|false (bin_relocate)  real_time=true|false  cell=twin|PATH.yaml\n"
        "  rehearse=true|false|ADDRESS\n"
        "Any other Gymnasium environment: robot-rl train gymnasium:FetchReach-v4",
        highlight=False,
    )
    return 0


def emulate(
    arm: Annotated[
        Positional[Literal["fr3", "ur5e", "ros2"]],
        arg(help="Whose controller: a Franka's (FCI), a UR's (RTDE) with a Robotiq, or an arm that runs in ROS 2"),
    ],
    task: Annotated[str, arg(help="Whose scene stands around it")] = "reach",
    host: Annotated[str, arg(help="Address to listen on; loopback only unless you say otherwise")] = "127.0.0.1",
    lockstep: Annotated[
        bool, arg(help="fr3: time passes only as the client commands, many times faster than real time")
    ] = False,
    speed: Annotated[float, arg(help="ur5e: simulated seconds per second")] = 1.0,
    tags: Annotated[bool, arg(help="The task's objects wear AprilTags")] = False,
    model: Annotated[Literal["fr3", "ur5e"], arg(help="ros2: which arm it is")] = "fr3",
    inject: Annotated[
        str | None,
        arg(
            metavar="FAULT",
            help="Make a running emulator at --host fail. fr3: reflex, drop_packets, "
            "delay_packets, user_stop, emergency_stop, release_stop, restart. ur5e: protective_stop, emergency_stop, "
            "freeze, drop_packets, restart. ros2: freeze, wrong_frame, stale_clock, rival, well",
        ),
    ] = None,
) -> int:
    """Stand in for a robot: its vendor's protocol on this machine, driving the MuJoCo twin of a task's cell.

    Your cell file connects to it as it is: robot-rl train TASK --cell cells/mine.yaml --rehearse
    """
    if inject is not None:
        from drivers.emulators.stage import Stage

        with Stage(host) as stage:
            stage.inject(inject)
        print(f"Injected {inject}.")
        return 0
    from tasks import task_class

    spec = task_class(task).spec
    emulator, server = start_emulator(arm, task, host=host, lockstep=lockstep, speed=speed, tags=tags, model=model)
    pace = "in lockstep with its client" if lockstep else f"{speed:g} x real time"
    print(
        f"An emulated {arm} listens on {host}, {pace}; around it stands {task} ({spec.instruction}).\n"
        f"Use your cell file as it is:  robot-rl check-cell cells/mine.yaml --rehearse\n"
        f"                             robot-rl train {task} --cell cells/mine.yaml --rehearse\n"
        f"Make something go wrong:     robot-rl emulate {arm} --inject {FAULT[arm]}"
        f"{'' if host == '127.0.0.1' else f' --host {host}'}\n"
        "Ctrl-C ends it.",
        flush=True,
    )
    ended = False

    def end(*_: Any) -> None:
        nonlocal ended
        ended = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    while not ended:
        time.sleep(0.2)
    emulator.stop()  # that of ROS 2 looks through the server
    server.stop()
    print("Ended.")
    return 0


def start_emulator(
    arm: str, task: str, *, host: str = "127.0.0.1", lockstep: bool = False, speed: float = 1.0, tags: bool = False,
    model: str = "fr3",
) -> tuple[Any, Any]:  # fmt: skip
    """An emulator and its stage, both serving. Stop both in the end.

    Raises:
        ConfigError: No such task, or an option that this arm's emulator has not.
        DeviceConnectionError: The address is taken.
    """
    from drivers.emulators.plant import Plant
    from drivers.emulators.stage import StageServer
    from tasks import task_class

    definition = task_class(task)()
    build = definition.build
    if tags:
        from drivers.twin.tags import with_tags

        build = with_tags(build, definition.spec.tags)
    if arm == "ros2":
        return _start_ros2(task, model, host, tags, lockstep or speed != 1.0)
    plant = Plant(arm, build)
    plant.gripper.jump_to(definition.spec.start_opening)
    plant.settle()
    if arm == "fr3":
        from drivers.emulators.fci import FciEmulator

        if speed != 1.0:
            raise ConfigError("--speed is for ur5e; an emulated fr3 runs faster than real time with --lockstep.")
        emulator: Any = FciEmulator(plant, host, lockstep=lockstep)
    else:
        from drivers.emulators.rtde import RtdeEmulator

        if lockstep:
            raise ConfigError("--lockstep is for fr3; RTDE is a stream: run an emulated ur5e faster with --speed 4.")
        emulator = RtdeEmulator(plant, host, speed=speed, patience_s=PATIENCE_S)
    emulator.start()
    facts = {"arm": arm, "task": task, "lockstep": lockstep, "speed": speed, "tags": tags}
    server = StageServer(plant, emulator.inject, facts, host)
    server.start()
    return emulator, server


def _start_ros2(task: str, model: str, host: str, tags: bool, unpaced: bool) -> tuple[Any, Any]:
    from drivers.ros2.arguments import checked
    from drivers.ros2.opening import open_node
    from tasks.ros2.sim_node import PARAMETERS, SimNode

    if unpaced:
        raise ConfigError("An emulated ros2 arm runs in real time: leave --lockstep and --speed out.")
    values = checked(PARAMETERS, {"task": task, "model": model, "stage": host, "tags": tags})
    sim = SimNode(open_node("sim_node"), values)
    sim.start()
    return sim.emulator, sim.server
