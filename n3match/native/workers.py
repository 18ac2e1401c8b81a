"""Threads that each work through whole tiles by themselves.

A tile small enough for one core's cache, with its matrix products and its element-wise passes on
that core, needs no hand-over between threads. Inside a worker torch uses one thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def _forget_pool() -> None:
    global _pool, _size, _lock
    _pool, _size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):  # threads don't live on in a forked process
    os.register_at_fork(after_in_child=_forget_pool)


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool, _size
    with _lock:
        if _pool is None or _size != count:
            if _pool is not None:
                _pool.shutdown(wait=False)
            # The number of threads is a setting of each thread, and the default of later ones.
            _pool = ThreadPoolExecutor(
                count, "n3match", initializer=torch.set_num_threads, initargs=(1,)
            )
            barrier = threading.Barrier(count + 1)
            for _ in range(count):
                _pool.submit(barrier.wait)
            barrier.wait()
            torch.set_num_threads(count)
            _size = count
        return _pool


def run_tasks(work: Callable[[int, Sequence], Any], tasks: Sequence) -> list:
    """`work(worker, its tasks)` in as many threads as torch uses, with a fixed distribution.

    Args:
        work: called once a worker, without gradient recording.
        tasks: worker i of n gets the i-th of n runs of consecutive tasks.

    Returns:
        What each worker answered, in order. The first exception of a worker is raised.
    """
    count = min(torch.get_num_threads(), max(1, len(tasks)))
    if count == 1:
        with torch.no_grad():
            return [work(0, tasks)]
    inference = torch.is_inference_mode_enabled()

    def run(worker: int):
        start, stop = (len(tasks) * (worker + i) // count for i in (0, 1))
        with torch.inference_mode() if inference else torch.no_grad():
            return work(worker, tasks[start:stop])

    pool = _workers(torch.get_num_threads())
    return [future.result() for future in [pool.submit(run, i) for i in range(count)]]
