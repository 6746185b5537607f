"""The tree as a ROS 2 package: what `ros2 run` and `ros2 launch` find once pip or colcon has installed it."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package

ROOT = Path(__file__).parents[1]
ROOMS = ("robot_rl", "drivers", "tasks", "calibration")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
WRAPPERS = sorted(path for path in (ROOT / "scripts" / "ros2").iterdir() if path.is_file())
MARKER = "share/ament_index/resource_index/packages/robot_rl"
UBUNTU_24_04_SETUPTOOLS = "68.1.2"  # what `colcon build` finds beside ROS 2 Jazzy
ROSDEP_KEYS = {"yaml": "python3-yaml"}  # of Python packages that are no ROS packages
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
KIND = re.compile(r"\b([a-z]\w*)/(?:msg|srv|action)/")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what is built, so that no build writes into the checkout."""
    copy = tmp_path_factory.mktemp("tree") / "robot_rl"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "runs", "demos")
    for folder in (*ROOMS, "launch", "scripts"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "package.xml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy2(ROOT / name, copy)
    # ROS compiles a launch file where it lies, and editors leave copies; none of that is to be installed.
    (copy / "launch" / "__pycache__").mkdir()
    (copy / "launch" / "__pycache__" / "sim.launch.cpython-312.pyc").write_bytes(b"")
    return copy


def command(words, **options):
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **options)
    assert ended.returncode == 0, f"{words}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def fresh_environment(path, *requirements):
    """A virtual environment with nothing but what pip is asked to put in; its prefix."""
    venv.create(path, with_pip=False, symlinks=True)
    command([sys.executable, "-m", "pip", "--python", path / "bin" / "python", "install", "-q", "--no-deps",
             "--no-compile", "--disable-pip-version-check", *requirements], env=ALONE)  # fmt: skip
    return path


def installed_as_colcon_does(tree, place):
    """By setuptools, of the age that stands beside ROS 2 Jazzy; the prefix."""
    python = fresh_environment(place / "venv", f"setuptools=={UBUNTU_24_04_SETUPTOOLS}") / "bin" / "python"
    (place / "build").mkdir()
    command(
        [python, "-W", "ignore", "setup.py", "-q", "egg_info", "--egg-base", place / "build", "build", "--build-base",
         place / "build", "install", "--prefix", place / "prefix", "--record", place / "record.txt",
         "--single-version-externally-managed", "--no-compile"],
        cwd=tree, env=ALONE,
    )  # fmt: skip
    return place / "prefix"


@pytest.fixture(scope="module")
def installations(tree, tmp_path_factory):
    """Three at a time: they wait for the package index most of it."""
    place = tmp_path_factory.mktemp("prefixes")
    with ThreadPoolExecutor(3) as pool:
        wheel = pool.submit(fresh_environment, place / "wheel", tree)
        editable = pool.submit(fresh_environment, place / "editable", "-e", tree)
        colcon = pool.submit(installed_as_colcon_does, tree, place)
        return wheel.result(), editable.result(), colcon.result()


@pytest.fixture(scope="module")
def wheel(installations):
    return installations[0]


@pytest.fixture(scope="module")
def editable(installations):
    return installations[1]


@pytest.fixture(scope="module")
def colcon(installations):
    return installations[2]


def site_packages(prefix):
    return next((prefix / "lib").glob("python3*")) / "site-packages"


def data_files(prefix):
    """What ROS looks at, by its place; whether it can be run."""
    paths = [path for folder in ("share", "lib/robot_rl") for path in (prefix / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(prefix)): os.access(path, os.X_OK) for path in paths}


def package_files(place):
    paths = [path for room in ROOMS for path in (place / room).rglob("*") if path.is_file()]
    return {str(path.relative_to(place)) for path in paths if "__pycache__" not in path.parts}


def test_package_xml_is_valid_and_says_what_pyproject_says():
    warnings = []
    package = parse_package(str(ROOT / "package.xml"), warnings=warnings)
    package.validate(warnings=warnings)
    assert warnings == []
    assert (package.name, package.get_build_type()) == ("robot_rl", "ament_python")
    assert (package.version, package.licenses) == (PROJECT["version"], [PROJECT["license"]])
    assert package.description == PROJECT["description"]


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def strings(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def speakers_of_ros():
    """Every module that names a kind of message."""
    return [
        path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))
        if any(KIND.search(f"{text}/") for text in strings(path))
    ]  # fmt: skip


def test_every_ros_package_in_use_is_an_exec_depend():
    """A machine on which `rosdep install` has run has all that the launch files and the nodes need."""
    wanted = {"ros2launch"}  # `ros2 launch`
    for path in (*LAUNCH_FILES, ROOT / "drivers" / "ros2" / "rclpy_node.py"):
        wanted |= set(imported_packages(path)) - set(sys.stdlib_module_names) - set(ROOMS)
    spoken = speakers_of_ros()
    assert {"robot.py", "training_node.py", "actions.py"} <= {path.name for path in spoken}
    for path in spoken:
        wanted |= {package for text in strings(path) for package in KIND.findall(f"{text}/")}
    assert {"launch_ros", "rclpy", "geometry_msgs", "controller_manager_msgs"} <= wanted
    depends = {dependency.name for dependency in parse_package(str(ROOT / "package.xml")).exec_depends}
    assert {ROSDEP_KEYS.get(name, name) for name in wanted} == depends


