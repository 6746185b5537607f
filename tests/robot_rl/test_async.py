"""Actor and learner as processes of their own: in any order, killed at any moment, nothing lost or counted twice."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from robot_rl.actor import LEAD
from robot_rl.async_learning import AsyncLearner
from robot_rl.errors import LinkError, StoreError
from robot_rl.metrics import read_metrics
from robot_rl.processes import AsyncRun
from robot_rl.progress import TrainingProgress
from robot_rl.run_directory import RunDirectory, load_tensors
from robot_rl.store import EpisodeStore
from robot_rl.store.files import WriterLock
from robot_rl.store.repair import repair_store
from robot_rl.train_command import train

SETTINGS = (
    "steps=150", "demos=2", "bc_updates=20", "batch_size=32", "utd_ratio=1", "eval_episodes=0",
    "checkpoint_every_s=0.2", "agent.hidden_sizes=[32,32]",
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run that is configured and has not begun."""
    from robot_rl.assignments import assignments
    from robot_rl.config import overlay, preset
    from robot_rl.preparation import resolve

    return RunDirectory.create(
        resolve(overlay(preset("fast", "reach"), assignments(SETTINGS), "here")), tmp_path / "run"
    )


def start(role, run):
    return subprocess.Popen(
        [sys.executable, "-m", "robot_rl.cli", role, str(run.path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def steps_on_disk(run):
    try:
        return sum(record.length for record in EpisodeStore.open(run.episodes).episode_table())
    except StoreError:
        return 0


def ends_well(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def check_finished(run, steps=150):
    """Every step is stored once and learnt from once; the updates are exactly as many as the ratio says."""
    assert steps_on_disk(run) == steps
    _, facts = run.checkpoints.load()
    assert facts["step"] == steps
    assert facts["rows"] == EpisodeStore.open(run.episodes).rows
    _, published = load_tensors(run.policy)
    assert published["update"] == steps
    rows = read_metrics(run.metrics)
    logged = [row["step"] for row in rows]
    assert logged == sorted(set(logged)), "no episode is logged twice"
    versions = EpisodeStore.open(run.episodes).read(columns=["policy_version", "final"])
    taken = versions["policy_version"][~versions["final"]]
    assert (np.diff(taken) >= 0).all(), "an older policy never follows a newer one"
    assert taken.max() <= steps
    store = EpisodeStore.open(run.episodes)
    begun = np.cumsum([0, *(record.length for record in store.episode_table())])
    for record, step in zip(store.episode_table(), begun, strict=False):
        first = store.read(record.start, record.start + 1, ["policy_version"])["policy_version"][0]
        assert first >= step - LEAD, "an episode begins when the learner has caught up"
    assert all("staleness_updates" in row for row in rows)


@pytest.mark.parametrize("order", [("actor", "learner"), ("learner", "actor")])
def test_they_start_in_any_order(run, order):
    first = start(order[0], run)
    time.sleep(1.0)
    second = start(order[1], run)
    for process in (first, second):
        ends_well(process)
    check_finished(run)


def test_each_skill_has_a_start_of_its_own_to_wait_for(tmp_path):
    """Two instructions: the steps of each count towards its own `learning_starts`, and nobody waits for ever."""
    settings = [*SETTINGS, "learning_starts=80", "steps=260", "demos=2"]
    assert train("bin_relocate", run=tmp_path / "run", set=(tuple(settings),), asynchronous=True) == 0
    assert steps_on_disk(RunDirectory(tmp_path / "run")) == 260


def test_killed_at_random_moments_they_go_on(run):
    """SIGKILL, both of them, again and again; each comes back and the end is what it would have been."""
    random = np.random.default_rng(0)
    processes = {role: start(role, run) for role in ("actor", "learner")}
    for kill in range(6):
        role = ("learner", "actor")[kill % 2]
        time.sleep(random.uniform(0.5, 3.0))
        acknowledged = steps_on_disk(run)
        os.kill(processes[role].pid, signal.SIGKILL)
        processes[role].communicate()
        assert steps_on_disk(run) >= acknowledged
        processes[role] = start(role, run)
    for process in processes.values():
        ends_well(process)
    check_finished(run)


def test_a_second_learner_is_refused(run):
    one = start("learner", run)
    while not (run.path / "checkpoints" / "learner.lock").exists():
        time.sleep(0.05)
    time.sleep(0.2)
    two = start("learner", run)
    _, err = two.communicate(timeout=60)
    one.send_signal(signal.SIGTERM)
    assert "learner ended (stopped)" in ends_well(one)
    assert two.returncode == 2
    assert "StoreError" in err


def test_one_command_runs_both_and_either_way_goes_on(tmp_path, capsys):
    path = tmp_path / "run"
    assert train("reach", run=path, set=((*SETTINGS, "history=2"),), asynchronous=True) == 0
    run = RunDirectory(path)
    check_finished(run)
    tensors, published = load_tensors(run.policy)
    assert tensors["observation_mean"].shape == (2 * published["observation_dim"],)
    assert "logs" in capsys.readouterr().out
    assert train(resume=path, steps=170) == 0  # in step
    assert steps_on_disk(run) == 170
    assert train(resume=path, steps=190, asynchronous=True) == 0
    assert steps_on_disk(run) == 190
    _, facts = run.checkpoints.load()
    assert facts["step"] == 190


def test_a_process_that_dies_is_started_anew_and_one_that_complains_ends_the_run(run, monkeypatch):
    both = AsyncRun(run, TrainingProgress("test", plain_interval_s=1e9))
    real, killed = both._look_after, []

    def look_after(role):
        if role == "learner" and not killed and steps_on_disk(run) > 30:
            killed.append(role)
            os.kill(both._processes[role].pid, signal.SIGKILL)
            both._processes[role].wait()
        real(role)

    monkeypatch.setattr(both, "_look_after", look_after)
    monkeypatch.setattr("robot_rl.processes.LOOK_EVERY_S", 0.01)  # before they are done
    assert both.watch(150)
    check_finished(run)
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert [e["role"] for e in events if e["event"] == "restarted"] == ["learner"]
    config = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(config.replace("task: reach", "task: nonsense", 1))
    with pytest.raises(LinkError, match=r"exit code 2.*nonsense"):
        AsyncRun(run, TrainingProgress("test", plain_interval_s=1e9)).watch(150)


def test_a_store_that_lost_its_commit_is_left_alone(run):
    for process in (start("actor", run), start("learner", run)):
        ends_well(process)
    rows = EpisodeStore.open(run.episodes).rows
    (run.episodes / "commit.json").unlink()
    refused = start("actor", run)
    _, err = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert "robot-rl store repair" in err
    repair_store(run.episodes)
    assert EpisodeStore.open(run.episodes).rows == rows


def test_a_damaged_policy_is_published_anew(run):
    for process in (start("actor", run), start("learner", run)):
        ends_well(process)
    os.truncate(run.policy, 1000)
    assert train(resume=run.path, steps=170, asynchronous=True) == 0
    assert load_tensors(run.policy)[1]["settled"] == 170


def test_a_disk_that_was_full_for_a_policy_is_tried_again(run, monkeypatch):
    """The actor waits for what was not published: it must come once there is room, though no update is due."""
    learner, failures = AsyncLearner(run.open(run.path)[1], run, TrainingProgress("test", plain_interval_s=1e9)), []

    def publish(*_):
        failures.append(1)
        if len(failures) < 3:
            raise StoreError("no room", disk_full=True)

    monkeypatch.setattr("robot_rl.async_learning.publish", publish)
    monkeypatch.setattr("robot_rl.async_learning.TRY_AGAIN_S", 0.05)
    learner.learner = type("Learner", (), {"updates": 7})()
    end = time.monotonic() + 10
    while len(failures) < 3:
        learner._publish(since=0.0)
        time.sleep(0.01)
        assert time.monotonic() < end
    assert learner._public == (7, 0)


def test_children_end_when_their_parent_dies(run):
    parent = subprocess.Popen([sys.executable, "-m", "robot_rl.cli", "train", "--resume", str(run.path), "--async"])
    locks = [run.episodes / "writer.lock", run.path / "checkpoints" / "learner.lock"]
    end = time.monotonic() + 60
    while not all(lock.is_file() for lock in locks):
        time.sleep(0.05)
        assert time.monotonic() < end
    parent.kill()
    parent.wait()
    while True:  # until nobody holds either
        try:
            for lock in locks:
                WriterLock(lock).release()
            return
        except StoreError:
            time.sleep(0.1)
            assert time.monotonic() < end


def test_a_run_that_is_learnt_in_is_not_resumed_and_not_changed(run):
    before = run.config.read_text()
    with run.learning(), pytest.raises(StoreError, match="being written by"):
        train(resume=run.path, steps=999)
    assert run.config.read_text() == before


@pytest.mark.slow
def test_fifty_kills_of_the_learner(tmp_path):
    """The actor goes on by itself; each new learner takes over, and the policy ends as good as it would have been."""
    from robot_rl.assignments import assignments
    from robot_rl.config import overlay, preset
    from robot_rl.environments import make
    from robot_rl.evaluation import evaluate, load_policy
    from robot_rl.preparation import resolve

    settings = resolve(overlay(preset("fast", "reach"), assignments(("steps=1500", "checkpoint_every_s=1")), "here"))
    successes: list[int] = []
    for name, kills in (("left_alone", 0), ("killed", 50)):
        run, random = RunDirectory.create(settings, tmp_path / name), np.random.default_rng(0)
        actor, learner, done = start("actor", run), start("learner", run), 0
        while done < kills:
            time.sleep(random.uniform(0.5, 5.0))
            os.kill(learner.pid, signal.SIGKILL)
            learner.communicate()
            done += 1
            learner = start("learner", run)
        ends_well(actor)
        ends_well(learner)
        assert steps_on_disk(run) == run.checkpoints.load()[1]["step"] == 1500
        _, published = load_tensors(run.policy)
        assert published["update"] == 6000, "four updates a step, counted through every death"
        env = make(settings.task, settings.env)
        successes.append(sum(evaluate(env, load_policy(run, settings, env), 50).successes))
        env.close()
    sys.stdout.write(f"evaluated after no kill: {successes[0]}/50, after 50: {successes[1]}/50\n")
    assert successes[1] >= successes[0] - 5
