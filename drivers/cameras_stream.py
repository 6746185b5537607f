"""The newest picture of a camera that sends them at its own pace, and knowing when it no longer does.

One thread takes pictures from a `Source` as they come and keeps the newest; readers decode only what they read. It
notices four ways of going dark: nothing ever came (DeviceTimeoutError), the newest is too old or the same picture comes
again and again (StaleStateError), and the device is gone (DeviceConnectionError, while it tries to get it back).
"""

import logging
import threading
import time
import zlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from drivers.interfaces import Frame
from robot_rl.errors import DeviceConnectionError, DeviceError, DeviceTimeoutError, RobotRLError, StaleStateError

__all__ = ["CameraStream", "Liveness", "Shot", "Source", "StampMapper"]

GRAB_S = 0.2  # longest a source may keep the thread waiting [s]
RETRY_S = 0.3  # between attempts to get a device back [s]
DRIFT = 100e-6  # a camera's clock may run this much slower than ours
RESYNC_S = 1.0  # a stamp further off than this is a new clock, not a delay

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """When a camera counts as dead.

    Attributes:
        max_age_s: Oldest picture worth acting on.
        timeout_s: Longest wait for the first picture, or for one that was asked for.
        frozen_after_s: The same picture for longer than this, bit by bit, is a frozen camera: a sensor has noise. None
            for sources without (a rendered scene at rest).
        restart_after_s: A camera silent for longer than this is opened anew.
        reconnect_s: Give up getting it back after this long.
    """

    max_age_s: float = 0.5
    timeout_s: float = 5.0
    frozen_after_s: float | None = 1.0
    restart_after_s: float = 3.0
    reconnect_s: float = 60.0


class Shot(NamedTuple):
    """A picture as it came. `number` differs from one to the next; `stamp_s` is on the device's clock, None without."""

    number: Hashable
    stamp_s: float | None
    decode: Callable[[], Frame]


class Source(Protocol):
    """A device that sends pictures. Only `open` is called from outside the stream's thread."""

    label: str

    def open(self) -> None:
        """Reach the device. Raises DeviceConnectionError, ConfigError."""
        ...

    def grab(self, timeout_s: float) -> Shot | None:
        """The next picture, or None when none came. Raises DeviceConnectionError when the device is gone."""
        ...

    def close(self) -> None:
        """Let go of the device. May be called twice."""
        ...


