"""Whether an action is taken."""

from launch.substitutions import TRUTH
from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions


class IfCondition:
    def __init__(self, predicate_expression):
        self._expression = normalize_to_list_of_substitutions(predicate_expression)

    def evaluate(self, context):
        said = perform_substitutions(context, self._expression).strip().lower()
        if said not in TRUTH:
            raise ValueError(f"{said!r} is neither true nor false")
        return TRUTH[said]
