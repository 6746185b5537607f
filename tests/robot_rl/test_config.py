"""Settings: files, flags, presets; what is wrong is named with its place."""

from dataclasses import asdict, replace

import pytest
import yaml

from robot_rl.assignments import assignments
from robot_rl.config import PRESETS, load_config, overlay, preset
from robot_rl.errors import ConfigError


def load(tmp_path, text, name="reach"):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return load_config(file, preset("fast", name))


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_survives_its_own_yaml(tmp_path, name):
    settings = replace(preset(name, "reach"), seed=7, env={"arm": "ur5e", "max_steps": 20}, demos="none")
    file = tmp_path / "config.yaml"
    file.write_text(settings.to_yaml() + yaml.safe_dump({"versions": {"torch": "9"}}))
    other = "serl" if name != "serl" else "fast"
    assert load_config(file, preset(other, "")) == settings


def test_a_file_names_only_what_differs(tmp_path):
    settings = load(tmp_path, "gamma: 0.9\nagent:\n  critics: 7\nenv: {arm: ur5e}\n")
    assert (settings.gamma, settings.agent.critics, settings.env) == (0.9, 7, {"arm": "ur5e"})
    assert replace(settings, gamma=preset("fast", "").gamma).steps == preset("fast", "").steps


def test_numbers_as_people_write_them(tmp_path):
    settings = load(tmp_path, "steps: 200\nagent: {learning_rate: 1e-3, hidden_sizes: [64, 64]}\ndemos: 5\n")
    assert settings.agent.learning_rate == 1e-3
    assert settings.agent.hidden_sizes == (64, 64)
    assert settings.demos == "5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gama: 0.9", ["mine.yaml", "'gama'", "gamma", "utd_ratio"]),
        ("agent: {critic: 3}", ["mine.yaml", "'agent.critic'", "critics_in_target"]),
        ("checkpoint_every_ms: 100", ["checkpoint_every_ms", "checkpoint_every_s"]),
        ("checkpoint_every_s: 60s", ["mine.yaml", "checkpoint_every_s", "'60s'", "number"]),
        ("steps: many", ["steps", "'many'", "integer"]),
        ("steps: 10.5", ["steps", "10.5"]),
        ("agent: {hidden_sizes: wide}", ["agent.hidden_sizes", "'wide'"]),
        ("agent: 5", ["agent", "5"]),
        ("env: [arm]", ["env"]),
        ("normalise: maybe", ["normalise", "'maybe'"]),
        ("5: 6", ["'5'"]),
        ("steps: 0", ["mine.yaml", "steps is 0", "at least 1"]),
        ("gamma: 1.5", ["gamma is 1.5", "at least 0", "at most 1"]),
        ("gamma: .nan", ["gamma is nan"]),
        ("seed: -1", ["seed is -1"]),
        ("history: 0", ["history is 0", "at least 1"]),
        ("demo_fraction: -0.1", ["demo_fraction"]),
        ("agent: {critics: 1}", ["mine.yaml", "agent.critics"]),
        ("agent: {tau: 0}", ["agent.tau"]),
        ("agent: {activation: swish}", ["tanh, relu"]),
        ("- a\n- b", ["key: value", "list"]),
        ("a: [", ["is not YAML"]),
        ("", ["key: value"]),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert [part for part in said if part not in message] == [], message
    assert "\n" not in message


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match="Cannot read"):
            load_config(path, preset("fast", "reach"))
    (tmp_path / "binary.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(tmp_path / "binary.yaml", preset("fast", "reach"))


def test_unknown_presets_list_the_known():
    with pytest.raises(ConfigError, match=", ".join(PRESETS)):
        preset("best", "reach")


def test_assignments_nest_and_keep_types():
    pairs = (
        "agent.critics=5",
        "env.arm=ur5e",
        "env.randomise=true",
        "gamma=0.9",
        "demos=none",
        "agent.hidden_sizes=[8, 8]",
    )
    tree = assignments(pairs)
    assert tree == {
        "agent": {"critics": 5, "hidden_sizes": [8, 8]},
        "env": {"arm": "ur5e", "randomise": True},
        "gamma": 0.9,
        "demos": "none",
    }
    assert overlay(preset("serl", "reach"), tree, "--set").agent.critics == 5
    assert assignments(["a=b=c"]) == {"a": "b=c"}


@pytest.mark.parametrize(
    "pairs", [["gamma"], ["=3"], ["agent.=3"], [".a=3"], ["seed=1", "seed.x=2"], ["a=[1"], ["a={b: "]]
)
def test_bad_assignments_say_so(pairs):
    with pytest.raises(ConfigError, match="--set"):
        assignments(pairs)


def test_nothing_given_changes_nothing():
    for name in PRESETS:
        assert asdict(overlay(preset(name, "reach"), {}, "--set")) == asdict(preset(name, "reach"))
