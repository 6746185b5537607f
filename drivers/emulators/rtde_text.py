"""The text ports beside RTDE: the dashboard server, and the gripper's socket of the Robotiq URCap.

Sources: Universal Robots, "Dashboard Server e-Series" (commands and answers); Robotiq 2F-85 instruction manual
(registers ACT, GTO, POS, SPE, FOR, STA, OBJ, FLT and their meaning).
"""

from drivers.emulators.plant import Plant
from drivers.emulators.rtde_controller import Controller
from drivers.emulators.rtde_wire import RobotMode, SafetyMode

__all__ = ["RobotiqPort", "dashboard_answer"]

FULL_OPENING = 0.085  # [m] a 2F-85's; the twin's gripper ends at 0.08
OPEN, CLOSED = 3, 230  # counts that a 2F-85 reaches
FAST, SLOW = 0.150, 0.020  # [m/s] at SPE 255 and 0
ACTIVATION_S = 0.5
MOVING_SPEED = 0.002  # [m/s] below which the fingers have stopped
CLOSE_ENOUGH = 2  # [counts] of POS


def dashboard_answer(controller: Controller, line: str) -> str:
    """Answer to one line of the dashboard server."""
    words = line.strip().lower()
    version = ".".join(str(v) for v in controller.options.version)
    running = str(controller.program is not None).lower()
    answers = {
        "polyscopeversion": f"URSoftware {version} (Jan 01 2024)", "get serial number": "20230000001",
        "get robot model": "UR5", "is in remote control": str(controller.options.remote_control).lower(),
        "robotmode": f"Robotmode: {controller.robot_mode.name}",
        "safetystatus": f"Safetystatus: {controller.safety_mode.name}",
        "safetymode": f"Safetymode: {controller.safety_mode.name}",
        "running": f"Program running: {running}",
        "programstate": f"{'PLAYING' if controller.program is not None else 'STOPPED'} rtde_control.urp",
        "get loaded program": "No program loaded", "get operational mode": "NONE",
        "close popup": "closing popup", "close safety popup": "closing safety popup",
        "restart safety": "Restarting safety", "quit": "Disconnected",
    }  # fmt: skip
    if words in answers:
        return answers[words]
    if words == "stop":
        controller.run(None)
        return "Stopped"
    if words == "unlock protective stop":
        return controller.unlock()
    power = {
        "power on": (True, controller.robot_mode == RobotMode.RUNNING, "Powering on"),
        "power off": (False, False, "Powering off"),
        "brake release": (True, True, "Brake releasing"),
    }
    if words in power:
        on, released, answer = power[words]
        if controller.safety_mode != SafetyMode.NORMAL:
            return f"Failed: safety status is {controller.safety_mode.name}"
        controller.power(on, released)
        return answer
    if words.startswith(("popup", "addtolog")):
        return "showing popup" if words.startswith("popup") else "Added log message"
    return f'could not understand: "{line.strip()}"'


class RobotiqPort:
    """A 2F-85 as its URCap serves it; the fingers are the plant's gripper.

    Args:
        plant: Whose gripper.
    """

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.registers = {"ACT": 0, "GTO": 0, "FOR": 0, "SPE": 255, "POS": 0, "FLT": 0, "ATR": 0}
        self._active_at = float("inf")
        self._goal = plant.gripper.opening()
        self._opening, self._speed = self._goal, 0.0

    def step(self, dt: float) -> None:
        """Move the fingers for one cycle of `dt` seconds."""
        opening = self.plant.gripper.opening()
        self._speed += 0.1 * ((opening - self._opening) / dt - self._speed)
        self._opening = opening
        if self._status() == 3 and self.registers["GTO"]:
            way = self._target() - self._goal
            most = (SLOW + (FAST - SLOW) * self.registers["SPE"] / 255.0) * dt
            self._goal += min(max(way, -most), most)
            self.plant.gripper.command(self._goal)

    def answer(self, line: str) -> str:
        """Answer to one line: `GET POS`, or `SET GTO 1 POS 255`."""
        words = line.split()
        if words[:1] == ["GET"] and len(words) == 2:
            return f"{words[1]} {self._get(words[1])}"
        if words[:1] == ["SET"] and len(words) % 2 == 1:
            for name, value in zip(words[1::2], words[2::2], strict=True):
                if name not in self.registers or not value.isdigit() or int(value) > 255:
                    return "?"
                self._set(name, int(value))
            return "ack"
        return "?"

    def _set(self, name: str, value: int) -> None:
        if name == "ACT" and value != self.registers["ACT"]:
            self._active_at = self.plant.time_s + ACTIVATION_S if value else float("inf")
        self.registers[name] = value

    def _get(self, name: str) -> str:
        answers = {"STA": self._status, "OBJ": self._object, "POS": lambda: _counts(self.plant.gripper.opening())}
        if name == "PRE":
            return str(self.registers["POS"])
        return str(answers[name]()) if name in answers else str(self.registers.get(name, "?"))

    def _status(self) -> int:
        """0 reset, 1 activating, 3 active."""
        if not self.registers["ACT"]:
            return 0
        return 3 if self.plant.time_s >= self._active_at else 1

    def _object(self) -> int:
        """0 moving, 1 stopped by something while opening, 2 while closing, 3 at the requested position."""
        measured, asked = _counts(self.plant.gripper.opening()), _counts(self._target())
        if abs(measured - asked) <= CLOSE_ENOUGH:
            return 3
        if abs(self._speed) > MOVING_SPEED or self._goal != self._target():
            return 0
        return 2 if measured < asked else 1

    def _target(self) -> float:
        part = (CLOSED - self.registers["POS"]) / (CLOSED - OPEN)
        return min(max(part, 0.0) * FULL_OPENING, self.plant.gripper.max_opening)


def _counts(opening: float) -> int:
    return min(max(round(CLOSED - opening / FULL_OPENING * (CLOSED - OPEN)), 0), 255)
