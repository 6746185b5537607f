"""What lies in an .rrd file, by Rerun's own reader."""

import numpy as np
import pyarrow as pa
from rerun.chunk import RrdReader

VALUES = ("Scalars:scalars", "Image:buffer", "TextLog:text")


def rerun_rows(path):
    """Entity -> (times [ns], shape (N,); values, shape (N, ...): curves, pictures' bytes, or texts)."""
    found = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        for name in set(VALUES) & set(batch.schema.names):
            times = batch["time"].cast(pa.int64()).to_pylist()
            found.setdefault(chunk.entity_path, []).extend(zip(times, batch[name].to_pylist(), strict=True))
    ordered = {entity: sorted(rows, key=lambda row: row[0]) for entity, rows in found.items()}
    return {
        entity: (np.array([t for t, _ in rows]), np.array([value for _, value in rows]))
        for entity, rows in ordered.items()
    }
