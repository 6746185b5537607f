"""A device of one's own, as a user would write it: it presses success twice a second, and pushes a little."""

import time

from drivers.teleop import Raw


class Presser:
    """Named on the command line as tests.tasks.presser:Presser."""

    name = "presser"
    controls = {"nothing": "it presses by itself"}  # noqa: RUF012
    shown = []  # noqa: RUF012

    def open(self):
        self._begun = time.monotonic()

    def poll(self):
        pressed = (time.monotonic() - self._begun) % 0.5 < 0.1
        return Raw((0.3, 0.0, 0.0, 0.0, 0.0, 0.0), frozenset({"success"} if pressed else ()))

    def show(self, status, pictures=None):
        self.shown.append((status["state"], sorted(pictures)))

    def close(self):
        pass
