"""Ending in order: signals, a terminal that is closed, a parent that died."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Generator
from typing import Any

from robot_rl.processes import PARENT

__all__ = ["INTERRUPTED", "ending_in_order"]

INTERRUPTED = 130  # what a shell expects of a process that Ctrl-C ended


@contextlib.contextmanager
def ending_in_order(work: Any) -> Generator[None]:
    """SIGINT, SIGTERM or a terminal that is closed asks it to end; a second one ends at once.

    So does, in a child of a run, the death of its parent: an arm must not go on with nobody there to stop it.
    """
    numbers = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    handlers = {s: signal.signal(s, lambda *_: _stop(work)) for s in numbers}
    parent = os.environ.get(PARENT)
    if parent is not None:
        threading.Thread(target=_watch_parent, args=(int(parent), work), daemon=True).start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _watch_parent(parent: int, work: Any) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    work.stop_requested = True


def _stop(work: Any) -> None:
    if work.stop_requested:
        raise KeyboardInterrupt
    work.stop_requested = True
