"""The images and the compose file, read: no container runs here, so what can be known without one is held.

The rules are those of hadolint that matter, each tried on an example that breaks it; and whatever a Dockerfile, the
compose files or the README name (files, services, programs, launch arguments, parameters, commands) has to be there.
"""

import ast
import importlib
import os
import re
import shlex
import tomllib
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path, PurePosixPath

import pytest
import yaml

from drivers.ros2.arguments import checked
from robot_rl.errors import ConfigError

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMPOSE = sorted((ROOT / "docker").glob("compose*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Dockerfiles


def instructions(text):
    """(instruction, its words' text) of a Dockerfile, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [tuple(line.split(None, 1)) for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()]


def of(found, *names):
    return [rest for name, rest in found if name in names]


def tokens(command):
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(lexer)


def commands(run):
    """The simple commands of a RUN, each a list of words."""
    out = [[]]
    for token in tokens(run):
        if set(token) <= set("&|;()"):
            out.append([])
        else:
            out[-1].append(token)
    return [words for words in out if words]


def installs(run, program):
    return [words for words in commands(run) if Path(words[0]).name == program and "install" in words]


def base_is_pinned(found):
    for image in (rest.split()[0] for rest in of(found, "FROM")):
        tag = image.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"FROM {image}: no tag, or latest"


def apt_leaves_nothing(found):
    for run in of(found, "RUN"):
        asked = installs(run, "apt-get")
        for words in asked:
            yield from (
                f"apt-get install without {flag}" for flag in ("-y", "--no-install-recommends") if flag not in words
            )
        if asked and ["apt-get", "update"] not in commands(run):
            yield "apt-get install without apt-get update in the same layer"
        if asked and ["rm", "-rf", "/var/lib/apt/lists/*"] not in commands(run):
            yield "apt's lists are left in the layer"


def no_sudo(found):
    return [f"sudo: {run}" for run in of(found, "RUN") for words in commands(run) if words[0] == "sudo"]


def workdir_is_absolute(found):
    return [f"WORKDIR {path}" for path in of(found, "WORKDIR") if not path.startswith("/")]


def copies_rather_than_adds(found):
    return [f"ADD {rest}" for rest in of(found, "ADD")]


def programs_are_json(found):
    for rest in of(found, "CMD", "ENTRYPOINT"):
        if not (rest.startswith("[") and all(isinstance(word, str) for word in yaml.safe_load(rest))):
            yield f"no JSON: {rest}"


def user_is_not_root(found):
    users = of(found, "USER")
    if not users or users[-1].partition(":")[0] in ("root", "0"):
        yield "ends as root"


def pip_keeps_no_cache(found):
    for run in of(found, "RUN"):
        for words in installs(run, "pip"):
            if "--no-cache-dir" not in words:
                yield f"pip keeps its cache: {' '.join(words)}"


def pipes_fail(found):
    guarded = False
    for name, rest in found:
        guarded |= name == "SHELL" and "pipefail" in rest
        if name == "RUN" and "|" in tokens(rest) and not (guarded or ["set", "-o", "pipefail"] in commands(rest)):
            yield f"a pipe without pipefail: {rest}"


def missing_copies(found, root=ROOT):
    for rest in of(found, "COPY"):
        *sources, _ = [word for word in rest.split() if not word.startswith("--")]
        for source in [] if "--from=" in rest else sources:
            if not (root / source).exists() or not (source == "." or admitted(source)):
                yield f"COPY {source}: not there, or kept out by .dockerignore"


def admitted(path, ignore=None):
    """Whether .dockerignore lets a path into the build: the last line that matches it, or a folder above it, says."""
    into = True
    whole = PurePosixPath(path)
    names = [str(whole), *(str(parent) for parent in whole.parents)]
    for line in (ignore or (ROOT / ".dockerignore").read_text()).splitlines():
        pattern = line.removeprefix("!").strip()
        if pattern and not line.startswith("#"):
            either = (pattern, pattern.removeprefix("**/"))
            if any(fnmatchcase(name, each) for name in names for each in either):
                into = line.startswith("!")
    return into


RULES = (
    base_is_pinned, apt_leaves_nothing, no_sudo, workdir_is_absolute, copies_rather_than_adds, programs_are_json,
    user_is_not_root, pip_keeps_no_cache, pipes_fail, missing_copies,
)  # fmt: skip

APT = "RUN apt-get update && apt-get install -y --no-install-recommends curl && rm -rf /var/lib/apt/lists/*"


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (base_is_pinned, "FROM ubuntu", "FROM ubuntu:24.04"),
        (base_is_pinned, "FROM here:5000/ubuntu", "FROM here:5000/ubuntu:24.04"),
        (base_is_pinned, "FROM ubuntu:latest AS built", "FROM ubuntu@sha256:0123"),
        (apt_leaves_nothing, APT.replace("--no-install-recommends ", ""), APT),
        (apt_leaves_nothing, APT.replace("-y ", ""), APT.replace("&& ", "\\\n# why\n  && ")),
        (apt_leaves_nothing, APT.replace("apt-get update && ", ""), "RUN apt-get --version"),
        (apt_leaves_nothing, APT.replace("rm -rf", "ls"), APT),
        (no_sudo, "RUN true && sudo make", "RUN echo sudo"),
        (workdir_is_absolute, "WORKDIR work", "WORKDIR /work"),
        (copies_rather_than_adds, "ADD README.md /", "COPY README.md /"),
        (programs_are_json, "CMD robot-rl --help", 'CMD ["robot-rl", "--help"]'),
        (programs_are_json, "ENTRYPOINT [[1]]", 'ENTRYPOINT ["sh"]'),
        (user_is_not_root, "FROM ubuntu:24.04", "USER robot"),
        (user_is_not_root, "USER robot\nUSER 0:0", "USER root\nUSER 1001"),
        (pip_keeps_no_cache, "RUN /opt/v/bin/pip install torch", "RUN /opt/v/bin/pip install --no-cache-dir torch"),
        (pipes_fail, "RUN ls | wc", "RUN set -o pipefail && ls | wc"),
        (pipes_fail, "RUN true || true; ls|wc", 'SHELL ["bash", "-o", "pipefail", "-c"]\nRUN ls | wc'),
        (pipes_fail, "RUN ls \\\n  | wc", "RUN ls || sed 's|a|b|'"),
        (missing_copies, "COPY README.md nowhere.txt /", "COPY --chown=robot README.md LICENSE /"),
        (missing_copies, "COPY tests /src", "COPY --from=built /what/ever /"),
    ],
)
def test_a_rule_sees_what_it_should(rule, bad, good):
    assert list(rule(instructions(bad)))
    assert not list(rule(instructions(good)))


def test_every_rule_has_been_seen_to_fail():
    tried = test_a_rule_sees_what_it_should.pytestmark[0].args[1]
    assert {rule for rule, _, _ in tried} == set(RULES)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_dockerfile(path, rule):
    assert list(rule(instructions(path.read_text()))) == []


def test_the_build_gets_what_the_package_is_made_of_and_nothing_else():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["shared-data"], PROJECT["project"]["readme"], "pyproject.toml", "LICENSE"]
    assert [path for path in needed if not admitted(path)] == []
    others = (
        ".git/HEAD",
        ".venv/bin/pip",
        "runs/reach",
        "cells/lab.yaml",
        "docker/compose.yaml",
        "drivers/__pycache__/a",
    )
    assert [path for path in others if admitted(path)] == []


def test_the_entry_point_may_be_executed():
    assert os.access(ROOT / "docker" / "ros_env.sh", os.X_OK)


# What compose files and README name


def launch_arguments(source):
    """The names of a launch file's arguments: declared one by one, or the keys of its ARGUMENTS."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DeclareLaunchArgument":
            yield from (word.value for word in node.args[:1] if isinstance(word, ast.Constant))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS":
            yield from ast.literal_eval(node.value)


def parameters(program):
    """Those of a node, by the import in its program."""
    module = re.search(r"^from (\S+) import main$", (ROOT / "scripts" / "ros2" / program).read_text(), re.MULTILINE)[1]
    return importlib.import_module(module).PARAMETERS


def unknown(words):
    """What a command line names and this tree does not have."""
    words = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in words]
    for before, word, *rest in (words[i:] for i in range(len(words) - 1)):
        if before == "robot-rl" and word not in PROJECT["project"]["entry-points"]["robot_rl.commands"]:
            yield f"robot-rl {word}"
        if (before, word) == ("ros2", "launch") and rest[0] == "robot_rl":
            path = ROOT / "launch" / rest[1]
            known = set(launch_arguments(path.read_text())) if path.is_file() else set()
            given = {each.partition(":=")[0] for each in rest[2:] if ":=" in each}
            yield from [] if path.is_file() else [f"launch file {rest[1]}"]
            yield from (f"{rest[1]} {name}:=" for name in given - known)
    for program in programs(words):
        if not (ROOT / "scripts" / "ros2" / program).is_file():
            yield f"program {program}"
            continue
        given = dict(after.split(":=", 1) for flag, after in pairwise(words) if flag == "-p")
        try:
            checked(parameters(program), {name: yaml.safe_load(value) for name, value in given.items()})
        except ConfigError as error:
            yield str(error)


def programs(words):
    """The node programs of a command line: by `ros2 run`, or by path where there is no ROS."""
    text = " ".join(words)
    return re.findall(r"\bros2 run robot_rl (\S+)", text) + re.findall(r"/lib/robot_rl/(\S+)", text)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ros2 launch robot_rl sim.launch.py task:=${TASK:-reach}", 0),
        ("ros2 launch robot_rl simulation.launch.py", 1),
        ("ros2 launch robot_rl sim.launch.py tsk:=reach", 1),
        ("ros_env ros2 launch robot_rl teleop.launch.py device:=page", 0),
        ("ros2 launch other_package x.launch.py", 0),
        ("ros2 run robot_rl sim_node --ros-args -p task:=reach", 0),
        ("ros2 run robot_rl simulator", 1),
        ("/opt/robot_rl/lib/robot_rl/training_node --ros-args -p steps:=${STEPS:-0} -p settings:=[device=cuda]", 0),
        ("/opt/robot_rl/lib/robot_rl/training_node --ros-args -p step:=0", 1),
        ("/opt/robot_rl/lib/robot_rl/training_node --ros-args -p steps:=many", 1),
        ("/opt/robot_rl/lib/robot_rl/train_node", 1),
        ("robot-rl eval runs/reach/ros", 0),
        ("robot-rl evaluate runs/reach/ros", 1),
    ],
)
def test_the_walk_sees_an_unknown_name(line, found):
    assert len(list(unknown(line.split()))) == found


