"""The plan of the house, held by walking every import (ast)."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("robot_rl", "drivers", "tasks", "calibration")

ALL = frozenset({"*"})
# room -> {room it may import: which of its modules}. Its own room always; what is not listed, never.
ALLOWED = {
    "robot_rl": {},
    "drivers": {"robot_rl": {"geometry", "errors"}},
    "tasks": {
        "drivers": ALL,
        "robot_rl": {
            "geometry",
            "errors",
            "operators",
            "store",
            "demonstrations",
            "environments",
            "assignments",
            "rerun_log",
            "rewards",
        },
    },
    "calibration": {"drivers": ALL, "robot_rl": {"geometry", "errors"}},
}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
VAGUE_NAMES = {"util", "utils", "common", "helper", "helpers", "misc", "manager", "managers"}
MAX_LINES = 500


def source_files():
    folders = [*ROOMS, "launch", "tests", "scripts"]
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(source, package):
    """Every dotted name a module imports, one for each name of a `from` import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"}:
                yield str(node.args[0].value)


def uphill_imports(path, source):
    room = path.parts[0]
    for name in imports(source, ".".join(path.parent.parts)):
        target, _, rest = name.partition(".")
        if target not in ROOMS or target == room:
            continue
        modules = ALLOWED[room].get(target, set())
        if modules is not ALL and rest.partition(".")[0] not in modules:
            yield f"{path} imports {name}"


def pickle_imports(path, source):
    package = ".".join(path.parent.parts)
    return [f"{path} imports {name}" for name in imports(source, package) if name.partition(".")[0] in PICKLES]


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("robot_rl/a.py", "import drivers", 1),
        ("robot_rl/sub/a.py", "def f():\n    from tasks.reach import scene", 1),
        ("robot_rl/a.py", "import importlib\nimportlib.import_module('drivers.cell')", 1),
        ("robot_rl/a.py", "from robot_rl.errors import ConfigError\nimport torch", 0),
        ("drivers/a.py", "from robot_rl.errors import ConfigError", 0),
        ("drivers/a.py", "from robot_rl import geometry, errors", 0),
        ("drivers/a.py", "from robot_rl import geometry, replay", 1),
        ("drivers/a.py", "import robot_rl", 1),
        ("drivers/a.py", "from robot_rl.store import EpisodeStore", 1),
        ("drivers/twin/a.py", "from .. import cell\nfrom ..cell import Cell", 0),
        ("tasks/a.py", "from drivers.cell import Cell\nfrom robot_rl.store import EpisodeStore", 0),
        ("tasks/a.py", "from robot_rl.agents import sac", 1),
        ("calibration/a.py", "from robot_rl.store import EpisodeStore", 1),
        ("calibration/a.py", "import tasks.reach", 1),
        ("drivers/a.py", "import tasks", 1),
    ],
)
def test_the_walk_sees_what_it_should(path, source, found):
    assert len(list(uphill_imports(Path(path), source))) == found


def test_the_walk_sees_a_pickle():
    assert pickle_imports(Path("robot_rl/a.py"), "from pickle import load")
    assert not pickle_imports(Path("robot_rl/a.py"), "import json")


def test_imports_run_downhill_only():
    files = [path.relative_to(ROOT) for path in source_files() if path.relative_to(ROOT).parts[0] in ROOMS]
    assert files
    assert [line for path in files for line in uphill_imports(path, (ROOT / path).read_text())] == []


def test_no_pickle():
    files = [path.relative_to(ROOT) for path in source_files()]
    assert [line for path in files for line in pickle_imports(path, (ROOT / path).read_text())] == []


def test_names_say_what_a_file_is():
    vague = [path for path in source_files() if set(re.split(r"[_\W]+", path.stem.lower())) & VAGUE_NAMES]
    assert [str(path.relative_to(ROOT)) for path in vague] == []


def test_launch_is_not_a_package():
    assert not (ROOT / "launch" / "__init__.py").exists(), "it would hide ROS 2's own package `launch`"


def test_no_file_is_too_long():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in source_files()}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def declares_all(path):
    return any(
        isinstance(target, ast.Name) and target.id == "__all__"
        for node in ast.parse(path.read_text()).body
        for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
    )


def modules_with_all():
    for path in source_files():
        relative = path.relative_to(ROOT).with_suffix("")
        if relative.parts[0] in ROOMS and declares_all(path):
            yield ".".join(relative.parts[:-1] if relative.name == "__init__" else relative.parts)


@pytest.mark.parametrize("module_name", list(modules_with_all()))
def test_every_exported_name_exists_once(module_name):
    if module_name == "drivers.ros2.rclpy_node":
        pytest.importorskip("rclpy", reason="comes with ROS 2; `pytest -m ros` on a sourced machine tries that module")
    module = importlib.import_module(module_name)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(module.__all__) == len(set(module.__all__))
