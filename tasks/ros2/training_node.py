"""Training as a managed ROS 2 node: `ros2 run robot_rl training_node --ros-args -p task:=peg_insert -p cell:=twin`.

Configured, it knows what is to be trained; active, it trains; deactivated, the run is saved and can be gone on with.
Services ~/start, ~/stop, ~/pause, ~/success and ~/failure (Trigger) say what a person at the arm would; what is wrong
with what it does is told it in words on ~/correct (String). It tells ~/reward, ~/intervention and ~/policy_version of
every step, ~/metrics as JSON, and how it is in /diagnostics.
"""

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

from drivers.ros2 import messages as ros
from drivers.ros2.arguments import Parameter
from drivers.ros2.cells import PREFIX, over_ros
from drivers.ros2.lifecycle import Lifecycle
from drivers.ros2.node import DEFAULT, LATCHED, Node
from drivers.ros2.program import run_node
from robot_rl.errors import LinkError, RobotRLError
from tasks import task_class
from tasks.ros2.training import RunReader, Session, SessionOptions

__all__ = ["PARAMETERS", "TrainingNode", "main"]

PARAMETERS = (
    Parameter("task", "reach", "what is to be learnt (robot-rl tasks)"),
    Parameter("cell", "twin", "twin, or the cell file whose devices the other nodes present"),
    Parameter("run", "", "run directory; one that is there is gone on with (default: runs/TASK/ros)"),
    Parameter("rehearse", "", "address of the emulator that stands in for the cell; empty on metal, and for sim_node"),
    Parameter("demos", "", "demonstrations: a number, the path of a store, or none"),
    Parameter("reward", "", "a learned reward (robot-rl reward train), or human"),
    Parameter("preset", "", "fast, pixels, scratch, serl or hil_serl"),
    Parameter("steps", 0, "environment steps; 0 for the preset's", 0, 100_000_000),
    Parameter("teleop", "ros2", "who may take over: ros2 (teleop_node), or nobody", choices=("ros2", "")),
    Parameter("settings", [""], "further settings, KEY=VALUE each"),
    Parameter("autostart", True, "configure and activate at once"),
    Parameter("end_when_done", True, "end the node when training has come to its end"),
)
TRIGGER, STRING = "std_srvs/srv/Trigger", "std_msgs/msg/String"
WORDS = {"pause": "pause", "success": "success", "failure": "failure"}
LOOK_S, DIAGNOSE_S, LOG_S = 0.2, 1.0, 10.0
log = logging.getLogger("robot_rl.ros2")
LOCAL = "127.0.0.1"  # where sim_node's stage is, unless it is told otherwise
OK, WARN, ERROR = 0, 1, 2