def services():
    merged = {}
    for path in COMPOSE:
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            merged.setdefault(name, []).append((path, service))
    return merged


def test_compose_builds_what_is_there():
    for name, parts in services().items():
        path, service = parts[-1]  # compose.yaml; what is laid over it sorts before
        assert path.name == "compose.yaml", f"{name} is in {path.name} alone"
        context = (path.parent / service["build"]["context"]).resolve()
        assert context == ROOT
        assert context / service["build"]["dockerfile"] in DOCKERFILES


def test_compose_runs_what_is_there():
    given = [(path, name, service.get("command")) for name, parts in services().items() for path, service in parts]
    assert {name for _, name, command in given if command} == {"robot", "learner"}
    assert [(path.name, name, u) for path, name, command in given for u in unknown(command or [])] == []


def test_both_containers_speak_on_the_same_domain_and_share_a_loopback():
    (_, robot), (_, learner) = (services()[name][-1] for name in ("robot", "learner"))
    assert robot["environment"] == learner["environment"]
    assert robot["environment"].keys() >= {"ROS_DOMAIN_ID", "RMW_IMPLEMENTATION"}
    assert learner["network_mode"] == "service:robot"


def test_volumes_lie_where_the_image_made_a_folder_for_its_user():
    """Docker gives a fresh named volume the owner of the folder it covers; without one it is root's."""
    for parts in services().values():
        _, service = parts[-1]
        found = instructions((ROOT / service["build"]["dockerfile"]).read_text())
        assert ["mkdir", "runs"] in [words for run in of(found, "RUN") for words in commands(run)]
        for volume in service.get("volumes", []):
            assert volume == f"runs:{of(found, 'WORKDIR')[-1]}/runs"


def test_readme_names_what_is_there():
    section = re.search(r"^## Docker\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    lines = [
        shlex.split(line, comments=True) for line in re.search(r"```\n(.*?)```", section, re.DOTALL)[1].splitlines()
    ]
    assert any("compose" in words for words in lines)
    for words in lines:
        assert list(unknown(words)) == []
        for before, word in pairwise(words):
            assert before != "-f" or (ROOT / word).is_file(), word
            assert before not in ("exec", "cp") or word.partition(":")[0] in services(), word
