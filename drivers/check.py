"""Checking a cell: every device in turn, in words that a beginner understands, and a picture."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from drivers.cell import Cell
from drivers.interfaces import Camera
from drivers.realtime import ArmProcess
from robot_rl.errors import RobotRLError

__all__ = ["CellReport", "check_cell"]

LOOP_SECONDS = 3.0
CAMERA_SECONDS = 2.0
WIGGLE = 0.02  # [m]
WIGGLE_ERROR = 0.005  # [m]
PICTURE_HEIGHT = 360
MISSED_SHARE = 0.01


@dataclass
class CellReport:
    """What was found.

    Attributes:
        lines: Device, finding, and whether it is well.
        pictures: What each camera sees, uint8 (H, W, 3).
    """

    lines: list[tuple[str, str, bool]] = field(default_factory=list[tuple[str, str, bool]])
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict[str, NDArray[np.uint8]])

    @property
    def problems(self) -> list[str]:
        """What has to be mended."""
        return [f"{device}: {finding}" for device, finding, well in self.lines if not well]

    def add(self, device: str, finding: str, well: bool = True) -> None:
        """Note a finding."""
        self.lines.append((device, finding, well))

    def save_pictures(self, path: Path) -> None:
        """All cameras side by side in one PNG."""
        tiles: list[NDArray[np.uint8]] = []
        for name, picture in self.pictures.items():
            width = round(picture.shape[1] * PICTURE_HEIGHT / picture.shape[0])
            tile = cv2.resize(picture, (width, PICTURE_HEIGHT), interpolation=cv2.INTER_AREA)
            cv2.putText(tile, name, (10, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 4, cv2.LINE_AA)
            cv2.putText(tile, name, (10, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2, cv2.LINE_AA)
            tiles.append(np.asarray(tile, dtype=np.uint8))
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.cvtColor(np.hstack(tiles), cv2.COLOR_RGB2BGR))


def check_cell(cell: Cell, *, wiggle: bool, tell: Callable[[str], None]) -> CellReport:
    """Connect to every device of a cell and measure it.

    Args:
        cell: Opened; its arm may not be connected yet. Nothing moves unless `wiggle`.
        wiggle: Move the tcp 2 cm up and back.
        tell: Called with what is being done.
    """
    report = CellReport()
    parts: list[tuple[str, Callable[[], None]]] = [
        ("arm", lambda: _arm(cell, report, tell)),
        ("gripper", lambda: report.add("gripper", f"open by {1000 * cell.gripper.opening():.0f} mm")),
        *[
            (f"camera {name}", lambda n=name, c=camera: _camera(n, c, cell, report))
            for name, camera in cell.cameras.items()
        ],
        ("tracker", lambda: _tracker(cell, report)),
    ]
    for device, check in parts:
        tell(f"{device} ...")
        try:
            check()
        except RobotRLError as error:
            report.add(device, str(error), well=False)
    if wiggle and not report.problems:
        tell("wiggle: 2 cm up and back ...")
        try:
            _wiggle(cell, report)
        except RobotRLError as error:
            report.add("wiggle", str(error), well=False)
    return report


def _arm(cell: Cell, report: CellReport, tell: Callable[[str], None]) -> None:
    arm = cell.arm
    start = time.monotonic()
    arm.connect()
    state = arm.state()
    report.add("arm", f"connected in {1000 * (time.monotonic() - start):.0f} ms; it was not moved")
    x, y, z = state.tcp_pose[:3]
    report.add(
        "arm",
        f"tcp at ({x:.3f}, {y:.3f}, {z:.3f}) m in base; joints {np.round(np.degrees(state.q)).astype(int).tolist()} "
        f"deg",
    )
    force, torque = np.linalg.norm(state.wrench_tcp[:3]), np.linalg.norm(state.wrench_tcp[3:])
    light = bool(force < 10.0 and torque < 3.0)
    advice = "" if light else "; hanging free it should be nearly 0: set tool and load (load_kg, Desk or tablet)"
    report.add("arm", f"feels {force:.1f} N, {torque:.1f} N m{advice}", light)
    if not isinstance(arm, ArmProcess):
        return
    for name, value in arm.facts().items():
        report.add("arm", f"{name}: {value}")
    if arm.clock != "wall":
        report.add("loop", "the emulator's time is its own; rehearse in real time to judge the loop")
        return
    tell(f"control loop, {LOOP_SECONDS:g} s ...")
    before = arm.statistics()
    cell.clock.wait_until(cell.clock.now() + LOOP_SECONDS)
    after = arm.statistics()
    missed = (after.missed - before.missed) / max(after.ticks - before.ticks, 1)
    report.add("loop", str(after))
    well = missed < MISSED_SHARE
    report.add(
        "loop",
        f"{100 * missed:.2f} % of ticks came too late"
        + ("" if well else "; see what the system withheld, and close other programs"),
        well,
    )
    for what in arm.missing:
        report.add("loop", f"would run better with {what}")


def _camera(name: str, camera: Camera, cell: Cell, report: CellReport) -> None:
    first = camera.read()
    report.pictures[name] = first.image.copy()
    stamps, ages = {first.time_s}, [cell.clock.now() - first.time_s]
    if cell.twin is None:
        end = time.monotonic() + CAMERA_SECONDS
        while time.monotonic() < end:
            frame = camera.read()
            stamps.add(frame.time_s)
            ages.append(cell.clock.now() - frame.time_s)
            time.sleep(0.003)
        rate = len(stamps) / CAMERA_SECONDS
        report.add(
            f"camera {name}", f"{rate:.0f} pictures/s, newest {1000 * np.median(ages):.0f} ms old (median)", rate > 5.0
        )
    spread = float(first.image.std())
    report.add(
        f"camera {name}",
        f"{camera.width} x {camera.height}, brightness {first.image.mean():.0f} of 255"
        + ("" if spread > 3.0 else "; the picture is of one colour: is the lens covered, the exposure right?"),
        spread > 3.0,
    )
    facts: Callable[[], dict[str, Any]] | None = getattr(camera, "facts", None)
    if facts is not None:
        report.add(f"camera {name}", ", ".join(f"{k} {v}" for k, v in facts().items()))


def _tracker(cell: Cell, report: CellReport) -> None:
    poses = cell.tracker.poses()
    look: Callable[[], str] | None = getattr(cell.tracker, "report", None)
    if not poses:
        report.add("tracker", "none; tasks learn from pictures" if look is None else look(), look is None)
    for name, seen in poses.items():
        x, y, z = seen.pose[:3]
        report.add(
            "tracker", f"{name} at ({x:.3f}, {y:.3f}, {z:.3f}) m, {1000 * (cell.clock.now() - seen.time_s):.0f} ms old"
        )


def _wiggle(cell: Cell, report: CellReport) -> None:
    start = cell.arm.state().tcp_pose
    up = start.copy()
    up[2] += WIGGLE
    for name, goal in (("up", up), ("back", start)):
        cell.arm.move_to_pose(goal, 2.0)
        off = float(np.linalg.norm(cell.arm.state().tcp_pose[:3] - goal[:3]))
        well = off < WIGGLE_ERROR
        report.add(
            "wiggle",
            f"2 cm {name}: arrived {1000 * off:.1f} mm off" + ("" if well else "; check load and friction"),
            well,
        )