class TrainingNode:
    """Trains.

    Args:
        node: Over which.
        values: Of `PARAMETERS`.
        session: In place of one made of the values.

    Raises:
        ConfigError: A wrong task or cell, where it starts by itself.
    """

    def __init__(self, node: Node, values: dict[str, Any], session: Session | None = None) -> None:
        self._node, self._values, self._session = node, values, session
        self._reader: RunReader | None = None
        self._newest: dict[str, Any] = {}
        self._done, self._failure, self._diagnosed, self._logged = False, "", 0.0, 0.0
        self.life = Lifecycle(node, self)
        told = {"reward": "Float64", "intervention": "Bool", "policy_version": "Int64", "metrics": "String"}
        self._kinds = {name: f"std_msgs/msg/{kind}" for name, kind in told.items()}
        self._tell = {
            name: node.publisher(f"~/{name}", kind, LATCHED if name == "policy_version" else DEFAULT)
            for name, kind in self._kinds.items()
        }
        self._word = node.publisher("teleop/say", STRING, DEFAULT)
        self._diagnostics = node.publisher("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", DEFAULT)
        node.serve("~/start", TRIGGER, lambda _: self._moved("activate"))
        node.serve("~/stop", TRIGGER, lambda _: self._moved("deactivate"))
        for name, word in WORDS.items():
            node.serve(f"~/{name}", TRIGGER, lambda _, w=word: self._said(w))
        node.subscribe("~/correct", STRING, self._corrected, DEFAULT)

    # The managed life

    def configure(self) -> None:
        """Make up the session."""
        values = self._values
        if self._session is None:
            task_class(values["task"])
            run = Path(values["run"] or f"runs/{values['task']}/ros").resolve()
            over_ros(values["cell"])  # a mistake in it is said now
            self._session = Session(
                SessionOptions(
                    task=values["task"], cell=f"{PREFIX}{values['cell']}", run=run,
                    rehearse=values["rehearse"] or (LOCAL if values["cell"] == "twin" else ""), demos=values["demos"],
                    reward=values["reward"], preset=values["preset"], teleop=values["teleop"], steps=values["steps"],
                    settings=tuple(v for v in values["settings"] if v),
                )
            )  # fmt: skip
        self._reader = RunReader(self._session.options.run)

    def activate(self) -> None:
        """Train."""
        assert self._session is not None  # configured before
        self._done, self._failure = False, ""
        self._session.start()
        log.info("Training in %s; what its processes say: %s", self._session.options.run, self._session.log)

    def deactivate(self) -> None:
        """Stop; the arm holds, the run is saved."""
        if self._session is not None:
            self._session.stop()
            log.info("Training has stopped; what was learnt is saved in %s", self._session.options.run)

    def cleanup(self) -> None:
        """Forget the session."""
        self._session = self._reader = None

    def shutdown(self) -> None:
        """As deactivate."""
        self.deactivate()

    # What it does

    def run(self, ended: threading.Event) -> None:
        """Until ended, or until training has come to its end.

        Raises:
            LinkError: Training ended with an error.
        """
        if self._values["autostart"] and not (self.life.to("configure") and self.life.to("activate")):
            raise LinkError(f"Training does not begin: {self.life.trouble}")
        try:
            while not ended.wait(LOOK_S) and not (self._done and self._values["end_when_done"]):
                self.tick()
        finally:
            self.deactivate()

    def tick(self) -> None:
        """Tell what is new. Raises LinkError when training ended with an error and nobody would see it otherwise."""
        with self.life.lock:
            self._look()
        if self._reader is not None:
            news = self._reader.news()
            for reward, human, version in news.steps:
                for name, value in (("reward", reward), ("intervention", human), ("policy_version", version)):
                    self._publish(name, value)
            if news.metrics and time.monotonic() - self._logged > LOG_S:
                self._logged = time.monotonic()
                log.info("step %d, %d updates", *(news.metrics[-1].get(name) or 0 for name in ("step", "update")))
            for row in news.metrics:
                self._newest |= {k: v for k, v in row.items() if v is not None}
                self._publish("metrics", json.dumps(row))
        if time.monotonic() - self._diagnosed > DIAGNOSE_S:
            self._diagnosed = time.monotonic()
            self._diagnose()

    def _look(self) -> None:
        """Whether training has come to its end by itself."""
        if self._session is None or self.life.state != "active":
            return
        try:
            if self._session.check():
                self._done = True
                self.life.to("deactivate")
        except LinkError as error:
            self._failure = str(error)
            self.life.to("deactivate")
            if self._values["end_when_done"]:
                raise

    def _publish(self, name: str, value: Any) -> None:
        self._tell[name].publish(ros.message(self._kinds[name], data=value))

    def _moved(self, transition: str) -> ros.Message:
        done = True
        if transition == "activate" and self.life.state == "unconfigured":
            done = self.life.to("configure")
        done = done and self.life.to(transition)
        return ros.message(f"{TRIGGER}_Response", success=done, message="" if done else self.life.trouble)

    def _said(self, word: str) -> ros.Message:
        """Pass on to the hand that listens beside the actor."""
        if self.life.state != "active" or not self._word.subscribers():
            why = "nothing is trained now" if self.life.state != "active" else "the actor does not listen yet (teleop)"
            return ros.message(f"{TRIGGER}_Response", success=False, message=why)
        self._word.publish(ros.message(STRING, data=word))
        self._kept("said", word=word)
        return ros.message(f"{TRIGGER}_Response", success=True)

    def _corrected(self, content: Any) -> None:
        if content.data.strip():
            self._kept("correction", text=content.data.strip())

    def _kept(self, kind: str, **fields: Any) -> None:
        if self._reader is not None:
            try:
                self._reader.say(kind, by=self._node.name, **fields)
            except RobotRLError as error:
                self._failure = str(error)

    def _diagnose(self) -> None:
        known = ("step", "update", "episode_success", "env_steps_per_s", "updates_per_s", "intervention_rate")
        values = {k: self._newest[k] for k in known if k in self._newest}
        running = self._session is not None and self._session.running
        trouble = self._failure or self.life.trouble
        message = trouble or ("done" if self._done else "training" if running else self.life.state)
        status = ros.message(
            "diagnostic_msgs/msg/DiagnosticStatus", name=f"{self._node.name}: training", hardware_id=self._node.name,
            level=ERROR if self._failure else WARN if trouble else OK, message=message,
            values=[ros.message("diagnostic_msgs/msg/KeyValue", key=k, value=f"{v:g}") for k, v in values.items()],
        )  # fmt: skip
        array = "diagnostic_msgs/msg/DiagnosticArray"
        self._diagnostics.publish(ros.message(array, header=ros.header(self._node.now(), ""), status=[status]))


def main() -> int:
    """Entry of the program."""
    return run_node("training_node", "Training as a managed node.", PARAMETERS, TrainingNode)
