"""The training loop: it learns, it repeats itself, it can be stopped anywhere and killed anywhere."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from robot_rl.agents.config import AgentConfig
from robot_rl.config import TrainConfig, load_config, preset
from robot_rl.errors import ConfigError, StoreError
from robot_rl.evaluation import evaluate, load_policy
from robot_rl.metrics import read_metrics
from robot_rl.preparation import resolve
from robot_rl.progress import TrainingProgress
from robot_rl.run_directory import RunDirectory, load_tensors
from robot_rl.store import EpisodeStore
from robot_rl.training import Trainer
from tests.robot_rl import toy

WALL_CLOCK = {"wall_time", "env_steps_per_s", "updates_per_s"}
SMALL = AgentConfig(hidden_sizes=(32, 32), critics=2, policy_delay=2)


@pytest.fixture(autouse=True)
def _registered():
    toy.register()


def config(**changes):
    base = TrainConfig(
        task="toy/Point-v0", demos="none", steps=60, agent=SMALL, batch_size=32, utd_ratio=1.0, learning_starts=10,
        random_steps=10, eval_episodes=0, checkpoint_every_s=1e9,
    )  # fmt: skip
    return replace(base, **changes)


RICH = {"demos": "3", "keep_successes": 1.0, "normalise": True, "bc_updates": 5, "n_step": 3, "utd_ratio": 1.5,
        "learning_starts": 0, "actor_starts": 7, "random_steps": 6}  # fmt: skip


class Quiet(TrainingProgress):
    """Shows nothing; calls `hook(trainer)` after every step of the training phase."""

    def __init__(self, hook=None):
        super().__init__("test", plain_interval_s=1e9)
        self.hook, self.messages, self.phases = hook, [], []

    def phase(self, text, total=None):
        self.phases.append(text)

    def log(self, message):
        self.messages.append(message)

    def update(self, *, step, **scalars):
        if self.hook is not None and (self.phases[-1:] == ["training"]) == ("update" in scalars):
            self.hook(step, self.phases[-1])


def train(settings, path, stop_at=None, during="training", hook=None):
    """Make or resume a run; request a stop at a step of a phase. Returns why it ended, the trainer and its progress."""
    run = RunDirectory(path) if (path / "config.yaml").exists() else RunDirectory.create(resolve(settings), path)
    _, settings = RunDirectory.open(path) if not (path / "config.yaml").exists() else (run, resolve(settings))
    progress = Quiet()
    trainer = Trainer(settings, run, progress)

    def stop(step, phase):
        if hook is not None:
            hook(trainer)
        if step == stop_at and phase.startswith(during):
            trainer.stop_requested = True

    progress.hook = stop
    return trainer.train(), trainer, progress


def skill(trainer):
    """The one skill of these runs."""
    return trainer.learner.skill("")


def result(path):
    """What two runs must agree on: the policy, the whole learner, the metrics and the steps."""
    run = RunDirectory(path)
    rows = [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in read_metrics(run.metrics)]
    tensors, facts = run.checkpoints.load()
    store = EpisodeStore.open(run.episodes)
    steps = {k: v.tobytes() for k, v in store.read().items() if k != "time"}
    published, published_facts = load_tensors(run.policy)
    policy = ({k: t.numpy().tobytes() for k, t in published.items()}, published_facts)
    return (policy, {k: t.numpy().tobytes() for k, t in tensors.items()}, facts, rows, steps)


def assert_same(one, two):
    for a, b in zip(one[3], two[3], strict=True):
        assert a == b
    assert one[2] == two[2]
    assert one == two


def test_it_learns_to_near_the_optimum(tmp_path):
    """From 0.4 to 1.0 away by steps of 0.25, the best policy takes 1 to 4 steps and always arrives."""
    settings = config(steps=700, utd_ratio=2.0, learning_starts=50, random_steps=50, gamma=0.9, batch_size=64,
                      agent=replace(SMALL, learning_rate=1e-3, target_entropy_per_action=-0.5))  # fmt: skip
    reason, trainer, _ = train(settings, tmp_path / "run")
    assert reason == "steps"
    env = gym.make("toy/Point-v0")
    outcome = evaluate(env, load_policy(trainer.run, settings, env), 30)
    assert sum(outcome.successes) == 30
    assert np.mean(outcome.lengths) < 3.6


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path):
    for name in ("a", "b"):
        train(config(**RICH), tmp_path / name)
    train(config(**RICH, seed=1), tmp_path / "c")
    assert_same(result(tmp_path / "a"), result(tmp_path / "b"))
    assert result(tmp_path / "a")[0] != result(tmp_path / "c")[0]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    toy.register()
    path = tmp_path_factory.mktemp("whole") / "run"
    train(config(**RICH), path)
    return result(path)


@pytest.mark.parametrize("stops", [(1,), (2,), (7,), (23,), (24, 25, 26), (59,)])
def test_stopped_at_any_step_it_goes_on_with_the_same_numbers(tmp_path, stops, uninterrupted):
    for stop in stops:
        reason, trainer, _ = train(config(**RICH), tmp_path / "run", stop_at=stop)
        assert (reason, trainer.step) == ("stopped", stop)
    assert train(config(**RICH), tmp_path / "run")[0] == "steps"
    assert_same(result(tmp_path / "run"), uninterrupted)


@pytest.mark.parametrize(("during", "at"), [("recording", 1), ("recording", 3), ("behaviour", 1), ("behaviour", 5)])
def test_stopped_before_the_first_step_it_goes_on_with_the_same_numbers(tmp_path, during, at, uninterrupted):
    reason, trainer, _ = train(config(**RICH), tmp_path / "run", stop_at=at, during=during)
    assert (reason, trainer.step) == ("stopped", 0)
    assert train(config(**RICH), tmp_path / "run")[0] == "steps"
    assert_same(result(tmp_path / "run"), uninterrupted)


def test_a_sparse_actor_schedule_keeps_its_metrics_over_a_stop(tmp_path):
    """The latest actor loss was learnt before the stop; the next episode's row still has it."""
    settings = config(utd_ratio=0.5, agent=replace(SMALL, policy_delay=8))
    train(settings, tmp_path / "whole")
    for stop in (31, 33, 44):
        train(settings, tmp_path / "run", stop_at=stop)
    train(settings, tmp_path / "run")
    assert_same(result(tmp_path / "run"), result(tmp_path / "whole"))


