"""The shared memory between two processes: whole records only, a dead writer noticed."""

import subprocess
import sys

import numpy as np
import pytest

from drivers.interfaces import ArmState
from drivers.mailbox import BINS, Mailbox, Mode, percentile_us
from robot_rl.errors import LinkError


@pytest.fixture
def mailbox():
    box = Mailbox()
    yield box
    box.close()


def _state(value: float, joints: int = 7) -> ArmState:
    return ArmState(
        time_s=value, q=np.full(joints, value), qd=np.full(joints, value), torque=np.full(joints, value),
        tcp_pose=np.full(7, value), twist_tcp=np.full(6, value), wrench_tcp=np.full(6, value),
    )  # fmt: skip


def test_a_target_arrives_as_sent(mailbox):
    other = Mailbox(mailbox.path)
    assert other.read_target()[0] == 0
    pose = np.arange(7.0)
    number = mailbox.send_target(pose, 1.0)
    received, seen = other.read_target()
    assert received == number == 1
    np.testing.assert_array_equal(seen, pose)


@pytest.mark.parametrize("joints", [6, 7])
def test_a_state_arrives_with_its_mode_and_message(mailbox, joints):
    other = Mailbox(mailbox.path)
    mailbox.publish(_state(2.5, joints), now_s=7.0)
    mailbox.say(Mode.FAULT, "DeviceFaultError", "a reflex", refused=3)
    state, record = other.read_state()
    assert state.q.shape == (joints,)
    np.testing.assert_array_equal(state.wrench_tcp, np.full(6, 2.5))
    assert (record["mode"], record["refused"], record["message"], record["published_s"]) == (5, 3, b"a reflex", 7.0)
    assert record["kind"] == b"DeviceFaultError"
    mailbox.say(Mode.HOLDING)
    assert other.read_state()[1]["message"] == b""


def test_no_reader_ever_sees_half_a_record(mailbox):
    """A process writes states all of whose numbers are equal, as fast as it can; every copy read must be such a one."""
    writer = """
import sys, numpy as np
from pathlib import Path
from drivers.mailbox import Mailbox
from drivers.interfaces import ArmState
box = Mailbox(Path(sys.argv[1]))
print("ready", flush=True)
for i in range(10**9):
    v = float(i)
    a = np.full(7, v); b = np.full(6, v)
    box.publish(ArmState(v, a, a, a, a, b, b), now_s=v)
"""
    process = subprocess.Popen([sys.executable, "-c", writer, str(mailbox.path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        seen = set()
        for _ in range(3000):
            state, _record = mailbox.read_state()
            numbers = np.concatenate(
                [state.q, state.qd, state.torque, state.tcp_pose, state.twist_tcp, state.wrench_tcp]
            )
            assert (numbers == numbers[0]).all()
            seen.add(float(numbers[0]))
        assert len(seen) > 10
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_writer_that_died_while_writing_is_noticed(mailbox):
    mailbox.status["sequence"] += 1
    with pytest.raises(LinkError, match="driver process died"):
        mailbox.read_state()


def test_percentiles_of_a_known_histogram():
    """100 values 0..99 us: the median bin is 49, p99.9 the last; an empty histogram has none."""
    histogram = np.zeros(BINS, dtype=np.uint64)
    histogram[:100] = 1
    assert percentile_us(histogram, 50) == 49
    assert percentile_us(histogram, 99.9) == 99
    assert np.isnan(percentile_us(np.zeros(BINS, dtype=np.uint64), 50))


def test_a_target_being_written_is_left_for_the_next_cycle(mailbox):
    """A control loop cannot wait for a writer that may be dead."""
    mailbox.send_target(np.zeros(7), 0.0)
    mailbox.target["sequence"] += 1
    assert mailbox.read_target() is None
    mailbox.target["sequence"] += 1
    assert mailbox.read_target()[0] == 1
