"""Nodes as programs."""

import tempfile
from pathlib import Path

import yaml
from launch.actions import ExecuteProcess
from launch.substitutions import TextSubstitution
from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions
from launch_ros.parameter_descriptions import ParameterValue


class Node(ExecuteProcess):
    """Its parameters go to the program in a file."""

    def __init__(self, *, package, executable, name, parameters, **options):
        super().__init__(cmd=[f"lib/{package}/{executable}", "--ros-args", "-r", f"__node:={name}"], **options)
        self._parameters = parameters

    def execute(self, context):
        for group in self._parameters:
            values = {name: self._evaluated(value, context) for name, value in group.items()}
            with tempfile.NamedTemporaryFile("w", prefix="launch_params_", delete=False) as file:
                yaml.dump({"/**": {"ros__parameters": values}}, file)
            self.cmd += [[TextSubstitution(text=word)] for word in ("--params-file", str(Path(file.name)))]
        return super().execute(context)

    @staticmethod
    def _evaluated(value, context):
        """Text of substitutions is YAML, as on a command line; text as such stays what it is."""
        if isinstance(value, ParameterValue):
            return value.evaluate(context)
        if isinstance(value, (str, bool, int, float)):
            return value
        return yaml.safe_load(perform_substitutions(context, normalize_to_list_of_substitutions(value)) or "''")
