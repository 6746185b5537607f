"""The command line of a ROS node: the grammar of design.ros2.org, by examples from there and from launch_ros."""

import pytest

from drivers.ros2.arguments import Arguments, Parameter, Remapping, checked, domain_of, in_namespace
from drivers.ros2.opening import open_node
from robot_rl.errors import ConfigError


def parsed(*words):
    return Arguments.parse(["--ros-args", *words], "arm_node")


def test_without_arguments_a_node_is_itself_in_the_root():
    arguments = Arguments.parse([], "arm_node")
    assert (arguments.name, arguments.remapping, arguments.parameters) == ("arm_node", Remapping("/", ()), {})
    assert arguments.raw == ()


def test_what_launch_ros_writes_is_understood(tmp_path):
    """Its command line for Node(name="arm", namespace="left", parameters=[...], remappings=[...]) and a log level."""
    file = tmp_path / "launch_params_x"
    file.write_text("/**:\n  ros__parameters:\n    rate_hz: 100.0\n    cell: cells/lab.yaml\n")
    words = ["--ros-args", "--log-level", "info", "--ros-args", "-r", "__node:=arm", "-r", "__ns:=/left",
             "--params-file", str(file), "-r", "joy:=/joy2"]  # fmt: skip
    arguments = Arguments.parse(words, "arm_node")
    assert arguments.name == "arm"
    assert arguments.remapping == Remapping("/left", (("joy", "/joy2"),))
    assert arguments.parameters == {"rate_hz": 100.0, "cell": "cells/lab.yaml"}
    assert arguments.raw == tuple(words)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100", 100),
        ("0.5", 0.5),
        ("true", True),
        ("'100'", "100"),
        ("cells/lab.yaml", "cells/lab.yaml"),
        ("a:=b", "a:=b"),
        ("[front, wrist]", ["front", "wrist"]),
        ("", None),
    ],
)
def test_a_parameter_is_yaml(text, value):
    assert parsed("-p", f"x:={text}").parameters == {"x": value}
    assert parsed("--param", f"x:={text}").parameters == {"x": value}


def test_other_flags_are_left_alone():
    words = [
        "--log-level",
        "arm:=debug",
        "--log-config-file",
        "f",
        "-e",
        "/e",
        "--enclave",
        "/e",
        "--enable-rosout-logs",
    ]
    assert parsed(*words, "--disable-stdout-logs", "-p", "x:=1").parameters == {"x": 1}


@pytest.mark.parametrize("name", ["__name", "__node", "arm_node:__node"])
def test_a_node_is_given_a_name(name):
    assert parsed("-r", f"{name}:=arm").name == "arm"


def test_a_namespace_begins_at_the_root():
    for given in ("left", "/left", "/left/"):
        assert parsed("--remap", f"__ns:={given}").remapping.namespace == "/left"
    assert in_namespace("left").remapping.resolve("joy", "n") == "/left/joy"
    assert in_namespace("/").remapping.resolve("joy", "n") == "/joy"


def test_rules_of_another_node_are_not_ours():
    """The rule of design.ros2.org: `talker:chatter:=x` holds for the node called talker alone."""
    arguments = parsed(
        "-r", "other:__ns:=/far", "-r", "other:__node:=who", "-r", "other:joy:=/a", "-p", "other:x:=1",
        "-r", "arm_node:pose:=/b", "-p", "arm_node:y:=2", "-p", "/arm_node:z:=3",
    )  # fmt: skip
    assert (arguments.name, arguments.remapping.namespace) == ("arm_node", "/")
    assert arguments.remapping.names == (("pose", "/b"),)
    assert arguments.parameters == {"y": 2, "z": 3}


def test_of_two_rules_for_the_same_the_first_holds():
    arguments = parsed("-r", "__ns:=/a", "-r", "__ns:=/b", "-r", "x:=/c", "-r", "x:=/d")
    assert arguments.remapping.resolve("x", "n") == "/c"
    assert arguments.remapping.resolve("y", "n") == "/a/y"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "x:=1"], "'-p' is not understood"),
        (["--ros-args", "--", "x"], "'x' is not understood"),
        (["--ros-args", "--frobnicate"], "'--frobnicate' is not understood"),
        (["--ros-args", "--params-file"], "'--params-file' is not understood"),
        (["--ros-args", "--log-level"], "'--log-level' is not understood"),
        (["--ros-args", "-p"], "NAME:=VALUE is expected"),
        (["--ros-args", "-r", "joy=/joy2"], "not 'joy=/joy2'"),
        (["--ros-args", "-p", "x:=[1"], r"x:=\[1 is no value"),
        (["--ros-args", "--params-file", "/no/such/file"], "/no/such/file cannot be read"),
    ],
)
def test_what_is_not_understood_is_said(words, said):
    with pytest.raises(ConfigError, match=said):
        Arguments.parse(words, "arm_node")


def test_ros_arguments_end_at_two_dashes():
    assert Arguments.parse(["--ros-args", "-p", "x:=1", "--"], "n").parameters == {"x": 1}


FILE = """
/**: {ros__parameters: {every: 1}}
/*: {ros__parameters: {one_name: 1}}
/**/arm: {ros__parameters: {arm_anywhere: 1}}
arm: {ros__parameters: {arm_in_root: 1}}
/left:
  arm: {ros__parameters: {nested: 1, task: {k_pos_x: 400.0, error_clip: {x: 0.1}}}}
/left/arm: {ros__parameters: {whole: 1}}
/left/*: {ros__parameters: {in_left: 1}}
/right/arm: {ros__parameters: {right: 1}}
other: {ros__parameters:}
"""


