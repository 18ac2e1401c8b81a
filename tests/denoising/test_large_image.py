"""A photograph of 12 million pixels under a memory limit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from n3match.denoising import Denoiser, denoise
from n3match.nn import PRESETS
from n3match.pipelines.benchmarks.measure import peak_bytes

LIMIT = 3 << 29


def _prepare(features):
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    config = replace(PRESETS["n3net"], features=features, embedding_features=features)
    net = Denoiser(config).eval().requires_grad_(False)
    image = np.random.default_rng(0).integers(0, 256, (3000, 4000), dtype=np.uint8)
    return lambda: denoise(image, weights=net, memory_limit=LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("features", [16, 64])
def test_4000_by_3000_takes_less_than_2_gb(features):
    assert peak_bytes(_prepare, features) < 2e9