def test_a_small_replay_that_overflows_is_the_same_after_a_stop(tmp_path):
    settings = config(**{**RICH, "steps": 260, "utd_ratio": 0.5}, replay_capacity=100)
    train(settings, tmp_path / "whole")
    for stop in (150, 207):
        train(settings, tmp_path / "run", stop_at=stop)
    train(settings, tmp_path / "run")
    assert_same(result(tmp_path / "run"), result(tmp_path / "whole"))


def test_a_noisy_environment_is_repeated_from_its_seed(tmp_path):
    settings = config(env={"noise": 0.05})
    train(settings, tmp_path / "whole")
    train(settings, tmp_path / "run", stop_at=33)
    train(settings, tmp_path / "run")
    assert_same(result(tmp_path / "run"), result(tmp_path / "whole"))


def test_the_reach_twin_goes_on_with_the_same_numbers(tmp_path):
    settings = config(task="reach", env={"max_steps": 20}, **{**RICH, "demos": "2"})
    train(settings, tmp_path / "whole")
    train(settings, tmp_path / "run", stop_at=9)
    train(settings, tmp_path / "run", stop_at=46)
    train(settings, tmp_path / "run")
    assert_same(result(tmp_path / "run"), result(tmp_path / "whole"))


def test_success_that_comes_and_goes_counts_by_the_episodes_end(tmp_path):
    """Fetch's episodes go on after success. What the loop kept as a success, a resumed run keeps, and nothing else."""

    class Passing(toy.Point):
        def reset(self, **options):
            self.count = 0
            return super().reset(**options)

        def step(self, action):
            observation, reward, _, truncated, _ = super().step(action)
            self.count += 1
            return observation, reward, False, truncated, {"success": self.count == 3}

    gym.register("toy/Passing-v0", entry_point=Passing, max_episode_steps=6, disable_env_checker=True)
    try:
        settings = config(**{**RICH, "demos": "none", "bc_updates": 0}, task="toy/Passing-v0")
        train(settings, tmp_path / "whole")
        train(settings, tmp_path / "run", stop_at=45)
        train(settings, tmp_path / "run")
        assert_same(result(tmp_path / "run"), result(tmp_path / "whole"))
    finally:
        del gym.registry["toy/Passing-v0"]


