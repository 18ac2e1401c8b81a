import threading

import pytest
import torch

from n3match.native import run_tasks

pytestmark = pytest.mark.arithmetic


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_every_task_is_done_once(threads, count):
    done = [0] * count

    def work(tasks):
        for task in tasks:
            done[task] += 1

    run_tasks(work, list(range(count)))
    assert done == [1] * count


def test_threads_work_side_by_side_each_with_one_of_torch(threads):
    meeting = threading.Barrier(threads, timeout=20)
    seen = []

    def work(tasks):
        for _ in tasks:
            meeting.wait()
            seen.append((threading.get_ident(), torch.get_num_threads()))

    run_tasks(work, list(range(threads)))
    assert len({thread for thread, _ in seen}) == threads
    assert all(own == 1 for _, own in seen)
    assert torch.get_num_threads() == threads


def test_no_gradients_are_recorded(threads):
    leaf = torch.ones(3, requires_grad=True)
    recorded = []
    run_tasks(lambda tasks: recorded.extend((leaf * t).requires_grad for t in tasks), [1, 2, 3])
    assert recorded == [False] * 3


def test_works_in_inference_mode(threads):
    out = torch.zeros(4)

    def work(tasks):
        for task in tasks:
            out[task] = task

    run_tasks(work, list(range(4)))
    with torch.inference_mode():
        mine = torch.zeros(4)

        def fill(tasks):
            for task in tasks:
                torch.add(out[task], 1, out=mine[task])

        run_tasks(fill, list(range(4)))
    assert mine.tolist() == [1, 2, 3, 4]


def test_an_exception_arrives(threads):
    def work(tasks):
        for task in tasks:
            if task == 3:
                raise KeyError("three")

    with pytest.raises(KeyError, match="three"):
        run_tasks(work, list(range(5)))
    done = []
    run_tasks(done.extend, [1, 2])
    assert sorted(done) == [1, 2]
