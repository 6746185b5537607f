"""What there is to export, and where it may go."""

from pathlib import Path

from robot_rl.errors import ConfigError
from robot_rl.store import EpisodeStore
from robot_rl.store.records import EpisodeRecord

__all__ = ["episodes_to_export"]


def episodes_to_export(store: EpisodeStore, out: Path) -> list[EpisodeRecord]:
    """The closed episodes of a store that have a step, once it is sure that nothing lies where they go.

    Raises:
        ConfigError: `out` is there and not empty, or the store has no such episode.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty; nothing in it was touched.")
    records = [record for record in store.episode_table() if record.closed and record.length]
    if not records:
        raise ConfigError(f"{store.path} has no finished episode to export.")
    return records
