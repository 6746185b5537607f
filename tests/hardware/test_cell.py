"""On metal, with a person at the emergency stop: ROBOT_RL_CELL=cells/lab.yaml pytest -m hardware tests/hardware"""

import os

import pytest

from drivers.cell import SceneRequest, open_cell
from drivers.cell_file import load_cell_file
from drivers.check import check_cell

pytestmark = pytest.mark.hardware


@pytest.fixture
def cell():
    path = os.environ["ROBOT_RL_CELL"]
    opened = open_cell(path, SceneRequest(cameras=tuple(load_cell_file(path).cameras)))
    yield opened
    opened.close()


def test_every_device_answers_and_a_wiggle_arrives(cell):
    report = check_cell(cell, wiggle=True, tell=print)
    assert not report.problems
    assert sum("arrived" in finding for _, finding, _ in report.lines) == 2