class StampMapper:
    """A device's time stamps on our clock.

    Pictures arrive late by a transport delay that varies; the least delayed of them shows how far the two clocks are
    apart. So a stamp is exact up to the smallest delay seen (about one frame period on USB), without its jitter.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._last = 0.0

    def __call__(self, stamp_s: float | None, now_s: float) -> float:
        """When a picture that arrived `now_s` was taken, on our clock; never later than now."""
        if stamp_s is None:
            return now_s
        difference = now_s - stamp_s
        if self._offset is None or abs(difference - self._offset) > RESYNC_S:
            self._offset = difference
        self._offset = min(difference, self._offset + DRIFT * max(0.0, now_s - self._last))
        self._last = now_s
        return stamp_s + self._offset


class CameraStream:
    """Keeps the newest picture of a source.

    Args:
        source: The device.
        liveness: When it counts as dead.
        now: The cell's clock [s].
        before_read: Called before every read, which then waits for a picture that came after the call: how a device on
            a simulated clock is asked for the present picture. None for a device that sends at its own pace.

    Raises:
        DeviceConnectionError: The device cannot be reached.
        ConfigError: It cannot do what is asked.
    """

    def __init__(
        self, source: Source, liveness: Liveness, now: Callable[[], float], before_read: Callable[[], None] | None
    ) -> None:
        self._source, self._liveness, self._now, self._before_read = source, liveness, now, before_read
        self._changed = threading.Condition()
        self._newest: tuple[float, Shot] | None = None
        self._decoded: tuple[Shot, Frame] | None = None
        self._failure = ""  # why there is no device, for as long as there is none
        self._lost_at: float | None = None
        self._same: tuple[int, float] | None = None  # checksum of a picture, and when it was first seen
        self._number: Hashable = None
        self._stamps = StampMapper()
        self._closing = threading.Event()
        self.received, self.restarts = 0, 0
        self._expected_since: float | None = None
        source.open()
        self._expect(asked=False)
        self._thread = threading.Thread(target=self._run, name=f"camera {source.label}", daemon=True)
        self._thread.start()

    def read(self) -> Frame:
        """The newest picture, whole.

        Raises:
            DeviceTimeoutError: None came.
            StaleStateError: The newest is too old, or the camera repeats itself.
            DeviceConnectionError: The device is gone; it is being looked for.
        """
        time_s, shot = self._await()
        age = self._now() - time_s
        if age > self._liveness.max_age_s:
            raise StaleStateError(
                f"The newest picture from {self._source.label} is {age:.3f} s old, limit {self._liveness.max_age_s} s "
                "(max_age_s). The camera has stopped sending; check its cable and run: robot-rl check-cell",
                age_s=age, limit_s=self._liveness.max_age_s,
            )  # fmt: skip
        decoded = self._decoded
        if decoded is None or decoded[0] is not shot:
            picture = shot.decode()
            decoded = (shot, Frame(time_s, picture.image, picture.depth))
            self._refuse_frozen(decoded[1])
            self._decoded = decoded
        return decoded[1]

    def close(self) -> None:
        """Stop and let go of the device."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._newest = self._decoded = None

    def _await(self) -> tuple[float, Shot]:
        """The newest shot, waiting for the first one, or for one after `before_read`."""
        if self._closing.is_set():
            raise DeviceConnectionError(f"{self._source.label} was closed.")
        with self._changed:
            seen = self.received
        if self._before_read is not None:
            self._expect(asked=True)
            self._before_read()
        with self._changed:
            wanted = self._before_read is not None or self._newest is None
            if wanted:
                self._changed.wait_for(lambda: self.received > seen or self._failure != "", self._liveness.timeout_s)
            if self._failure:
                raise DeviceConnectionError(self._failure)
            if self._newest is None or (wanted and self.received == seen):
                raise DeviceTimeoutError(
                    f"{self._source.label} is connected, but no picture came within {self._liveness.timeout_s} s "
                    "(timeout_s). Unplug it and plug it in again, into a USB 3 port of the computer itself.",
                    timeout_s=self._liveness.timeout_s,
                )
            return self._newest

    def _refuse_frozen(self, frame: Frame) -> None:
        limit = self._liveness.frozen_after_s
        if limit is None:
            return
        checksum = zlib.crc32(np.ascontiguousarray(frame.image).data)
        if self._same is None or self._same[0] != checksum or frame.time_s < self._same[1]:
            self._same = (checksum, frame.time_s)
        same_for = frame.time_s - self._same[1]
        if same_for > limit:
            raise StaleStateError(
                f"{self._source.label} has sent the very same picture for {same_for:.2f} s, limit {limit} s "
                "(frozen_after_s): it is frozen, or its lens is covered. Unplug it and plug it in again.",
                frozen_s=same_for, limit_s=limit,
            )  # fmt: skip

    def _expect(self, *, asked: bool) -> None:
        """From now on a picture is due: always from a camera at its own pace, else once it was asked for."""
        if self._before_read is None or asked:
            self._expected_since = self._expected_since or time.monotonic()

    def _run(self) -> None:
        """The thread: grab until closed; on a loss look for the device, for a bounded time."""
        try:
            while not self._closing.is_set():
                try:
                    shot = self._source.grab(GRAB_S)
                    if shot is not None and shot.number != self._number:
                        self._keep(shot)
                    elif (silent := self._silent_s()) > self._liveness.restart_after_s:
                        raise DeviceConnectionError(f"{self._source.label} sent nothing new for {silent:.1f} s.")
                except DeviceError as error:
                    if not self._regain(error):
                        return
        finally:
            self._source.close()
            if not self._closing.is_set() and not self._failure:  # a bug of ours: readers must not wait for ever
                self._fail(f"The thread that reads {self._source.label} ended by an error of its own.")

    def _silent_s(self) -> float:
        return 0.0 if self._expected_since is None else time.monotonic() - self._expected_since

    def _keep(self, shot: Shot) -> None:
        now = self._now()
        with self._changed:
            self._number = shot.number
            self._newest = (self._stamps(shot.stamp_s, now), shot)
            self._failure, self._lost_at, self._expected_since = "", None, None
            self._expect(asked=False)
            self.received += 1
            self._changed.notify_all()

    def _fail(self, why: str) -> None:
        with self._changed:
            self._failure, self._newest, self._decoded = why, None, None
            self._changed.notify_all()

    def _regain(self, error: RobotRLError) -> bool:
        """Close the device and open it again until that works. Whether it did."""
        label, limit = self._source.label, self._liveness.reconnect_s
        log.warning("%s Looking for it for %.0f s.", error, limit)
        self._fail(f"{error} It is being looked for, for {limit:.0f} s (reconnect_s); the episode cannot go on.")
        self._source.close()
        self._lost_at = self._lost_at or time.monotonic()  # restarting a dead device again and again ends, too
        while not self._closing.is_set():
            try:
                self._source.open()
            except RobotRLError as again:
                if time.monotonic() > self._lost_at + limit:
                    log.warning("%s Given up.", again)
                    self._fail(f"{again} Given up after {limit:.0f} s (reconnect_s); open the cell again.")
                    return False
                self._closing.wait(RETRY_S)
                continue
            self.restarts += 1
            self._stamps = StampMapper()
            self._expected_since = None
            self._expect(asked=False)
            with self._changed:
                self._failure = ""
            log.warning("%s is open again (restart %d).", label, self.restarts)
            return True
        return False