@pytest.mark.parametrize(
    ("namespace", "name", "expected"),
    [
        ("/", "arm", {"every", "one_name", "arm_anywhere", "arm_in_root"}),
        ("/left", "arm", {"every", "arm_anywhere", "nested", "task.k_pos_x", "task.error_clip.x", "whole", "in_left"}),
        ("/right", "arm", {"every", "arm_anywhere", "right"}),
        ("/left", "gripper", {"every", "in_left"}),
        ("/", "left", {"every", "one_name"}),
        ("/a/b", "x", {"every"}),
    ],
)
def test_a_parameter_file_speaks_of_many_nodes(tmp_path, namespace, name, expected):
    """As `*` (one name) and `**` (any number of names) are explained in ROS 2's documentation of node arguments."""
    file = tmp_path / "params.yaml"
    file.write_text(FILE)
    arguments = parsed("-r", f"__ns:={namespace}", "-r", f"__node:={name}", "--params-file", str(file))
    assert set(arguments.parameters) == expected


def test_the_command_line_and_later_files_win(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / name).write_text(f"arm_node: {{ros__parameters: {{x: {value}, y: {value}}}}}")
    files = [word for name in "ab" for word in ("--params-file", str(tmp_path / name))]
    assert parsed("-p", "y:=3", *files).parameters == {"x": 2, "y": 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a list", "'a list'"),
        ("arm_node: 5", "has 5 where"),
        ("arm_node: {rate_hz: 5}", "ros__parameters: {NAME: VALUE}"),
        ("arm_node: {ros__parameters: [5]}", r"has \[5\] for /arm_node"),
        ("{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_damaged_parameter_file_is_said(tmp_path, text, said):
    file = tmp_path / "params.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=said):
        parsed("--params-file", str(file))


def test_an_empty_parameter_file_is_none(tmp_path):
    (tmp_path / "empty.yaml").touch()
    assert parsed("--params-file", str(tmp_path / "empty.yaml")).parameters == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("joy", "/left/joy"),
        ("a/b", "/left/a/b"),
        ("/joy", "/joy"),
        ("~/start", "/left/arm/start"),
        ("~", "/left/arm"),
        ("pose", "/world/pose"),
        ("/left/pose", "/world/pose"),
        ("/tf", "/left/tf"),
        ("~/stop", "/left/halt"),
        ("twist", "/left/arm/twist"),
    ],
)
def test_a_name_means(name, meant):
    """By the table of https://design.ros2.org/articles/topic_and_service_names.html, node arm in /left."""
    rules = (("pose", "/world/pose"), ("/tf", "tf"), ("~/stop", "halt"), ("/left/twist", "~/twist"))
    assert Remapping("/left", rules).resolve(name, "arm") == meant


PARAMETERS = (
    Parameter("rate_hz", 200.0, "how often", 1.0, 1000.0),
    Parameter("steps", 0, "how many", low=0),
    Parameter("drive", False, "whether"),
    Parameter("frame", "base", "which", choices=("base", "tcp")),
    Parameter("cell", "", "where"),
    Parameter("cameras", ["front"], "who looks"),
)


def test_parameters_have_defaults():
    values = checked(PARAMETERS, {"use_sim_time": False})
    expected = {"rate_hz": 200.0, "steps": 0, "drive": False, "frame": "base", "cell": "", "cameras": ["front"]}
    assert values == expected


def test_parameters_are_what_is_given():
    given = {"rate_hz": 100, "steps": 5, "drive": True, "frame": "tcp", "cell": None, "cameras": []}
    values = checked(PARAMETERS, given)
    assert values == {**given, "cell": ""}
    assert isinstance(values["rate_hz"], float)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rate_hz", 0.5, "between 1 and 1000"),
        ("rate_hz", 1001, "between 1 and 1000"),
        ("rate_hz", float("nan"), "between 1 and 1000"),
        ("rate_hz", True, "a float: how often"),
        ("rate_hz", "fast", "a float"),
        ("steps", -1, "between 0 and inf"),
        ("steps", 1.5, "an? int"),
        ("steps", True, "an? int"),
        ("drive", 1, "a bool"),
        ("frame", "world", "one of base, tcp"),
        ("cell", 7, "a str"),
        ("cameras", "front", "a list of str"),
        ("cameras", [1, 2], "a list of str"),
        ("speed", 1, "No parameter speed; there is rate_hz, steps"),
    ],
)
def test_a_wrong_parameter_is_said(name, value, said):
    with pytest.raises(ConfigError, match=said):
        checked(PARAMETERS, {name: value})


@pytest.mark.parametrize("name", ["2nd", "left arm", "left/arm", "müller", "-"])
def test_a_node_has_a_name_that_ros_takes(name):
    with pytest.raises(ConfigError, match="letters, digits and _"):
        open_node("arm", Arguments(name=name))


@pytest.mark.parametrize("text", ["abc", "-1", "233", "1.5"])
def test_a_domain_that_is_none_is_said(text, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    with pytest.raises(ConfigError, match=f"ROS_DOMAIN_ID is '{text}'; it is a number from 0 to 232"):
        domain_of(None)


def test_a_domain_is_the_environments_or_the_given_one(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert (domain_of(None), domain_of(9)) == (7, 9)
    monkeypatch.delenv("ROS_DOMAIN_ID")
    assert domain_of(None) == 0
