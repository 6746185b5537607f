"""A stand-in for ROS 2's `launch`, as far as our launch files go, for machines without ROS.

The same tests run against the real one where it is sourced (`pytest -m ros tests/test_launch_files.py`), which is what
this is measured by. Nothing is started: `ExecuteLocal.execute` is the tests' own.
"""


class LaunchContext:
    """What arguments were given, and what was made of them."""

    def __init__(self):
        self.launch_configurations = {}


class LaunchDescription:
    """What a launch file describes."""

    def __init__(self, initial_entities=None):
        self.entities = list(initial_entities or [])

    def visit(self, context):
        return self.entities
