"""A third party's arm that a patient person moves to and fro along y from the moment it yields, in its own process."""

import time
from pathlib import Path

import numpy as np

from drivers.interfaces import ArmState
from robot_rl.errors import DeviceFaultError

SWAY_M, SWAY_S = 0.06, 4.0
START = np.array([0.3, -0.1, 0.4, 1.0, 0, 0, 0])


class LedArm:
    """A `ServoArm`. While the file `fault` exists it reports one; what is asked of it goes line by line into `log`."""

    period_s, law_s = 0.002, 0.0

    def __init__(self, host="", log="", fault="", still=False):
        del host
        self._log, self._fault, self._still = Path(log), Path(fault), still
        self._freed_s, self.time_s, self.moving = np.inf, 0.0, False
        self._pose = START.copy()

    def connect(self):
        self._say("connect")
        self.time_s = time.monotonic()

    def tick(self):
        time.sleep(self.period_s)
        if self._fault.is_file():
            raise DeviceFaultError("a finger was in the way")
        self.time_s = time.monotonic()
        if not self._still and self.time_s > self._freed_s:
            turn = 2.0 * np.pi * (self.time_s - self._freed_s) / SWAY_S
            self._pose[1] = START[1] + 0.5 * SWAY_M * (1.0 - np.cos(turn))

    def state(self):
        zeros = np.zeros(7)
        return ArmState(self.time_s, zeros, zeros, zeros, self._pose.copy(), np.zeros(6), np.zeros(6))

    def set_impedance(self, gains):
        self._say(f"stiffness {max(gains.stiffness + gains.rotational_stiffness):g} damping {gains.damping[0]:g}")
        self._freed_s = min(self._freed_s, time.monotonic())

    def recover(self):
        self._say("recover")

    def stop(self):
        self._say("stop")

    def close(self):
        self._say("close")

    def _say(self, what):
        if self._log.name:
            with self._log.open("a") as log:
                log.write(what + "\n")