def test_an_environment_that_does_not_repeat_itself_loses_no_step(tmp_path):
    """Real hardware. The interrupted episode ends where it was, and every step of it is learnt from."""
    settings = config(env={"drift": 0.01})
    train(settings, tmp_path / "run", stop_at=35)
    before = EpisodeStore.open(tmp_path / "run" / "episodes")
    rows, steps = before.rows, sum(r.length for r in before.episode_table())
    assert steps == 35
    _, trainer, progress = train(settings, tmp_path / "run")
    assert any("does not repeat" in message for message in progress.messages)
    after = EpisodeStore.open(tmp_path / "run" / "episodes")
    assert sum(r.length for r in after.episode_table()) == 60 == trainer.step
    assert after.read(0, rows)["action"].tobytes() == before.read(0, rows)["action"].tobytes()
    assert len(skill(trainer).online) >= 59  # every whole transition; the newest step of an open episode is none yet
    assert skill(trainer).agent.updates == 50


def test_fault_1_time_outs_are_no_terminations(tmp_path):
    settings = config(steps=40, random_steps=40)
    _, trainer, _ = train(settings, tmp_path / "run")
    columns = EpisodeStore.open(tmp_path / "run" / "episodes").read()
    assert columns["truncated"].any()
    assert (columns["terminated"] == columns["success"]).all(), "only reaching the origin ends the task"
    batch = skill(trainer).online.sample(400, np.random.default_rng(0), gamma=0.9)
    np.testing.assert_allclose(np.unique(batch.discount.numpy()), [0.0, 0.9], atol=1e-6)
    assert (batch.reward.numpy()[batch.discount.numpy() == 0.0] == 1.0).all(), "only a success ends the value"


def test_fault_3_no_transition_crosses_an_episodes_edge(tmp_path):
    """A step moves the point by 0.25 at most; a reset moves it by more, almost always."""
    _, trainer, _ = train(config(steps=60), tmp_path / "run")
    for n_step in (1, 3):
        batch = skill(trainer).online.sample(500, np.random.default_rng(0), n_step=n_step)
        moved = np.abs(batch.next_observation.numpy() - batch.observation.numpy())
        assert moved.max() <= toy.STEP * n_step + 1e-6


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.5])
def test_the_utd_ratio_is_exact_at_every_step(tmp_path, ratio):
    seen = []
    settings = config(utd_ratio=ratio)
    train(settings, tmp_path / "run", hook=lambda t: seen.append((t.step, t.learner.updates)))
    assert seen[-1] == (60, int(50 * ratio))
    assert all(updates == int(max(0, step - 10) * ratio) for step, updates in seen)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["utd_ratio"] == pytest.approx(ratio, abs=0.1)


def test_learning_from_the_very_first_step_without_demonstrations(tmp_path):
    """One step is no whole transition yet: its updates follow with the next, and none is lost."""
    seen = []
    settings = config(learning_starts=0, random_steps=0, utd_ratio=2.0, steps=12)
    train(settings, tmp_path / "run", hook=lambda t: seen.append((t.step, t.learner.updates)))
    assert seen[:2] == [(1, 0), (2, 4)]
    assert seen[-1] == (12, 24)


def test_training_ends_early_when_it_succeeds(tmp_path):
    settings = config(stop_at_success=0.5, steps=5000, demos="5", bc_updates=200, random_steps=0, utd_ratio=0.1)
    reason, trainer, _ = train(settings, tmp_path / "run")
    assert reason == "success"
    assert trainer.state.episode >= 100


def test_the_best_policy_is_published_where_the_last_is_worse(tmp_path):
    run = RunDirectory.create(config(), tmp_path / "run")
    Trainer(config(), run, Quiet()).train()
    before, facts = load_tensors(run.policy)
    checkpoints = run.checkpoints
    assert checkpoints.best is None, "sixty steps are too few episodes to be judged by"
    checkpoints.load()
    checkpoints.mark_best(1.0)
    longer, progress = config(steps=120), Quiet()
    Trainer(longer, run, progress).train()
    after, published = load_tensors(run.policy)
    assert published["step"] == facts["step"] == 60
    assert "of step 60 is published" in progress.messages[-1]
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert run.checkpoints.load()[1]["step"] == 120, "and training goes on from the last"


