"""A denoiser's training batches: number s depends on the run's seed and s alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from n3match.datasets.denoising import noise as noise_models
from n3match.datasets.denoising.clean_images import CleanImages
from n3match.datasets.denoising.noise import NoisyCrops
from n3match.pipelines.training.denoiser.config import DenoiserTraining


class NoisyBatches(torch.utils.data.Dataset):
    """Crops of clean images with fresh noise: batch number `step` by ``batches[step]``.

    Args:
        cache: file for the decoded images.
        rank, size: this process takes crops rank, rank + size, … of each batch.

    Raises:
        ValueError: unusable images, or fewer crops in a step than processes.
    """

    def __init__(self, config: DenoiserTraining, cache: Path, rank: int = 0, size: int = 1):
        smallest = min(stage.batch for stage in config.crops)
        if smallest < size:
            raise ValueError(f"crops: {smallest} in a step are too few for {size} processes")
        self.config = config
        self._share = slice(rank, None, size)
        colour = config.channels == 3 or config.noise == "bayer"
        self.images = CleanImages(config.images, 3 if colour else 1, cache, config.image_weights)
        # Asked now: at a later stage of a run it would be late to find out.
        for stage in config.crops:
            size = stage.size * (2 if config.noise == "bayer" else 1)
            self.images.crops(np.random.default_rng(0), 1, size)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """float32 `noisy` (B, C + M, H, W), input of the network, and `clean` (B, C, H, W), what
        it should give."""
        crops = self._crops(np.random.default_rng([self.config.seed, step]), step)
        noisy, maps, clean = (
            torch.from_numpy(np.ascontiguousarray(a[self._share]))
            for a in (crops.noisy, crops.maps, crops.clean)
        )
        maps = maps[:, :, None, None].expand(-1, -1, *noisy.shape[2:])
        return {"noisy": torch.cat([noisy, maps], 1), "clean": clean}

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
