"""What a person watching a run sees: one live table on a terminal, one plain line now and then in a log file."""

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, SupportsFloat

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

SUCCESS_WINDOW = 20
"""Training episodes over which the success rate is shown; SERL's convention."""

ACTING = ("training", "acting")
"""Phases whose steps are the environment's."""

_RENDER_INTERVAL_S = 0.25
_RATE_WINDOW_S = 10.0

# scalar -> (label, format), in the order shown
_SHOWN: dict[str, tuple[str, str]] = {
    "success": (f"success, last {SUCCESS_WINDOW}", "{:.0%}"),
    "episode_return": ("return", "{:.2f}"),
    "episode_length": ("episode length", "{:.0f}"),
    "eval_success_rate": ("evaluated success", "{:.0%}"),
    "env_steps_per_s": ("env steps/s", "{:.1f}"),
    "updates_per_s": ("updates/s", "{:.1f}"),
    "utd_ratio": ("UTD ratio", "{:.2f}"),
    "temperature": ("temperature", "{:.4f}"),
    "critic_loss": ("critic loss", "{:.4g}"),
    "demonstration_fraction": ("demonstrations in batch", "{:.0%}"),
}


class _Rate:
    """A counter's growth per second over the last few seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()

    def __call__(self, now: float, count: float) -> float | None:
        if self._samples and count < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, count))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _RATE_WINDOW_S:
            self._samples.popleft()
        then, earlier = self._samples[0]
        return (count - earlier) / (now - then) if now > then else None


class TrainingProgress:
    """Show how a run goes; a context manager.

    On a terminal, a live table with a progress bar, drawn at most four times a second; otherwise, one plain
    line about every `plain_interval_s` and at each change of phase. A call of `update` that draws nothing costs a few
    microseconds, so a control loop may call it at every environment step.

    Args:
        title: What runs, for example "pick_cube, state preset, seed 0".
        console: Where to draw; standard error by default, so that a command's result on standard output stays clean.
        plain_interval_s: Time between plain lines where the console is not a terminal [s].
        clock: Monotonic time [s].
    """

    def __init__(
        self,
        title: str,
        *,
        console: Console | None = None,
        plain_interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._interval_s = _RENDER_INTERVAL_S if self._console.is_terminal else plain_interval_s
        self._next_s = 0.0
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
            get_time=clock,
        )
        self._bar_task = self._bar.add_task("starting", total=None)
        self._start_s = clock()
        self._phase = "starting"
        self._total: int | None = None
        self._step = 0
        self._scalars: dict[str, float] = {}
        self._successes: deque[float] = deque(maxlen=SUCCESS_WINDOW)
        self._step_rate = _Rate()
        self._update_rate = _Rate()

    def __enter__(self) -> Self:
        self._start_s = self._clock()
        if self._console.is_terminal:
            # No refresh thread: it would take the interpreter's lock from the control loop at its own times.
            self._live = Live(self._table(), console=self._console, auto_refresh=False)
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._draw(self._clock())
        if self._live is not None:
            self._live.stop()
            self._live = None

    def phase(self, text: str, total: int | None = None) -> None:
        """Begin a phase, such as "collecting demonstrations", "behaviour cloning", "training" or "evaluating".

        Args:
            text: What happens now.
            total: How many steps (or episodes) the phase has, where known; the bar runs to it.
        """
        self._phase, self._total, self._step = text, total, 0
        self._step_rate, self._update_rate = _Rate(), _Rate()
        for stale in ("env_steps_per_s", "updates_per_s", "update"):
            self._scalars.pop(stale, None)
        self._bar.remove_task(self._bar_task)
        self._bar_task = self._bar.add_task(text, total=total)
        self._draw(self._clock())

    def update(self, *, step: int, **scalars: SupportsFloat) -> None:
        """Take in where the run is; draws only when it is time to.

        Args:
            step: Steps of this phase so far.
            **scalars: Named as in `robot_rl.metrics`; unknown names are ignored. `episode_success` feeds the
                success rate, `update` the update rate.
        """
        self._step = step
        if scalars:
            for name, value in scalars.items():
                self._scalars[name] = float(value)
            if "episode_success" in scalars:
                self._successes.append(float(scalars["episode_success"]))
                self._scalars["success"] = sum(self._successes) / len(self._successes)
        now = self._clock()
        if now >= self._next_s:
            self._measure(now)
            self._draw(now)

    def log(self, message: str) -> None:
        """Print a line that stays, above the table."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _measure(self, now: float) -> None:
        rate = self._step_rate(now, self._step)
        if rate is not None and self._phase in ACTING:
            self._scalars["env_steps_per_s"] = rate
        if "update" in self._scalars:
            rate = self._update_rate(now, self._scalars["update"])
            if rate is not None:
                self._scalars["updates_per_s"] = rate

    def _draw(self, now: float) -> None:
        self._next_s = now + self._interval_s
        if self._live is not None:
            self._bar.update(self._bar_task, completed=self._step)
            self._live.update(self._table(), refresh=True)
        elif not self._console.is_terminal:
            self.log(self._plain_line(now))

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 3))
        for _ in range(2):
            table.add_column(style="dim")
            table.add_column(justify="right", min_width=8)
        cells = [[label, text.format(self._scalars[k])] for k, (label, text) in _SHOWN.items() if k in self._scalars]
        for left, right in zip(cells[::2], [*cells[1::2], ["", ""]], strict=False):
            table.add_row(*left, *right)
        return Group(Text(self._title, style="bold cyan"), self._bar, table)

    def _plain_line(self, now: float) -> str:
        of = f"/{self._total}" if self._total else ""
        parts = [f"[{_clock_text(now - self._start_s)}] {self._phase} {self._step}{of}"]
        parts += [
            f"{label} {text.format(self._scalars[k])}" for k, (label, text) in _SHOWN.items() if k in self._scalars
        ]
        return "  ".join(parts)


def _clock_text(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
