"""What determines the training of a denoiser."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from n3match.datasets.denoising.noise import NOISES
from n3match.pipelines.training.config import RunConfig

if TYPE_CHECKING:  # torch takes seconds to load, `--help` should not
    from n3match.nn import N3NetConfig


@dataclass(frozen=True)
class CropStage:
    """From a step on, crops of this size and so many of them in a step."""

    start: int
    size: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> CropStage:
        """SIZExBATCH or SIZExBATCH@START."""
        match = re.fullmatch(r"(\d+)x(\d+)(?:@(\d+))?", text)
        if not match:
            raise ValueError(f"crops: wanted SIZExBATCH@START, e.g. 80x8@2000, got {text!r}")
        size, batch, start = match.groups()
        return cls(int(start or 0), int(size), int(batch))


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining(RunConfig):
    """What determines a run's curve."""

    images: tuple[str, ...]  # folders of clean images
    image_weights: tuple[float, ...] = ()  # how often each is drawn; (): by its pixels
    network: str = "n3net"  # a preset: the rows of the published ablation
    features: int = 64  # channels of its local networks and of its embeddings
    channels: int = 1  # 1: grey, 3: colour
    noise: str = "gaussian"  # or "raw" (grey), "bayer" (four planes of a mosaic)
    sigma: tuple[float, float] = (25.0, 25.0)  # Gaussian: lowest and highest, 8-bit units
    guide: str = ""  # weights of the DnCNN whose output patches are compared in ("knn-denoised")
    teacher: str = ""  # weights of a network whose output is learned from as well
    teacher_share: float = 0.5  # of its output in what is aimed at, beside the clean image
    crops: tuple[CropStage, ...] = (CropStage(0, 80, 32),)
    steps: int = 82_000
    decay: float = 1e-4  # weight decay of convolutions; norms and biases have none
    ema: float = 0.999
    momentum: float = 0.01  # of batch norms
    local_steps: int = 0  # so many steps without blocks, local networks alone
    frozen_steps: int = 0  # in so many last steps batch norms normalise as they will in use

    def __post_init__(self):
        from n3match.nn import PRESETS

        if not self.images:
            raise ValueError("images: no folders given")
        super().__post_init__()
        self._check_weights("images", self.image_weights, self.images)
        self._check_known(network=PRESETS, noise=NOISES)
        self._check_least(1, "features")
        self._check_least(0, "local_steps", "frozen_steps")
        if self.channels not in (1, 3) or (self.channels == 3 and self.noise != "gaussian"):
            raise ValueError(
                f"channels must be 1 or 3, and 1 for raw noise, got {self.channels}"
            )
        if not 0 < self.teacher_share <= 1:
            raise ValueError(f"teacher_share must lie above 0, up to 1, got {self.teacher_share}")
        low, high = self.sigma
        if not 0 <= low <= high < math.inf or high == 0:
            raise ValueError(f"sigma must be two numbers, 0 ≤ low ≤ high > 0, got {self.sigma}")
        starts = [stage.start for stage in self.crops]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"crops: wanted stages from step 0 on in order, got {self.crops}")
        smallest = PRESETS[self.network].patch_size * PRESETS[self.network].scale
        for stage in self.crops:
            if stage.size < smallest or stage.batch < 1:
                raise ValueError(
                    f"crops: wanted at least {smallest}×{smallest} pixels and 1 in a step, "
                    f"got {stage}"
                )
        guided = PRESETS[self.network].matching == "denoised"
        if guided and not (self.guide or self.initial):
            raise ValueError(f"guide: network {self.network!r} wants one")
        if self.guide and not guided:
            raise ValueError(f"guide: of no use with network {self.network!r}")

    @property
    def net(self) -> N3NetConfig:
        """The network's configuration."""
        from n3match.nn import PRESETS

        preset = replace(
            PRESETS[self.network], momentum=self.momentum, features=self.features,
            embedding_features=self.features,
        )
        if self.noise != "gaussian":
            planes = 4 if self.noise == "bayer" else 1
            return replace(preset, channels=planes, maps=("a", "b"))
        ranged = self.sigma[1] > self.sigma[0]
        return replace(
            preset, channels=self.channels, sigma=self.sigma, maps=("sigma",) if ranged else (),
            # As many that are no image's as there are beside a grey one.
            block_channels=preset.block_channels + (self.channels - 1) * preset.scale**2,
        )

    def stage(self, step: int) -> CropStage:
        return [stage for stage in self.crops if stage.start <= step][-1]
