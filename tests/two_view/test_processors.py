"""The same photographs on other processors: what is the same, and how far the rest may differ."""

import os
import subprocess
import sys

import numpy as np
import pytest
from bundled_pair import PHOTOS

from n3match import native

# Vectors of PyTorch, of oneDNN and ours, as other processors have them.
OTHERS = {"avx2": ("avx2", "AVX2", "avx2"), "plain": ("default", "SSE41", "plain")}
NAMES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "N3MATCH_NATIVE")
#: Of logits, which lie in ±8 or so.
FARTHEST = 1e-3

SCRIPT = """
import sys, numpy, n3match
found, *photographs = sys.argv[1:]
pair = n3match.match_images(*photographs, max_keypoints=1000)
numpy.savez(found, points0=pair.points0, points1=pair.points1, mutual=pair.putative.mutual,
            logits=pair.logits)
"""


def matched(path, **environment):
    words = [sys.executable, "-c", SCRIPT, str(path), *map(str, PHOTOS)]
    subprocess.run(words, check=True, env={**os.environ, **environment})
    return np.load(path)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return matched(tmp_path_factory.mktemp("here") / "found.npz")


@pytest.mark.parametrize("level", OTHERS)
def test_matches_are_the_same_and_logits_nearly(level, here, tmp_path):
    if native.level() not in native.LEVELS[native.LEVELS.index(level) + 1 :]:
        pytest.skip(f"no compiled library, or no processor with more than {level}")
    there = matched(tmp_path / "there.npz", **dict(zip(NAMES, OTHERS[level])))
    for exact in ("points0", "points1", "mutual"):
        assert (here[exact] == there[exact]).all()
    difference = np.abs(here["logits"] - there["logits"]).max()
    assert 0 < difference < FARTHEST  # 0: nothing else was tried
