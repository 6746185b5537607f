"""The task room's command: what can be learnt here."""

import importlib

__all__ = ["tasks"]


def tasks() -> int:
    """List the tasks, with their Gymnasium ids and options."""
    from rich.console import Console
    from rich.table import Table

    from tasks import TASKS

    table = Table()
    for title in ("task", "Gymnasium id"):
        table.add_column(title, no_wrap=True)
    for title in ("asked to", "step", "limit", "tracks"):
        table.add_column(title)
    for name, target in TASKS.items():
        module, _, cls = target.partition(":")
        spec = getattr(importlib.import_module(module), cls).spec
        table.add_row(
            name, f"robot_rl/{cls}-v0", spec.instruction, f"{spec.control_period_s * 1000:.0f} ms",
            f"{spec.max_steps} steps", ", ".join(spec.objects),
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(
        "Options of every task, as --set env.KEY=VALUE:\n"
        "  arm=fr3|ur5e|PATH.xml  observations=state|vision  reward=sparse|dense  frame=start|base  max_steps=N\n"
        "  gripper_penalty=0.02  action_repeat=1  action_history=0  randomise=true|false  image_size=128\n"
        "  real_time=true|false\n"
        "Any other Gymnasium environment: robot-rl train gymnasium:FetchReach-v4",
        highlight=False,
    )
    return 0
