import io

import pytest
from rich.console import Console

from robot_rl.progress import TrainingProgress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=110, height=30, color_system=None)


def log_file():
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def train(progress, clock, steps, rate_hz=100.0, utd=4, first=1):
    for step in range(first, first + steps):
        clock.now += 1 / rate_hz
        progress.update(step=step, update=utd * step, critic_loss=0.125)


def test_plain_lines_come_every_ten_seconds(clock):
    console = log_file()
    with TrainingProgress("reach", console=console, clock=clock) as progress:
        progress.phase("training", total=5000)
        train(progress, clock, 3550)
        seen = console.file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in seen] == [
        "[00:00] training 0/5000",
        "[00:10] training 1000/5000",
        "[00:20] training 2000/5000",
        "[00:30] training 3000/5000",
    ]
    assert "env steps/s 100.0" in seen[-1]
    assert "updates/s 400.0" in seen[-1]
    assert "critic loss 0.125" in seen[-1]
    assert "training 3550/5000" in console.file.getvalue().splitlines()[-1]


def test_success_is_over_the_last_twenty_episodes(clock):
    console = log_file()
    with TrainingProgress("reach", console=console, clock=clock) as progress:
        progress.phase("training")
        for episode in range(30):
            progress.update(step=episode, episode_success=episode >= 15, episode_return=1.0)
    assert "success, last 20 75%" in console.file.getvalue().splitlines()[-1]


def test_the_terminal_shows_bar_and_table(clock):
    console = terminal()
    with TrainingProgress("reach, seed 0", console=console, clock=clock) as progress:
        progress.phase("training", total=200)
        train(progress, clock, 100)
        progress.log("checkpoint at step [100]")
        progress.phase("evaluating", total=20)
    text = console.file.getvalue()
    for expected in ("reach, seed 0", "training", "100/200", "critic loss", "checkpoint at step [100]", "evaluating"):
        assert expected in text


def test_the_terminal_is_drawn_at_most_four_times_a_second(clock):
    console = terminal()
    with TrainingProgress("reach", console=console, clock=clock) as progress:
        progress.phase("training", total=2000)
        before = console.file.getvalue().count("reach")
        train(progress, clock, 1000)
        drawn = console.file.getvalue().count("reach") - before
    assert 36 <= drawn <= 40


def test_a_new_phase_starts_its_rates_anew(clock):
    console = log_file()
    with TrainingProgress("reach", console=console, clock=clock) as progress:
        progress.phase("collecting demonstrations", total=500)
        train(progress, clock, 1500, rate_hz=50)
        progress.phase("training", total=5000)
        assert "env steps/s" not in console.file.getvalue().splitlines()[-1]
        train(progress, clock, 2100, rate_hz=100)
    assert "env steps/s 100.0" in console.file.getvalue().splitlines()[-1]


def test_an_error_leaves_the_terminal_usable(clock):
    console = terminal()

    def fail():
        with TrainingProgress("reach", console=console, clock=clock):
            raise KeyError("fault")

    with pytest.raises(KeyError):
        fail()
    assert console.file.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"
