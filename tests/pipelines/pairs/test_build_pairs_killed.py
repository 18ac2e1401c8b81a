"""Runs of build-pairs killed by SIGKILL at random moments lose nothing that was done."""

import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import prepared
import pytest
import torch
from killed import is_gone
from toy_scene import write_scene

from n3match.datasets.pairs.dataset import PairDataset
from n3match.pipelines.pairs import plan
from n3match.pipelines.pairs.make_store import build_pairs


def kill_until_done(scenes, out, seed):
    """Builds in one forked child after the other, each killed at a random moment, until one is
    through. Prints the parts on the disk after each, "whole" where they are joined, and "done"."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    plan.PART_SIZE = 1
    lots, longest = random.Random(seed), 0.05
    while True:
        child = os.fork()
        if child == 0:
            build(scenes, out)
            os._exit(0)
        time.sleep(lots.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            break
        parts = out.with_name(out.name + ".parts").glob("*.h5")
        print(*(["whole"] if out.exists() else sorted(p.name for p in parts)))
        longest *= 1.2
    print("done")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for i in range(2):
        write_scene(folder / f"s{i}", 4)
    return folder


def build(scenes, out):
    return build_pairs(scenes, out, max_keypoints=60, progress=False)


def assert_same(path, wanted):
    found, wanted = PairDataset(path), PairDataset(wanted)
    assert len(found) == len(wanted) == 12
    for i in range(12):
        assert found.record(i).name0 == wanted.record(i).name0
        np.testing.assert_array_equal(found.record(i).xs, wanted.record(i).xs)
        np.testing.assert_array_equal(
            found.record(i).distances_squared, wanted.record(i).distances_squared
        )


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_with_the_same_store(
    scenes, tmp_path, tmp_path_factory, monkeypatch, seed
):
    monkeypatch.setattr(plan, "PART_SIZE", 1)
    wanted = build(scenes, tmp_path / "wanted.h5")
    out = tmp_path / "killed.h5"
    output = tmp_path_factory.mktemp("output") / "output"
    prepared.finish([prepared.start(kill_until_done, scenes, out, seed, output=output)])
    *kept, last = output.read_text().splitlines()
    assert last == "done" and len(kept) >= 3
    for before, after in pairwise(kept):
        assert set(before.split()) <= set(after.split()) or after == "whole"
    assert_same(out, wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.h5", "wanted.h5"]


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(scenes, tmp_path):
    wanted = build(scenes, tmp_path / "wanted.h5")
    out = tmp_path / "killed.h5"
    command = [sys.executable, "-m", "n3match.pipelines.cli", "build-pairs", scenes, out]
    command += ["--max-keypoints", "60", "--min-consistent", "0", "--processes", "2"]
    run = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(_children(run.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = _children(run.pid)
    time.sleep(3)
    assert len(workers) >= 2
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    while not all(map(is_gone, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(is_gone, workers))
    assert subprocess.run(list(map(str, command)), stderr=subprocess.DEVNULL).returncode == 0
    assert_same(out, wanted)


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found

