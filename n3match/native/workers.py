"""Threads that each work through whole tiles by themselves.

A tile small enough for one core's cache, with its matrix products and its element-wise passes on
that core, needs no hand-over between threads. Inside a worker torch uses one thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import torch

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def _forget_pool() -> None:
    global _pool, _size, _lock
    _pool, _size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):  # threads don't live on in a forked process
    os.register_at_fork(after_in_child=_forget_pool)


def _one_thread() -> None:
    """Let torch use one thread in this one. Its setting is one of each thread, but the last one
    made is the default that a thread takes up when it first asks: so ask first."""
    torch.get_num_threads()
    torch.set_num_threads(1)


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool, _size
    with _lock:
        if _pool is None or _size != count:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool = ThreadPoolExecutor(count, "n3match", initializer=_one_thread)
            barrier = threading.Barrier(count + 1)
            for _ in range(count):
                _pool.submit(barrier.wait)
            barrier.wait()
            torch.set_num_threads(count)  # for later threads, and this one
            _size = count
        return _pool


class _Shared:
    """An iterator over tasks that several threads empty together."""

    def __init__(self, tasks: Iterable):
        self._tasks = iter(tasks)
        self._lock = threading.Lock()

    def __iter__(self):
        return self

    def __next__(self):
        with self._lock:
            return next(self._tasks)


def run_tasks(work: Callable[[Iterator], None], tasks: Sequence) -> None:
    """`work(tasks)` in as many threads as torch uses, each taking the next task when it is free.

    Which thread does which task is up to chance: where results must be the same bits each time, a
    task writes to a place of its own.

    Args:
        work: called once a thread, without gradient recording, with an iterator.

    Raises:
        The first exception of a thread.
    """
    threads = torch.get_num_threads()
    if threads == 1 or not tasks:
        with torch.no_grad():
            work(iter(tasks))
        return
    # Even a single task goes to a worker: where torch shares an operation between threads, these
    # wait for more for some milliseconds afterwards, and keep the processors from the workers.
    inference = torch.is_inference_mode_enabled()
    shared = _Shared(tasks)

    def run():
        with torch.inference_mode() if inference else torch.no_grad():
            work(shared)

    pool = _workers(threads)
    runs = [pool.submit(run) for _ in range(min(threads, len(tasks)))]
    # One that ends leaves no task. On a busy machine others may not even have begun: nothing is
    # gained by waiting until they find that out.
    wait(runs, return_when=FIRST_COMPLETED)
    for future in [future for future in runs if not future.cancel()]:
        future.result()
