"""How fast and how evenly the arm's control loop runs, vendor's client and emulator included."""

import subprocess
import sys
import time
from types import TracebackType
from typing import Any

import numpy as np

from drivers.realtime import ArmProcess, LoopStatistics
from drivers.safety import SafetyLimits
from robot_rl.errors import DeviceError

__all__ = ["lockstep_benchmarks", "realtime_benchmarks"]

HOST = "127.0.99.1"
LIMITS = SafetyLimits(position_low=(0.3, -0.3, 0.05), position_high=(0.7, 0.3, 0.6))
LOCKSTEP_SECONDS, REALTIME_SECONDS = 20.0, 60.0
STEP_S = 0.1


class _Emulated:
    """An emulated FR3 with peg_insert around it, and the Franka driver connected to it."""

    def __init__(self, *, lockstep: bool) -> None:
        command = [sys.executable, "-m", "robot_rl.cli", "emulate", "fr3", "--task", "peg_insert", "--host", HOST]
        self._emulator = subprocess.Popen(
            [*command, *(["--lockstep"] if lockstep else [])], stdout=subprocess.PIPE, text=True
        )
        assert self._emulator.stdout is not None
        if "listens" not in self._emulator.stdout.readline():
            raise DeviceError("The emulator did not start; see above. Is another benchmark running?")
        clock = "lockstep" if lockstep else "wall"
        self.arm = ArmProcess("drivers.franka:FrankaArm", {"host": HOST}, clock=clock, hold_after_s=1.0)

    def __enter__(self) -> ArmProcess:
        self.arm.connect()
        self.arm.set_limits(LIMITS)
        return self.arm

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.arm.close()
        self._emulator.terminate()
        self._emulator.wait()


def _wander(arm: ArmProcess, seconds: float) -> None:
    """Targets ten times a second on a circle of 5 cm radius, as a policy would send them."""
    centre = arm.state().tcp_pose
    for step in range(round(seconds / STEP_S)):
        target = centre.copy()
        target[:2] += 0.05 * np.array([np.sin(0.2 * step), 1.0 - np.cos(0.2 * step)])
        arm.command(target)
        if arm.clock == "lockstep":
            arm.run_until(arm.state().time_s + STEP_S)
        else:
            time.sleep(STEP_S)
            arm.state()


def lockstep_benchmarks() -> list[dict[str, Any]]:
    """Robot seconds per second through pylibfranka and the FCI emulator with peg_insert's scene."""
    with _Emulated(lockstep=True) as arm:
        _wander(arm, 2.0)
        rates: list[float] = []
        for _ in range(5):
            robot, wall = arm.state().time_s, time.perf_counter()
            _wander(arm, LOCKSTEP_SECONDS / 5)
            rates.append((arm.state().time_s - robot) / (time.perf_counter() - wall))
    return [
        {
            "name": "fci_lockstep_x",
            "value": float(np.median(rates)),
            "unit": "robot seconds/s, law and physics in every millisecond",
            "reference": "real time",
            "reference_value": 1.0,
        }
    ]


def realtime_benchmarks() -> list[dict[str, Any]]:
    """The 1 kHz loop against the emulator in real time for a minute: lateness and the law's own time."""
    with _Emulated(lockstep=False) as arm:
        _wander(arm, 1.0)
        before = arm.statistics()
        _wander(arm, REALTIME_SECONDS)
        after = arm.statistics()
    return realtime_records(before, after)


def realtime_records(before: LoopStatistics, after: LoopStatistics) -> list[dict[str, Any]]:
    """What the loop's statistics say, as records."""
    ticks = after.ticks - before.ticks
    rows = [
        ("realtime_missed_ticks", after.missed - before.missed, f"of {ticks} ticks", "none", 0.0),
        ("realtime_period_p50_us", after.period_p50_us, "us", "1 kHz", 1000.0),
        ("realtime_period_p999_us", after.period_p999_us, "us", "1 kHz", 1000.0),
        ("realtime_law_p50_us", after.law_p50_us, "us", "the target at p99.9", 50.0),
        ("realtime_law_p999_us", after.law_p999_us, "us", "the target", 50.0),
    ]
    return [
        {"name": name, "value": float(value), "unit": unit, "reference": reference, "reference_value": expected}
        for name, value, unit, reference, expected in rows
    ]
