"""The parts of a store made by several processes, any of which may be killed at any moment."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool

from n3match.datasets.scenes.source import View
from n3match.pipelines.common.progress import Progress
from n3match.pipelines.common.workers import worker_died, worker_pool
from n3match.pipelines.pairs.jobs import PairJobs
from n3match.pipelines.pairs.plan import DumpPart, PhotoPart

Part = PhotoPart | DumpPart


def run_parts(
    jobs: PairJobs, scenes: Sequence[Sequence[Part]], processes: int, progress: bool
) -> Counter[str]:
    """Makes the parts that are not there yet, scene by scene; each is whole on the disk or absent.

    Keypoints are kept on the disk until the parts of their scene are done, so those are not lost
    either.

    Returns:
        How many photographs with an EXIF orientation were read how, see `PairJobs.extract`.

    Raises:
        OSError: a worker process died; what an argument or a file is refused for.
    """
    todo = [[part for part in parts if not jobs.writer.has_part(part.name)] for parts in scenes]
    todo = [parts for parts in todo if parts]
    total, left = (sum(len(p) for parts in group for p in parts) for group in (scenes, todo))
    pool = _Here() if processes == 1 else worker_pool(processes)
    try:
        with Progress(total, "pair", done=total - left, shown=progress) as bar:
            return _run(jobs, todo, pool, 1 if processes == 1 else 2, bar)
    except BrokenProcessPool as error:
        raise worker_died() from error
    finally:
        pool.shutdown(cancel_futures=True)


def _run(
    jobs: PairJobs, todo: list[list[Part]], pool, at_once: int, bar: Progress
) -> Counter[str]:
    turns: Counter[str] = Counter()
    waiting, running = deque(todo), deque()
    while waiting or running:
        # One scene ahead: no worker waits for the last keypoints of a scene.
        while waiting and len(running) < at_once:
            parts = waiting.popleft()
            views = _views(parts)
            running.append((parts, views, [pool.submit(jobs.extract, view) for view in views]))
        parts, views, extracted = running.popleft()
        for done, future in enumerate(as_completed(extracted), start=1):
            turns[future.result()] += 1
            bar.describe(f"{parts[0].scene}: keypoints {done}/{len(views)}")
        made = {pool.submit(jobs.make_part, part): part for part in parts}
        for future in as_completed(made):
            future.result()
            bar.describe(parts[0].scene)
            bar.update(len(made[future]))
        for view in views:
            jobs.forget(view)
    del turns[""]
    return turns


def _views(parts: Sequence[Part]) -> list[View]:
    views = {}
    for part in parts:
        if isinstance(part, PhotoPart):
            views |= part.views
    return list(views.values())


class _Here:
    """Does the work at once, in this process."""

    def submit(self, function, *arguments) -> Future:
        future = Future()
        future.set_result(function(*arguments))  # what it raises is raised here
        return future

    def shutdown(self, *, cancel_futures: bool) -> None:
        pass
