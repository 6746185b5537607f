"""Checking a cell: what is said of a healthy one, of a broken one, and the picture."""

import cv2
import numpy as np

from drivers.cell import SceneRequest, open_cell
from drivers.check import check_cell
from robot_rl.cli import main

TWIN = """
arm: {driver: twin}
cameras:
  front: {driver: realsense, serial: "0001", options: {timeout_s: 0.5}}
  wrist: {driver: twin}
"""


def checked(tmp_path, *, wiggle=False, spoil=lambda cell: None):
    path = tmp_path / "cell.yaml"
    path.write_text(TWIN)
    cell = open_cell(str(path), SceneRequest(cameras=("front", "wrist")))
    try:
        spoil(cell)
        return check_cell(cell, wiggle=wiggle, tell=lambda _: None)
    finally:
        cell.close()


def test_a_healthy_cell_has_no_problems_and_wiggles(tmp_path):
    report = checked(tmp_path, wiggle=True)
    assert report.problems == []
    devices = [device for device, _, _ in report.lines]
    assert {"arm", "gripper", "camera front", "camera wrist", "tracker", "wiggle"} <= set(devices)
    assert any("tcp at (0.500, " in finding for _, finding, _ in report.lines)


def test_the_pictures_stand_side_by_side_in_one_file(tmp_path):
    report = checked(tmp_path)
    report.save_pictures(tmp_path / "cameras.png")
    picture = cv2.imread(str(tmp_path / "cameras.png"))
    assert picture is not None
    assert picture.shape == (360, 720, 3)  # two squares of 360 pixels
    assert np.abs(picture[:, :360].mean() - picture[:, 360:].mean()) > 1.0  # and they show different things


def test_a_dead_camera_is_a_problem_and_the_rest_is_checked_all_the_same(tmp_path):
    report = checked(tmp_path, spoil=lambda cell: cell.eyes.virtual["front"].unplug())
    assert len(report.problems) == 1
    assert report.problems[0].startswith("camera front: ")
    assert set(report.pictures) == {"wrist"}


def test_the_command_says_ready_or_what_to_look_at(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell.yaml").write_text(TWIN)
    assert main(["check-cell", "cell.yaml", "--pictures", "seen.png"]) == 0
    assert "Ready: every device answered" in capsys.readouterr().out
    assert (tmp_path / "seen.png").is_file()


def test_an_unreachable_robot_is_the_verdict(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell.yaml").write_text("arm: {driver: franka, host: 127.0.99.98}")
    assert main(["check-cell", "cell.yaml"]) == 1
    assert "Nothing answers at 127.0.99.98:1337" in capsys.readouterr().err