@pytest.mark.parametrize("keep_successes", [0.0, 10.0])
def test_what_a_person_did_is_stored_as_done_and_feeds_both_halves(keep_successes, tmp_path):
    """And nothing else of the episodes they stepped into is imitated, even where those succeeded."""
    settings = config(task="toy/Taught-v0", keep_successes=keep_successes)
    run = RunDirectory.create(settings, tmp_path / "run")
    trainer = Trainer(settings, run, Quiet())
    trainer.train()
    store = EpisodeStore.open(run.episodes)
    taught = 0
    for record in store.episode_table():
        rows = store.read(record.start, record.start + record.length, ["source", "action"])
        assert rows["source"].tolist() == [0, 0, 1, 1, *[0] * 8][: record.length]
        assert (rows["action"][rows["source"] == 1] == 0.75).all()
        taught += int(rows["source"].sum()) if record.closed else 0
    demos = next(iter(trainer.learner.skills.values())).demos
    alone = sum(r.length for r in store.episode_table() if r.closed and r.success and r.length < 3) * (
        keep_successes > 0
    )
    assert len(demos) == taught + alone > 4, (
        "each step of the person's once, and no transition from one run of them to the next"
    )
    if alone:
        return
    batch = demos.sample(64, np.random.default_rng(0))
    assert (batch.action == 0.75).all()
    np.testing.assert_allclose(batch.next_observation - batch.observation, 0.75 * toy.STEP, atol=1e-6)
    rates = [row["intervention_rate"] for row in read_metrics(run.metrics)]
    lengths = [row["episode_length"] for row in read_metrics(run.metrics)]
    assert rates == pytest.approx([min(max(n - 2, 0), 2) / n for n in lengths])


def test_a_success_slower_than_every_demonstration_is_not_imitated(tmp_path):
    settings = config(demos="3", keep_successes=1.0, steps=300, random_steps=0, bc_updates=300, learning_starts=300)
    _, trainer, _ = train(settings, tmp_path / "run")
    shown = [r.length for r in EpisodeStore.open(tmp_path / "run" / "demonstrations").episode_table()]
    done = [r.length for r in trainer.store.episode_table() if r.closed and r.success]
    quick = [length for length in done if length <= max(shown)]
    assert 0 < len(quick) < len(done), "of a cloned policy's noisy ways some are short, some long"
    assert len(skill(trainer).demos) == sum(shown) + sum(quick)


def test_what_an_environments_bug_leaves_is_kept_and_gone_on_with(tmp_path):
    """Not ours to catch, but no step may be lost to it."""
    settings = config(env={"fails_at": 30})
    with pytest.raises(RuntimeError, match="a bug in the environment"):
        train(settings, tmp_path / "run")
    assert sum(r.length for r in EpisodeStore.open(tmp_path / "run" / "episodes").episode_table()) == 29
    _, trainer, progress = train(config(), tmp_path / "run")
    assert trainer.step == 60
    assert skill(trainer).agent.updates == 50
    assert any("after the last checkpoint" in message for message in progress.messages)


def test_whoever_loses_patience_loses_no_step(tmp_path):
    """A second Ctrl-C, in the middle of an episode and between two commits."""
    steps = []

    def impatient(trainer):
        steps.append(trainer.step)
        if len(steps) == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(), tmp_path / "run", hook=impatient)
    assert sum(r.length for r in EpisodeStore.open(tmp_path / "run" / "episodes").episode_table()) == steps[-1]


def test_fault_8_every_checkpoint_is_whole_while_it_is_replaced(tmp_path):
    """At every step of a run that checkpoints at every step, what lies on the disk can be gone on from."""
    lengths = set()

    def look(trainer):
        tensors, facts = trainer.run.checkpoints.load()
        assert facts["step"] <= trainer.step <= facts["step"] + 1
        lengths.add(len(tensors))
        assert any(name.startswith("adam.") for name in tensors), "optimisers belong to a checkpoint"

    train(config(steps=25, checkpoint_every_s=0.0), tmp_path / "run", hook=look)
    assert len(lengths) == 1


