"""A denoiser's training batches: number s depends on the run's seed and s alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from n3match.datasets.denoising import noise as noise_models
from n3match.datasets.denoising.clean_images import CleanImages
from n3match.datasets.denoising.noise import NoisyCrops
from n3match.pipelines.training.denoiser_config import DenoiserTraining


class NoisyBatches:
    """Crops of clean images with fresh noise.

    Args:
        config: of the run.
        cache: file for the decoded images.
    """

    def __init__(self, config: DenoiserTraining, cache: Path):
        self.config = config
        colour = config.channels == 3 or config.noise == "bayer"
        self.images = CleanImages(config.images, 3 if colour else 1, cache)
        # Asked now: at a later stage of a run it would be late to find out.
        for stage in config.crops:
            size = stage.size * (2 if config.noise == "bayer" else 1)
            self.images.crops(np.random.default_rng(0), 1, size)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
        """Network input (B, C + M, H, W) and what it should give, (B, C, H, W), float32.

        Of several processes each takes every ranks-th crop of the same batch.
        """
        crops = self._crops(np.random.default_rng([self.config.seed, step]), step)
        noisy, maps, clean = (
            torch.from_numpy(np.ascontiguousarray(a[rank::ranks]))
            for a in (crops.noisy, crops.maps, crops.clean)
        )
        maps = maps[:, :, None, None].expand(-1, -1, *noisy.shape[2:])
        return torch.cat([noisy, maps], 1), clean

    def _crops(self, rng: np.random.Generator, step: int) -> NoisyCrops:
        config = self.config
        stage = config.stage(step)
        if config.noise == "gaussian":
            clean = self.images.crops(rng, stage.batch, stage.size)
            ranged = config.sigma[1] > config.sigma[0]
            return noise_models.gaussian(clean, rng, *config.sigma, with_map=ranged)
        bayer = config.noise == "bayer"
        clean = self.images.crops(rng, stage.batch, stage.size * (2 if bayer else 1))
        clean = noise_models.raw_like(clean, rng)
        if bayer:
            clean = noise_models.bayer_planes(clean, rng)
        levels = noise_models.draw_levels(rng, len(clean))
        return noise_models.poisson_gaussian(clean, rng, levels)
