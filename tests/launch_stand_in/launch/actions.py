"""What a launch file can have done; all but starting programs is."""

import importlib.util
import os
from pathlib import Path

from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions


class Action:
    def __init__(self, *, condition=None):
        self.condition = condition

    def visit(self, context):
        return self.execute(context) if self.condition is None or self.condition.evaluate(context) else None

    def execute(self, context):
        return None


class DeclareLaunchArgument(Action):
    def __init__(self, name, *, default_value=None, description=None, choices=None):
        super().__init__()
        self.name, self.choices = name, choices
        self.default_value = None if default_value is None else normalize_to_list_of_substitutions(default_value)
        self.description = "no description given" if description is None else description
        if choices is not None and isinstance(default_value, str) and default_value not in choices:
            raise RuntimeError(f"the default {default_value!r} is not one of {choices}")

    def execute(self, context):
        given = context.launch_configurations
        if self.name not in given:
            if self.default_value is None:
                raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
            given[self.name] = perform_substitutions(context, self.default_value)
        if self.choices is not None and given[self.name] not in self.choices:
            raise RuntimeError(f'Argument "{self.name}" provided value "{given[self.name]}" is not valid.')


class SetLaunchConfiguration(Action):
    def __init__(self, name, value):
        super().__init__()
        self._name, self._value = (normalize_to_list_of_substitutions(text) for text in (name, value))

    def execute(self, context):
        name = perform_substitutions(context, self._name)
        context.launch_configurations[name] = perform_substitutions(context, self._value)


class OpaqueFunction(Action):
    def __init__(self, *, function):
        super().__init__()
        self._function = function

    def execute(self, context):
        return self._function(context)


class IncludeLaunchDescription(Action):
    def __init__(self, launch_description_source, *, launch_arguments=None):
        super().__init__()
        self._path, self.launch_arguments = Path(launch_description_source), list(launch_arguments or ())

    def execute(self, context):
        spec = importlib.util.spec_from_file_location("included_launch_file", self._path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        given = [SetLaunchConfiguration(name, value) for name, value in self.launch_arguments]
        return [*given, module.generate_launch_description()]


class Shutdown(Action):
    def __init__(self, *, reason="reason not given"):
        super().__init__()
        self.reason = reason


class ExecuteLocal(Action):
    """A program: `prepare` leaves its command line in `process_details`."""

    def __init__(self, *, cmd, output="log", emulate_tty=False, on_exit=None, sigterm_timeout="5", condition=None):
        super().__init__(condition=condition)
        self.cmd = [normalize_to_list_of_substitutions(word) for word in cmd]
        self.output = normalize_to_list_of_substitutions(output)
        self.sigterm_timeout = normalize_to_list_of_substitutions(sigterm_timeout)
        self.emulate_tty, self.__on_exit = emulate_tty, on_exit
        self.process_details = None

    def prepare(self, context):
        self.process_details = {"cmd": [perform_substitutions(context, word) for word in self.cmd]}

    def execute(self, context):
        raise NotImplementedError(f"nothing is started here; process {os.getpid()} is a test")


class ExecuteProcess(ExecuteLocal):
    pass