def test_pip_installs_what_ros_looks_for(wheel):
    installed = data_files(wheel)
    assert (wheel / MARKER).read_bytes() == b""
    assert installed == {
        MARKER: False,
        "share/robot_rl/package.xml": False,
        **{f"share/robot_rl/launch/{path.name}": False for path in LAUNCH_FILES},
        **{f"lib/robot_rl/{path.name}": True for path in WRAPPERS},
    }


def test_pip_installs_it_editably_too(editable, wheel, tree):
    assert data_files(editable) == data_files(wheel)
    assert package_files(site_packages(editable)) == set()
    where = command(
        [editable / "bin" / "python", "-c", "import robot_rl; print(robot_rl.__file__)"], env=ALONE,
        cwd=editable,
    )  # fmt: skip
    assert Path(where.strip()) == tree / "robot_rl" / "__init__.py"


def test_colcon_installs_what_pip_installs(colcon, wheel):
    assert data_files(colcon) == data_files(wheel)
    assert package_files(site_packages(colcon)) == package_files(site_packages(wheel))
    assert (colcon / "bin" / "robot-rl").is_file()


def test_colcon_installs_the_same_commands_and_requirements(colcon, wheel):
    program = (
        "import importlib.metadata, json, re\n"
        "d = importlib.metadata.distribution('robot-rl')\n"
        "needs = {re.sub(r'\\W+', '-', r.replace(' ', '').split(';')[0]) for r in d.requires if 'extra' not in r}\n"
        "print(json.dumps([d.metadata['Name'].replace('_', '-'), d.version, d.metadata['Requires-Python'],"
        " sorted(needs), sorted(map(str, d.entry_points))]))"
    )
    told = [
        command([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(place)!r})\n{program}"])
        for place in (site_packages(colcon), site_packages(wheel))
    ]
    assert "train_command" in told[0]
    assert "torch" in told[0]
    assert told[0] == told[1]


AS_COLCON_READS_IT = """
import setuptools
from distutils.core import run_setup
dist = run_setup("setup.py", script_args=("--dry-run",), stop_after="config")
skipped = ("cmdclass", "distclass", "ext_modules", "metadata", *dist.display_option_names)
said = {k: v for k, v in vars(dist).items() if not k.startswith("_") and not callable(v) and k not in skipped}
said["metadata"] = {k: v for k, v in vars(dist.metadata).items() if k not in ("license_files", "provides_extras")}
print(repr(said))
"""  # colcon-python-setup-py 0.2.9


@pytest.mark.parametrize("linked", [False, True])
def test_colcon_can_read_setup_py(colcon, tree, tmp_path, linked):
    """It evaluates what is printed, which must be plain literals; to install links it runs a link elsewhere."""
    if linked:
        for name in ("setup.py", "package.xml", "launch", "scripts", *ROOMS):
            (tmp_path / name).symlink_to(tree / name)
    python = colcon.parent / "venv" / "bin" / "python"
    place = tmp_path if linked else tree
    said = ast.literal_eval(command([python, "-W", "ignore", "-c", AS_COLCON_READS_IT], cwd=place, env=ALONE))
    assert said["metadata"]["name"] == "robot_rl"
    assert {room for package in said["packages"] for room in [package.partition(".")[0]]} == set(ROOMS)
    assert {"share/robot_rl", MARKER.rpartition("/")[0]} <= {target for target, _ in said["data_files"]}
    assert all((place / file).is_file() for _, files in said["data_files"] for file in files)


@pytest.mark.parametrize("name", [path.name for path in WRAPPERS])
def test_an_installed_node_says_what_it_takes(wheel, name):
    """As `ros2 run` starts it: by its own first line, with the environment's Python first in PATH."""
    environment = {
        **os.environ, "PYTHONPATH": str(site_packages(wheel)),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    said = command([wheel / "lib" / "robot_rl" / name, "--help"], env=environment, cwd=wheel)
    assert f"ros2 run robot_rl {name} --ros-args" in said
    for parameter in importlib.import_module(target(ROOT / "scripts" / "ros2" / name)).PARAMETERS:
        assert f"\n  {parameter.name} " in said


def test_an_editably_installed_node_says_what_it_takes(editable, tree):
    environment = {
        **os.environ, "PYTHONPATH": str(tree), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }  # fmt: skip
    said = command([editable / "lib" / "robot_rl" / "arm_node", "--help"], env=environment, cwd=editable)
    assert "ros2 run robot_rl arm_node --ros-args" in said


def target(wrapper):
    """The module whose `main` a wrapper runs."""
    (module,) = [
        node.module
        for node in ast.walk(ast.parse(wrapper.read_text()))
        if isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["main"]
    ]
    return module


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda path: path.name)
def test_a_wrapper_runs_the_node_of_its_name(wrapper):
    module = importlib.import_module(target(wrapper))
    assert os.access(wrapper, os.X_OK)
    assert wrapper.read_text().startswith("#!/usr/bin/env python3\n")
    assert target(wrapper).rpartition(".")[2] == wrapper.name
    assert callable(module.main)
    names = [parameter.name for parameter in module.PARAMETERS]
    assert names
    assert len(names) == len(set(names))
    assert all(parameter.description for parameter in module.PARAMETERS)
    launched = any(wrapper.name in set(strings(path)) for path in LAUNCH_FILES)
    assert launched or f"ros2 run robot_rl {wrapper.name}" in module.__doc__, "nobody would find it"


def test_every_node_program_has_a_wrapper():
    programs = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "main" and "run_node(" in ast.unparse(node)
    }
    assert programs == {target(wrapper) for wrapper in WRAPPERS}
