"""A parameter's value, known when a launch file runs, and of which type it is."""

import yaml
from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions


class ParameterValue:
    def __init__(self, value, *, value_type=None):
        self._value, self._type = normalize_to_list_of_substitutions(value), value_type

    def evaluate(self, context):
        said = perform_substitutions(context, self._value)
        if self._type in (str, int, float):
            return self._type(said)
        value = yaml.safe_load({"1": "true", "0": "false"}.get(said, said) if self._type is bool else said)
        if self._type is not None and not isinstance(value, self._type):
            raise ValueError(f"{said!r} is no {self._type.__name__}")
        return value
