"""N³Net for images (Plötz & Roth, NeurIPS 2018) and the networks it is compared with, one class.

DnCNNs with blocks between that add to the features those of each patch's neighbours:
DnCNN → block → DnCNN → block → DnCNN. One DnCNN alone has no block.

The network runs in stages (see `N3Net.stage`): each looks only `reach` pixels around a pixel, so
that large images can be done in tiles.

With a scale S above 1 it sees S×S pixels of a channel as S² planes of an image S times as small (as
FFDNet does; Zhang et al., 2018): about S² times as fast.

B batch, C image channels, M maps, H×W pixels, P planes: C·S² of h×w
pixels, H/S and W/S rounded up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from n3match.arguments import check_moderate, dense_tensor, one_of, real, sequence, whole
from n3match.nn.dncnn import DnCNN
from n3match.nn.image_n3_block import ImageN3Block
from n3match.ops.checks import may_look

# More than any use has: a damaged file of weights must not ask for more.
_WIDEST, _DEEPEST = 2**14, 2**8
MAPS = {(): "none", ("sigma",): "sigma", ("a", "b"): "a and b"}


@dataclass(frozen=True)
class N3NetConfig:
    """What a network is built from."""

    channels: int = 1  # image channels C, in and out
    maps: tuple[str, ...] = ()  # constant input maps: ("sigma",), or ("a", "b") of raw noise
    sigma: tuple[float, ...] = ()  # 8-bit units: the noise it was trained for, lowest and highest
    scale: int = 1  # S
    local_networks: int = 3  # DnCNNs; a block between each two
    depth: int = 6  # convolutions of each
    features: int = 64
    block_channels: int = 8  # channels that go into a block
    neighbours: int = 7  # K
    patch_size: int = 10
    stride: int = 5
    window: int = 15  # patches that a patch may select, along a side
    selection: str = "n3"  # or "knn", "concrete"
    matching: str = "learned"  # or "input", "denoised": what patches are compared by ("knn")
    guide_depth: int = 17  # of the DnCNN that denoises for the comparison
    embedding_features: int = 64
    embedding_channels: int = 8
    temperature_bias: float = 0.1
    momentum: float = 0.001  # of batch norms

    def __post_init__(self):
        # Configurations come back from JSON as lists.
        object.__setattr__(self, "maps", tuple(sequence("maps", self.maps, "names")))
        levels = sequence("sigma", self.sigma, "numbers")
        object.__setattr__(self, "sigma", tuple(real("sigma", s) for s in levels))
        for name in (
            "channels", "scale", "features", "block_channels", "neighbours", "patch_size", "stride",
            "window", "embedding_features", "embedding_channels",
        ):
            whole(name, getattr(self, name), 1, _WIDEST)
        whole("local_networks", self.local_networks, 1, _DEEPEST)
        for name in ("depth", "guide_depth"):
            whole(name, getattr(self, name), 2, _DEEPEST)
        for name in ("temperature_bias", "momentum"):
            if not math.isfinite(real(name, getattr(self, name))):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        if not all(isinstance(name, str) for name in self.maps) or self.maps not in MAPS:
            raise ValueError(f"maps must be one of {tuple(MAPS)}, got {self.maps}"[:300])
        if self.sigma and not (
            len(self.sigma) == 2 and 0 <= self.sigma[0] <= self.sigma[1] < math.inf
        ):
            raise ValueError(f"sigma must be two numbers, 0 ≤ low ≤ high, got {self.sigma}")
        one_of("matching", self.matching, ("learned", "input", "denoised"))
        one_of("selection", self.selection, ("n3", "knn", "concrete"))
        if (self.selection == "knn") == (self.matching == "learned"):
            raise ValueError(
                'selection "knn" goes with matching "input" or "denoised", the others with '
                f'"learned"; got {self.selection!r}, {self.matching!r}'
            )

    @property
    def planes(self) -> int:
        """P: in and out of the stages."""
        return self.channels * self.scale**2

    @property
    def smallest_side(self) -> int:
        """Of an image, in pixels: blocks want a patch."""
        return self.patch_size * self.scale if self.local_networks > 1 else 1


_N3NET = N3NetConfig()

# The rows of the published ablation: the network, and those that it is compared with; and one that
# takes less than half the time of "dncnn-17".
PRESETS: dict[str, N3NetConfig] = {
    "n3net": _N3NET,
    "n3net-2": replace(_N3NET, local_networks=2),
    "dncnn-17": replace(_N3NET, local_networks=1, depth=17),
    "dncnn-18": replace(_N3NET, local_networks=1, depth=18),
    "knn-input": replace(_N3NET, selection="knn", matching="input"),
    "knn-denoised": replace(_N3NET, selection="knn", matching="denoised"),
    "concrete": replace(_N3NET, selection="concrete"),
    "n3net-fast": replace(_N3NET, scale=2, patch_size=6, stride=3),
}


class N3Net(nn.Module):
    """(B, C + M, H, W) noisy image and constant maps -> (B, C, H, W) denoised, in the same units.

    Images are about 0 … 1; a "sigma" map holds the noise's standard deviation in those units, "a"
    and "b" the noise variance a·x + b of an intensity x. Nothing is clipped.

    Args:
        config: what it is built from; None for `N3NetConfig()`.
    """

    def __init__(self, config: N3NetConfig | None = None):
        super().__init__()
        self.config = config = config or N3NetConfig()
        inputs = config.planes + len(config.maps)
        wide = (config.neighbours + 1) * config.block_channels
        last = config.local_networks - 1
        self.local_networks = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for index in range(config.local_networks):
            channels_out = config.planes if index == last else config.block_channels
            self.local_networks.append(
                DnCNN(
                    wide if index else inputs, channels_out, config.depth, config.features,
                    # Maps are no part of the image that the first network passes on.
                    shortcut=None if index else min(config.planes, channels_out),
                    momentum=config.momentum,
                )
            )
            if index < last:
                self.blocks.append(
                    ImageN3Block(
                        config.block_channels, config.neighbours, patch_size=config.patch_size,
                        stride=config.stride, window=config.window, selection=config.selection,
                        matching="learned" if config.matching == "learned" else "given",
                        embedding_features=config.embedding_features,
                        embedding_channels=config.embedding_channels,
                        temperature_bias=config.temperature_bias, momentum=config.momentum,
                    )
                )
        self.guide = None
        if config.matching == "denoised" and last:
            self.guide = DnCNN(
                inputs, config.planes, config.guide_depth, config.features,
                shortcut=config.planes, momentum=config.momentum,
            ).requires_grad_(False)

    def train(self, mode: bool = True) -> N3Net:
        """As in PyTorch, but the network that denoises for a comparison stays in eval mode.

        Args:
            mode: True for training, False for eval mode.

        Returns:
            The network itself.
        """
        super().train(mode)
        if self.guide is not None:
            self.guide.eval()  # trained before, by itself
        return self

    def forward(self, x: Tensor, *, neighbours: bool = True) -> Tensor:
        """(B, C + M, H, W) -> (B, C, H, W).

        Args:
            x: (B, C + M, H, W), floating point; with blocks, H and W at least S patches' size.
            neighbours: False: blocks pass features on with neighbours equal to themselves, at no
                cost: for the first part of a training.

        Raises:
            ValueError: for other shapes, naming the argument.
        """
        given, x = x, self.planes_of(x)
        size = given.shape[2:]
        matching = self.matching_image(x) if neighbours else None
        for index in range(self.stages):
            x = self.stage(index, x, matching, neighbours=neighbours)
        return self.image_of(x, size)

    def planes_of(self, x: Tensor) -> Tensor:
        """What the first stage takes; the image itself where the scale is 1.

        Args:
            x: (B, C + M, H, W) as in `forward`.

        Returns:
            (B, P + M, h, w).

        Raises:
            ValueError, TypeError: as `forward`.
        """
        self.check_input(x)
        scale, c = self.config.scale, self.config.channels
        if scale == 1:
            return x
        height, width = x.shape[2:]
        x = functional.pad(x, (0, -width % scale, 0, -height % scale), mode="replicate")
        planes = functional.pixel_unshuffle(x[:, :c], scale)
        return torch.cat([planes, x[:, c:, ::scale, ::scale]], 1)

    def image_of(self, planes: Tensor, size: tuple[int, int]) -> Tensor:
        """The way back, of what the last stage gives.

        Args:
            planes: (B, P, h, w).
            size: H and W.

        Returns:
            (B, C, H, W).
        """
        return functional.pixel_shuffle(planes, self.config.scale)[..., : size[0], : size[1]]

    @property
    def stages(self) -> int:
        """How many stages there are: one for each local network."""
        return len(self.local_networks)

    def stage(
        self, index: int, x: Tensor, matching: Tensor | None = None, *, neighbours: bool = True
    ) -> Tensor:
        """One local network, from the second on behind its block.

        Args:
            index: of the stage, from 0.
            x: (B, block_channels, h, w), what the stage before gave; for the first (B, P + M, h, w)
                of `planes_of`.
            matching: (B, P, h, w) of `matching_image`, for blocks with a hard selection.
            neighbours: as in `forward`.

        Returns:
            (B, block_channels, h, w) for the next stage; of the last (B, P, h, w), denoised.
        """
        if index:
            block = self.blocks[index - 1]
            x = block(x, matching) if neighbours else block.without_neighbours(x)
        return self.local_networks[index](x)

    def reach(self, index: int) -> int:
        """How many pixels away an output of stage `index` looks at its input.

        Args:
            index: of the stage, from 0.

        Returns:
            Pixels, away from the image's border.
        """
        block = self.blocks[index - 1].reach if index else 0
        return block + self.local_networks[index].reach

    def matching_image(self, x: Tensor) -> Tensor | None:
        """(B, P, h, w) what hard blocks compare patches by; None where that is learned.

        Args:
            x: (B, P + M, h, w) of `planes_of`.
        """
        if self.config.matching == "learned" or not len(self.blocks):
            return None
        if self.guide is None:
            return x[:, : self.config.planes]
        with torch.no_grad():
            return self.guide(x)

    def check_input(self, x: Tensor) -> None:
        """Raises where `forward` doesn't take an input.

        Args:
            x: (B, C + M, H, W) as there.

        Raises:
            TypeError: no floating point tensor of the weights' type. ValueError: another number of
                channels, or an image too small for a patch.
        """
        inputs = self.config.channels + len(self.config.maps)
        if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
            found = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"x must be a floating point tensor, got {found}")
        dense_tensor("x", x)
        wanted = next(self.parameters()).dtype
        if x.dtype != wanted and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"x must be {wanted} as the network's weights are, got {x.dtype}")
        smallest = self.config.smallest_side
        if x.ndim != 4 or x.shape[1] != inputs or min(x.shape[2:]) < smallest:
            raise ValueError(
                f"x must have shape (B, {inputs}, H, W) with H and W at least {smallest}: "
                f"{self.config.channels} image channels and maps {self.config.maps}; "
                f"got {tuple(x.shape)}"
            )
        if may_look(x):
            check_moderate("x", x)
