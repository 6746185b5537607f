"""Text out of text and substitutions."""

from launch.substitutions import TextSubstitution


def normalize_to_list_of_substitutions(given):
    parts = given if isinstance(given, (list, tuple)) else [given]
    for part in parts:
        if not isinstance(part, str) and not hasattr(part, "perform"):
            raise TypeError(f"{part!r} is neither text nor a substitution")
    return [TextSubstitution(text=part) if isinstance(part, str) else part for part in parts]


def perform_substitutions(context, parts):
    return "".join(part.perform(context) for part in parts)
