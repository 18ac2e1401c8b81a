"""Jobs by several processes, or by the threads of this one; any of them may be killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import cv2
import torch

from n3match.native import run_tasks


def worker_pool(
    processes: int, begin: Callable[..., object] | None = None, *arguments: object
) -> ProcessPoolExecutor:
    """Processes of one thread each, which end when this one does.

    Args:
        begin: what each of them calls first, with these arguments.
    """
    # Spawned, not forked: a forked child of a process with torch threads may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _start, (begin, arguments))


def worker_died(kept: str = "what is done is kept", fewer: str = "processes") -> OSError:
    """What to tell of a `BrokenProcessPool`."""
    return OSError(
        f"a worker process died (out of memory?); {kept}: start again, perhaps with fewer {fewer}"
    )


def run_jobs(
    job: Callable[[str], None],
    items: Sequence[str],
    processes: int,
    done: Callable[[], object],
) -> None:
    """`job(item)` for each, in any order.

    Args:
        job: writes its result to the disk; where `processes` is above 1 it can be pickled.
        items: what is to be done.
        processes: 1: by the threads of this process that torch uses, each by itself.
        done: called after each, here or in a thread, never twice at a time.

    Raises:
        OSError: a worker process died. The first exception of a job; others may be done after it.
    """
    if processes == 1:
        _by_threads(job, items, done)
        return
    pool = worker_pool(min(processes, max(len(items), 1)))
    try:
        for future in as_completed([pool.submit(job, item) for item in items]):
            future.result()
            done()
    except BrokenProcessPool as error:
        raise worker_died() from error
    finally:
        pool.shutdown(cancel_futures=True)


def _by_threads(job: Callable[[str], None], items: Sequence[str], done: Callable) -> None:
    lock, stopped = threading.Lock(), threading.Event()

    def work(tasks: Iterator[str]) -> None:
        for item in tasks:
            if stopped.is_set():
                return
            try:
                job(item)
            except BaseException:
                stopped.set()
                raise
            with lock:
                done()

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        run_tasks(work, items)
    finally:
        stopped.set()  # after Ctrl-C too: threads end with the job that they are at
        cv2.setNumThreads(before)


def _start(begin: Callable[..., object] | None, arguments: tuple) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # A parent that is killed tells nobody; its workers would wait for work for ever.
    parent = multiprocessing.parent_process()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with(parent) -> None:
    parent.join()
    os._exit(1)
