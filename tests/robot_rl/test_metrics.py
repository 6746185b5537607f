import errno
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl.errors import ConfigError, StoreError
from robot_rl.metrics import MetricsWriter, read_metrics


def write_steps(path, steps, **kwargs):
    with MetricsWriter(path, **kwargs) as writer:
        for step in steps:
            writer.write(step=step, update=2 * step, critic_loss=step / 10)


def test_a_row_is_readable_as_soon_as_it_is_written(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write(step=3, update=12, critic_loss=torch.tensor(0.5), episode_success=True, episode_return=np.float32(1.5))
    (row,) = read_metrics(path)
    assert row.pop("wall_time") > 1.6e9
    assert row == {"step": 3, "update": 12, "critic_loss": 0.5, "episode_success": 1, "episode_return": 1.5}
    writer.close()
    writer.close()


def test_not_finite_is_null_and_strict_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(step=1, update=1, critic_loss=float("nan"), actor_loss=float("-inf"))

    def refuse(constant):
        raise AssertionError(constant)

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row["critic_loss"] is None
    assert row["actor_loss"] is None


def test_a_torn_last_line_is_left_out_and_repaired_on_opening(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [1, 2])
    with path.open("a") as file:
        file.write('{"wall_time": 1, "step": 3, "cri')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    write_steps(path, [4])
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 4]


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [10, 20, 30])
    write_steps(path, [25], resume_step=20)
    assert [row["step"] for row in read_metrics(path)] == [10, 20, 25]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_damage_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(StoreError, match="Line 2"):
        read_metrics(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_full_disk_delays_rows_and_loses_none(tmp_path, monkeypatch):
    """Written while there is no room, they follow with the first row that finds some; none is torn or doubled."""
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write(step=1, update=1)
    real = writer._file

    class Full:
        def fileno(self):
            return real.fileno()

        def write(self, data):
            if len(data) < 100:  # there is room for half a row only
                return real.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_file", Full())
    for step in (2, 3):
        writer.write(step=step, update=step)
    assert [row["step"] for row in read_metrics(writer.path)] == [1]
    monkeypatch.setattr(writer, "_file", real)
    writer.write(step=4, update=4)
    writer.close()
    assert [row["step"] for row in read_metrics(writer.path)] == [1, 2, 3, 4]


def test_closing_on_a_full_disk_says_what_is_missing(tmp_path, monkeypatch):
    real_open = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode, **kwargs: real_open(Path("/dev/full"), mode, **kwargs))
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    monkeypatch.undo()
    writer.write(step=1, update=1)
    with pytest.raises(StoreError, match="last 1 rows"):
        writer.close()


def test_what_is_not_a_regular_file_is_refused(tmp_path):
    with pytest.raises(StoreError, match="regular file"):
        MetricsWriter(tmp_path)


def test_tensorboard_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"robot-rl\[log\]"):
        MetricsWriter(tmp_path / "metrics.jsonl", tensorboard=True)


def test_tensorboard_reads_what_was_written(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="optional: pip install 'robot-rl[log]'"
    )
    write_steps(tmp_path / "metrics.jsonl", [1, 2], tensorboard=True)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("critic_loss")] == [
        (1, pytest.approx(0.1)),
        (2, pytest.approx(0.2)),
    ]
