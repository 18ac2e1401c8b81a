"""Pools of worker processes: what they begin with, and how they end."""

import os
import time

import prepared
import pytest
from killed import is_gone

from n3match.pipelines.common.workers import worker_pool
from n3match.pipelines.evaluation import pose_evaluation

pytestmark = pytest.mark.usefixtures("prepared_processes")


def _set(name, value):
    os.environ[name] = value


def test_a_worker_first_calls_what_it_is_to_begin_with():
    with worker_pool(1, _set, "N3MATCH_TEST", "begun") as pool:
        assert pool.submit(os.getenv, "N3MATCH_TEST").result() == "begun"


def _have_a_worker(connection):
    connection.send(worker_pool(1).submit(os.getpid).result())
    time.sleep(300)


def test_workers_end_with_a_killed_parent():
    ours, theirs = prepared.context.Pipe(duplex=False)
    parent = prepared.context.Process(target=_have_a_worker, args=(theirs,), daemon=False)
    parent.start()
    theirs.close()
    worker = ours.recv()
    assert not is_gone(worker)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 60
    while not is_gone(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_gone(worker)


def test_an_evaluation_whose_worker_dies_says_so():
    with pytest.raises(OSError, match="a worker process died"):
        list(pose_evaluation._run(os._exit, [(1,), (1,)], 2))
