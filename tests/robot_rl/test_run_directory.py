"""A run's directory: made once, never overwritten; tensors on disk are the old ones or the new ones."""

import os

import pytest
import torch

from robot_rl import run_directory
from robot_rl.config import preset
from robot_rl.errors import ConfigError, StoreError
from robot_rl.run_directory import RunDirectory, load_tensors, save_tensors

SETTINGS = preset("serl", "reach")


def test_a_new_run_has_its_settings_and_versions(tmp_path):
    run = RunDirectory.create(SETTINGS, tmp_path / "a" / "run")
    assert RunDirectory.open(run.path) == (run, SETTINGS)
    text = run.config.read_text()
    assert "versions:" in text
    assert "torch:" in text


def test_the_default_name_is_free_even_in_the_same_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_directory.time, "strftime", lambda _: "20300101-000000")
    first, second, third = (RunDirectory.create(SETTINGS) for _ in range(3))
    assert len({first.path, second.path, third.path}) == 3
    assert str(first.path) == "runs/reach/20300101-000000"
    assert str(RunDirectory.create(preset("serl", "gymnasium:Fetch/Reach-v4")).path).startswith("runs/Fetch_Reach-v4/")


def test_what_exists_is_not_touched(tmp_path):
    (tmp_path / "run").mkdir()
    RunDirectory.create(SETTINGS, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(ConfigError, match=f"--resume {tmp_path / 'run'}"):
        RunDirectory.create(preset("fast", "reach"), tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="nothing in it was touched"):
        RunDirectory.create(SETTINGS, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.name != "file"} == before


def test_a_place_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot write"):
        RunDirectory.create(SETTINGS, tmp_path / "file" / "run")


def test_a_run_of_before_goes_on_as_it_was(tmp_path):
    """Before keypoints there were none, and where successes were kept, all were."""
    run = RunDirectory.create(preset("pixels", "reach"), tmp_path / "run")
    now = RunDirectory.open(run.path)[1]
    assert (now.vision.keypoints, now.keep_successes) == (16, 1.0)
    text = (
        run.config.read_text().replace("  keypoints: 16\n", "").replace("keep_successes: 1.0", "keep_successes: true")
    )
    run.config.write_text(text)
    before = RunDirectory.open(run.path)[1]
    assert (before.vision.keypoints, before.keep_successes) == (0, float("inf"))


def test_no_run_says_where_runs_lie(tmp_path):
    with pytest.raises(ConfigError, match="runs/<task>/<timestamp>"):
        RunDirectory.open(tmp_path)


def test_tensors_and_facts_come_back(tmp_path):
    path = tmp_path / "policy" / "p.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}
    facts = {"state": {"state": 2**100}, "value": 0.1, "none": None}
    save_tensors(path, tensors, facts)
    read, read_facts = load_tensors(path)
    assert read_facts == facts
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_fault_8_the_old_file_stands_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "policy" / "p.safetensors"
    save_tensors(path, {"a": torch.zeros(2)}, {"step": 1})
    before = path.read_bytes()

    def full(*_):
        assert path.read_bytes() == before, "the old checkpoint is there while the new one is written"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="The previous file is intact"):
        save_tensors(path, {"a": torch.ones(2)}, {"step": 2})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["p.safetensors"], "no debris"


def test_damaged_tensors_are_one_message(tmp_path):
    path = tmp_path / "p.safetensors"
    for content in (b"", b"\x10\0\0\0\0\0\0\0garbage", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(StoreError, match="Cannot read"):
            load_tensors(path)
    with pytest.raises(StoreError, match="Cannot read"):
        load_tensors(tmp_path / "absent")
