"""Cell files: what is accepted, and what a mistake says."""

import pytest

from drivers.cell import open_cell
from drivers.cell_file import LimitsFile, load_cell_file, tighten
from drivers.cell_templates import TEMPLATES
from drivers.commands import cells
from drivers.safety import SafetyLimits
from robot_rl.errors import ConfigError

LIMITS = SafetyLimits(position_low=(0.3, -0.2, 0.0), position_high=(0.7, 0.2, 0.4), max_speed=(0.5, 2.0))


def write(folder, text):
    path = folder / "lab.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("driver", sorted(TEMPLATES))
def test_every_new_cell_file_is_valid(driver, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cells("new", "lab", driver) == 0
    cell = load_cell_file("cells/lab.yaml")
    assert cell.arm.driver == driver
    assert "check-cell cells/lab.yaml" in capsys.readouterr().out


@pytest.mark.parametrize("driver", sorted(TEMPLATES))
def test_the_commented_examples_of_a_new_cell_file_are_valid_too(driver, tmp_path):
    """Whoever takes the hash signs away must get what the file promises."""
    lines = TEMPLATES[driver].format(path="x", driver=driver).splitlines()
    kept = [line.replace("#  ", "  ", 1) if line.startswith("#  ") else line for line in lines]
    text = "\n".join(kept).replace("cameras: {}", "cameras:").replace("  driver: none                    #", "  #")
    cell = load_cell_file(write(tmp_path, text))
    assert cell.cameras["front"].crop == (80, 0, 480, 480)
    assert cell.tracker.objects["socket"][0].size_m == 0.04


def test_an_existing_cell_file_is_not_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("arm: {}")
    with pytest.raises(ConfigError, match="nothing in it was touched"):
        cells("new", "mine.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arm: {driver: franka}", "arm.host is missing"),
        ("arm: {driver: frank, host: 1.2.3.4}", "Known: franka, franky, ur, ros2, twin"),
        ("arm: {driver: twin, hots: 1.2.3.4}", "arm.hots: there is no such key. Known: driver, host"),
        ("cameras: {front: {driver: twin, fps: -1}}", "cameras.front.fps: -1: Input should be greater than 0"),
        ("cameras: {front: {driver: twin, serail: x}}", "cameras.front.serail: there is no such key. Known: driver,"),
        ("cameras: {front: {driver: webcam}}", "cameras.front.driver: 'webcam' is not known"),
        ("cameras: {front: {driver: opencv}}", "cameras.front.source is missing"),
        ("tracker: {driver: tags, camera: front}", "tracker.camera: 'front' is none of the cameras"),
        ("watchdog: {hold_after_s: 6}", "watchdog.stop_after_s is less than hold_after_s"),
        ("limits: {max_speed: fast}", "limits.max_speed: 'fast'"),
        ("[1, 2]", "holds no settings"),
        ("arm: {", "is not YAML"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_key_and_value(text, said, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_cell_file(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(ConfigError, match="robot-rl cells new lab"):
        load_cell_file(tmp_path / "lab.yaml")


def test_of_task_and_cell_the_stricter_limit_holds():
    cell = LimitsFile(
        position_low=(0.4, -0.5, 0.1), position_high=(0.9, 0.1, 0.3), max_speed=(0.25, 9.0), joint_margin=0.2
    )
    limits = tighten(LIMITS, cell)
    assert limits.position_low == (0.4, -0.2, 0.1)
    assert limits.position_high == (0.7, 0.1, 0.3)
    assert limits.max_speed == (0.25, 2.0)
    assert limits.joint_margin == 0.2
    assert limits.max_wrench == LIMITS.max_wrench


def test_limits_that_leave_nothing_are_refused():
    with pytest.raises(ConfigError, match="leave nothing between them"):
        tighten(LIMITS, LimitsFile(position_low=(0.8, 0.0, 0.0)))


def test_a_cell_file_with_a_twin_opens(tmp_path):
    cell = open_cell(str(write(tmp_path, "arm: {driver: twin, model: ur5e}\nfaults_in_a_row: 7")))
    assert cell.twin is not None
    assert cell.twin.arm_model.name == "ur5e"
    assert cell.faults_in_a_row == 7
    cell.close()
