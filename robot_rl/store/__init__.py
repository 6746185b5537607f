"""The episode store: every step ever taken, append-only, safe against any crash."""

from robot_rl.store.episode_store import EpisodeStore

__all__ = ["EpisodeStore"]
