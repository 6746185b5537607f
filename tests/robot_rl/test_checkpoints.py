"""Checkpoints: whatever happens to the files, what is loaded is what was saved."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robot_rl.checkpoints import CheckpointFolder
from robot_rl.errors import ConfigError, StoreError
from robot_rl.tensor_files import load_tensors, save_tensors

ROOT = Path(__file__).parents[2]


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"weights": torch.full((50, 20), float(step)), "counter": torch.tensor(step)}


def facts(step: int) -> dict[str, object]:
    return {"step": step, "random": {"state": 2**100 + step}, "text": 'a "checksum":"quoted"'}


def save(folder: CheckpointFolder, step: int) -> Path:
    return folder.save(tensors(step), facts(step))


def loaded(folder: CheckpointFolder) -> int:
    """The step of what is loaded, every number of it checked."""
    read, told = folder.load()
    step = told["step"]
    assert told == facts(step)
    assert all(torch.equal(read[name], value) for name, value in tensors(step).items())
    return step


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def test_the_newest_are_kept_and_the_newest_is_loaded(tmp_path):
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    assert not folder.exists
    for step in (5, 10, 900, 1000):
        assert save(folder, step) == tmp_path / "c" / f"step_{step:09d}.safetensors"
        assert loaded(CheckpointFolder(tmp_path / "c")) == step
    assert folder.exists
    assert names(tmp_path / "c") == ["index.json", "step_000000900.safetensors", "step_000001000.safetensors"]


def test_the_best_outlives_the_newest(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.9, 5: 0.1, 6: 0.3, 7: 0.0}
    marked = []
    for step, score in scores.items():
        save(folder, step)
        if folder.mark_best(score):
            marked.append(step)
    assert marked == [1, 2, 4]
    best = CheckpointFolder(tmp_path).best
    assert best is not None
    assert (best.file.name, best.score) == ("step_000000004.safetensors", 0.9)
    assert folder.load_best()[1] == facts(4)
    assert names(tmp_path)[1:] == [f"step_00000000{i}.safetensors" for i in (4, 6, 7)]


@pytest.mark.parametrize("damage", ["torn", "empty", "flipped", "gone", "zeroed"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, damage):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2, 3):
        file = save(folder, step)
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) - 77] ^= 4
    if damage == "zeroed":
        data[-512:] = bytes(512)
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"torn": data[: len(data) // 2], "empty": b""}.get(damage, data))
    folder = CheckpointFolder(tmp_path)
    assert loaded(folder) == 2
    assert len(folder.skipped) == (damage != "gone")
    assert all(file.name in line for line in folder.skipped)
    for step in (4, 5, 6):
        save(folder, step)
        assert loaded(folder) == step
    assert len(names(tmp_path)) == 4


def test_no_flipped_bit_and_no_torn_file_is_ever_loaded(tmp_path):
    path = tmp_path / "p.safetensors"
    save_tensors(path, tensors(3), facts(3))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 * (8 + int.from_bytes(whole[:8], "little"))
    for bit in [*rng.choice(header, 300, replace=False).tolist(), *rng.integers(header, 8 * len(whole), 100).tolist()]:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(StoreError, match="Cannot read"):
            load_tensors(path)
    for length in rng.integers(0, len(whole), 100):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match="Cannot read"):
            load_tensors(path)
    path.write_bytes(whole)
    assert load_tensors(path)[1] == facts(3)


def test_when_nothing_is_intact_each_is_named(tmp_path):
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(StoreError, match="holds no intact checkpoint"):
        folder.load()
    with pytest.raises(StoreError, match="marked as the best"):
        folder.load_best()
    with pytest.raises(StoreError, match="Call save before"):
        folder.mark_best(1.0)
    save(folder, 1).write_bytes(b"x")
    with pytest.raises(StoreError, match="step_000000001"):
        folder.load()
    with pytest.raises(ConfigError, match="need 'step'"):
        folder.save(tensors(1), {})
    with pytest.raises(ConfigError, match="keep is 0"):
        CheckpointFolder(tmp_path, keep=0)


def test_a_lost_index_costs_no_checkpoint(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2, 30):
        save(folder, step)
    for content in (b"", b'{"newest_first": 3, "best": null}', b'{"newest_first": [], "best": {"file": "../x"}}'):
        (tmp_path / "index.json").write_bytes(content)
        assert loaded(CheckpointFolder(tmp_path)) == 30
    (tmp_path / "index.json").unlink()
    assert loaded(folder) == 30


def test_going_on_from_an_older_step_the_newly_saved_is_the_newest(tmp_path):
    folder = CheckpointFolder(tmp_path)
    save(folder, 100)
    save(folder, 200).write_bytes(b"damaged")
    assert loaded(folder) == 100
    save(folder, 150)
    assert loaded(CheckpointFolder(tmp_path)) == 150


def test_stopped_anywhere_in_a_save_the_newest_is_loaded(tmp_path, monkeypatch):
    """The steps of a save: its file, the pruned files, the index. It ends after each of them in turn."""
    folder = CheckpointFolder(tmp_path, keep=1)
    save(folder, 1)

    def ends(*_, **__):
        raise KeyboardInterrupt

    for step, where in (
        (2, "robot_rl.checkpoints.remove_partials"),
        (3, "pathlib.Path.unlink"),
        (4, "robot_rl.checkpoints.write_whole"),
    ):
        monkeypatch.setattr(where, ends)
        with pytest.raises(KeyboardInterrupt):
            save(folder, step)
        monkeypatch.undo()
        assert loaded(CheckpointFolder(tmp_path)) == step
    save(folder, 5)
    assert names(tmp_path) == ["index.json", "step_000000005.safetensors"]


def test_the_single_checkpoint_of_older_runs_is_loaded(tmp_path):
    save_file(tensors(7), tmp_path / "latest.safetensors", metadata={"facts": '{"step": 7}'})  # no checksum
    folder = CheckpointFolder(tmp_path)
    assert folder.load()[1] == {"step": 7}
    for step in (8, 9, 10):
        assert (tmp_path / "latest.safetensors").is_file()
        save(folder, step)
        assert loaded(folder) == step
    assert not (tmp_path / "latest.safetensors").exists()


def test_a_full_disk_leaves_the_older_ones(tmp_path):
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match="previous file is intact") as caught:
            save(folder, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.disk_full
    assert names(tmp_path) == ["index.json", "step_000000001.safetensors"]
    assert loaded(folder) == 1
    save(folder, 2)
    assert loaded(folder) == 2


SAVER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.robot_rl.test_checkpoints import CheckpointFolder, save
folder = CheckpointFolder(sys.argv[1], keep=2)
step = folder.load()[1]["step"] if folder.exists else 0
while True:
    step += 1
    save(folder, step)
    if step % 3 == 0:
        folder.mark_best(step / 1e6)
    print(step, flush=True)
"""


def test_killed_while_saving_the_newest_acknowledged_is_loaded(tmp_path):
    rng = np.random.default_rng(0)
    acknowledged = 0
    for _ in range(3):
        saver = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert saver.stdout is not None
        assert int(saver.stdout.readline()) > acknowledged
        time.sleep(rng.uniform(0, 0.1))
        os.kill(saver.pid, signal.SIGKILL)
        for line in saver.stdout:
            acknowledged = int(line) if line.endswith("\n") else acknowledged
        saver.wait()
        saver.stdout.close()
        folder = CheckpointFolder(tmp_path, keep=2)
        assert loaded(folder) >= acknowledged
        assert folder.skipped == []
        best = folder.best
        assert best is None or load_tensors(best.file)[1]["step"] % 3 == 0
    save(folder, acknowledged + 10)
    assert len([name for name in names(tmp_path) if name != "index.json"]) <= 3, "no debris"