def test_a_failing_disk_is_one_message_with_the_way_on(tmp_path, monkeypatch):
    settings = config()
    fails = {"left": 3}
    real = EpisodeStore.commit

    def commit(self):
        fails["left"] -= 1
        if fails["left"] < 0:
            raise StoreError(f"Cannot commit to {self.path}: the disk is full. Committed rows are intact and so on.")
        real(self)

    monkeypatch.setattr(EpisodeStore, "commit", commit)
    with pytest.raises(StoreError, match=r"step \d+.*the disk is full\..* What was committed.*--resume"):
        train(settings, tmp_path / "run")
    monkeypatch.undo()
    assert train(settings, tmp_path / "run")[0] == "steps"


def test_a_run_cut_short_while_it_was_made_begins_anew(tmp_path, uninterrupted):
    path = tmp_path / "run"
    run = RunDirectory.create(resolve(config(**RICH)), path)
    (run.path / "demonstrations.partial").mkdir()
    run.episodes.mkdir()
    (run.episodes / "zarr.json").write_text("{")
    assert train(config(**RICH), path)[0] == "steps"
    assert_same(result(path), uninterrupted)


def test_episodes_without_a_checkpoint_are_left_alone(tmp_path):
    train(config(steps=5), tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    shutil.rmtree(run.path / "checkpoints")
    before = sorted(p.name for p in run.episodes.rglob("*"))
    with pytest.raises(ConfigError, match="holds episodes but no checkpoint"):
        train(config(steps=5), tmp_path / "run")
    assert sorted(p.name for p in run.episodes.rglob("*")) == before


def test_a_second_process_is_refused(tmp_path):
    train(config(steps=5), tmp_path / "run")
    with EpisodeStore.open(tmp_path / "run" / "episodes", write=True), pytest.raises(StoreError, match="one writer"):
        train(config(), tmp_path / "run")
    assert train(config(), tmp_path / "run")[0] == "steps"


def test_faults_reach_the_events(tmp_path, monkeypatch):
    """Fault 10 of SERL hid them from policy and log."""
    real = toy.Point.step

    def step(self, action):
        out = real(self, action)
        if self.total == 15:
            return out[0], 0.0, False, True, {"success": False, "fault": "reflex: joint 4"}
        return out

    monkeypatch.setattr(toy.Point, "step", step)
    train(config(steps=30), tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [(e["event"], e["step"], e["message"]) for e in events] == [("fault", 15, "reflex: joint 4")]


@pytest.mark.parametrize("task", ["gymnasium:FetchReach-v4", "Pendulum-v1"])
@pytest.mark.parametrize("name", ["fast", "serl"])
def test_any_gymnasium_environment_trains(tmp_path, task, name):
    settings = preset(name, task)
    settings = replace(settings, steps=24, learning_starts=8, random_steps=8, utd_ratio=1.0, batch_size=16,
                       agent=replace(settings.agent, hidden_sizes=(32, 32), critics=2))  # fmt: skip
    reason, trainer, _ = train(settings, tmp_path / "run")
    assert (reason, skill(trainer).agent.updates) == ("steps", 16)
    actions = EpisodeStore.open(tmp_path / "run" / "episodes").read()["action"]
    assert (np.abs(actions) <= 1.0).all()
    assert trainer.env.action_space.low.min() == -1.0


def test_the_fast_preset_learns_without_demonstrations_from_step_one(tmp_path):
    settings = replace(preset("fast", "Pendulum-v1"), steps=4, batch_size=16)
    _, trainer, _ = train(replace(settings, agent=replace(settings.agent, hidden_sizes=(32, 32))), tmp_path / "run")
    assert skill(trainer).agent.updates == 16


def test_resume_uses_the_runs_own_settings(tmp_path):
    settings = config(seed=4, gamma=0.5)
    train(settings, tmp_path / "run", stop_at=5)
    assert load_config(Path(tmp_path / "run" / "config.yaml"), preset("serl", "x")) == resolve(settings)
