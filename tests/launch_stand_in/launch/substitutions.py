"""Text that is known when a launch file runs."""

import math


class TextSubstitution:
    def __init__(self, *, text):
        self.text = text

    def perform(self, context):
        return self.text


class LaunchConfiguration:
    def __init__(self, variable_name):
        self.variable_name = variable_name

    def perform(self, context):
        if self.variable_name not in context.launch_configurations:
            raise LookupError(f"launch configuration '{self.variable_name}' does not exist")
        return context.launch_configurations[self.variable_name]


class NotEqualsSubstitution:
    def __init__(self, left, right):
        from launch.utilities import normalize_to_list_of_substitutions

        self._sides = [normalize_to_list_of_substitutions(side) for side in (left, right)]

    def perform(self, context):
        """As text, as numbers, or as truth: whichever both sides are."""
        from launch.utilities import perform_substitutions

        left, right = (perform_substitutions(context, side) for side in self._sides)
        if left.lower() in TRUTH and right.lower() in TRUTH:
            return str(TRUTH[left.lower()] != TRUTH[right.lower()]).lower()
        try:
            return str(not math.isclose(float(left), float(right))).lower()
        except ValueError:
            return str(left != right).lower()


TRUTH = {"true": True, "1": True, "false": False, "0": False}
