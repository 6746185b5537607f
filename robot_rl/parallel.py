"""Shares of one piece of work on a few standing threads; what they call must release the GIL (numba kernels do)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="robot_rl.parallel")


def run_in_parallel(work: Callable[[int, int, int], None], items: int, threads: int | None = None) -> None:
    """Call ``work(share, first, last)`` on contiguous shares of ``range(items)``, the last share on this thread."""
    pool = _pool()
    shares = min(threads or torch.get_num_threads(), items)
    edges = [items * i // shares for i in range(shares + 1)]
    others = [pool.submit(work, i, edges[i], edges[i + 1]) for i in range(shares - 1)]
    work(shares - 1, edges[-2], edges[-1])
    for other in others:
        other.result()
