"""What is in a store, in numbers."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.store.episode_store import EpisodeStore
from robot_rl.store.labels import label_names
from robot_rl.store.raw import RawStore


def store_stats(path: Path) -> dict[str, Any]:
    """Return a store's numbers as JSON values.

    Returns:
        episodes, complete_episodes, open_episode, steps, rows, success_rate (of closed episodes), length and
        episode_return ({mean, min, median, max} over closed episodes), sources ({name: steps}), instructions ({text:
        episodes}), policy_versions ({first, last, count} of steps by the policy), bytes ({array: {stored, raw,
        ratio}}, with `total`), bytes_per_step, compression_ratio, checksums, duration_s (first row to last),
        robot_time_s (sum over episodes), control_period_s (metadata's, else the median), labels ({name: labelled
        rows}), metadata.

    Raises:
        StoreError: No store, or damaged.
    """
    store, raw = EpisodeStore.open(path), RawStore(path)
    records = store.episode_table()
    closed = [record for record in records if record.closed]
    rows = store.read(columns=["time", "final", "source", "policy_version", "episode"])
    acted = ~rows["final"]
    steps = int(acted.sum())
    sources: Counter[str] = Counter()
    for record in records:
        sources.update(record.sources)
    versions = rows["policy_version"][acted & (rows["source"] == 0)]
    sizes = _sizes(raw)
    stored, unpacked = (sum(size[key] for size in sizes.values()) for key in ("stored", "raw"))
    within = np.diff(rows["time"])[(np.diff(rows["episode"]) == 0) & acted[:-1] & acted[1:]]
    period = store.metadata.get("control_period_s")
    if period is None:
        period = float(np.median(within)) if within.size else None
    labels: dict[str, int] = {}
    for name in label_names(path):
        labels[name] = int((~np.isnan(store.read(columns=[name])[name])).sum())
    return {
        "path": str(path),
        "episodes": len(records),
        "complete_episodes": sum(record.complete for record in records),
        "open_episode": raw.commit["open_episode"],
        "steps": steps,
        "rows": store.rows,
        "success_rate": sum(record.success for record in closed) / len(closed) if closed else None,
        "length": _spread([record.length for record in closed]),
        "episode_return": _spread([record.total_reward for record in closed]),
        "sources": dict(sources),
        "instructions": dict(Counter(record.instruction for record in records)),
        "policy_versions": {
            "first": int(versions.min()),
            "last": int(versions.max()),
            "count": len(np.unique(versions)),
        }
        if versions.size
        else None,
        "bytes": {**sizes, "total": {"stored": stored, "raw": unpacked, "ratio": _ratio(unpacked, stored)}},
        "bytes_per_step": stored / steps if steps else None,
        "compression_ratio": _ratio(unpacked, stored),
        "checksums": raw.checksummed,
        "duration_s": float(rows["time"][-1] - rows["time"][0]) if store.rows else 0.0,
        "robot_time_s": float(within.sum()),
        "control_period_s": period,
        "labels": labels,
        "metadata": store.metadata,
    }


def _sizes(store: RawStore) -> dict[str, dict[str, Any]]:
    """Return bytes on disk and as NumPy arrays, of committed rows."""
    sizes: dict[str, dict[str, Any]] = {}
    for name, array in store.arrays.items():
        stored = sum(file.stat().st_size for file in store.files(name))
        unpacked = store.commit["rows"] * math.prod(array.shape[1:]) * array.dtype.itemsize
        sizes[name] = {"stored": stored, "raw": unpacked, "ratio": _ratio(unpacked, stored)}
    return sizes


def _ratio(unpacked: int, stored: int) -> float | None:
    return unpacked / stored if stored else None


def _spread(values: list[int] | list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "mean": float(np.mean(values)),
        "min": float(np.min(values)),
        "median": float(np.median(values)),
        "max": float(np.max(values)),
    }
