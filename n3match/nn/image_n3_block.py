"""The N³ block on images: features in, features and their K neighbours' differences out.

For each patch, K soft nearest neighbours among the patches around it are averaged, put back into
the image, and the image is subtracted (Plötz & Roth, NeurIPS 2018). What patches are compared by is
learned (`matching="learned"`: an embedding and a temperature for each pixel, by two small
networks), or an image given from outside.

B batch, C features, E embedding channels, K neighbours, (n₁, n₂) grid of patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from n3match import ops
from n3match.nn.distributed import Synchronised, moments_over
from n3match.nn.dncnn import convolution_stack
from n3match.ops.window.grid import WindowGrid

_SMALLEST_GAIN = 1e-30


class DistanceScale(Synchronised, nn.Module):
    """A one-channel batch norm of distances, of which only the scale acts: γ/√(variance + ε).

    The sign of γ doesn't count: a scale below 0 would select the farthest.
    """

    def __init__(self, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.gain = nn.Parameter(torch.ones(()))
        self.register_buffer("running_var", torch.ones(()))

    def forward(self, moments: tuple[Tensor, Tensor, int] | None = None) -> Tensor:
        """Logarithm of the scale: of the variance of a batch's distances (given by their mean,
        variance and number), which is then remembered, or (None) of what was remembered."""
        if moments is None:
            variance, count = self.running_var, 0
        elif self.group is None:
            _, variance, count = moments
        else:
            _, variance, count = moments_over(*moments, self.group)
        if count > 1:
            unbiased = variance.detach() * count / (count - 1)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        gain = torch.log(self.gain.abs().clamp(min=_SMALLEST_GAIN))
        return gain - 0.5 * torch.log(variance + self.eps)


class ImageN3Block(nn.Module):
    """(B, C, H, W) -> (B, (K + 1)·C, H, W): x, z¹ − x, …, zᴷ − x.

    Args:
        channels: C.
        k: neighbours K.
        patch_size, stride, window: see `ops.n3_window_aggregate`.
        selection: "n3", "knn" (hard) or "concrete" (Gumbel noise while training).
        matching: "learned", or "given": patches of an image given to `forward` are compared, with
            "knn" only.
        embedding_features, embedding_channels: width of the two networks, and E.
        temperature_bias: a factor of all temperatures.
        momentum: of the networks' batch norms.
    """

    def __init__(
        self,
        channels: int = 8,
        k: int = 7,
        *,
        patch_size: int = 10,
        stride: int = 5,
        window: int = 15,
        selection: str = "n3",
        matching: str = "learned",
        embedding_features: int = 64,
        embedding_channels: int = 8,
        temperature_bias: float = 0.1,
        momentum: float = 0.001,
    ):
        super().__init__()
        if matching not in ("learned", "given"):
            raise ValueError(f'matching must be "learned" or "given", got {matching!r}')
        if (selection == "knn") != (matching == "given"):
            raise ValueError(
                'selection "knn" lets no gradient through to an embedding: it goes with '
                f'matching="given", the others with "learned"; got {selection!r}, {matching!r}'
            )
        self.k, self.channels, self.selection = k, channels, selection
        self.patches = {"patch_size": patch_size, "stride": stride, "window": window}
        self.learned = matching == "learned"
        if self.learned:
            sizes = (3, embedding_features, momentum)
            self.embedding = convolution_stack(
                channels, embedding_channels, *sizes, norm_first=True
            )
            self.temperature = convolution_stack(channels, 1, *sizes, norm_first=True)
            self.distance_scale = DistanceScale()
            self.log_bias = math.log(temperature_bias)

    @property
    def reach(self) -> int:
        """How many pixels away an output looks, away from the image's border: over the patch it
        lies in, to the farthest patch of that one's window, and over its embedding."""
        size, stride, window = self.patches.values()
        return size - 1 + (window // 2) * stride + 3 * self.learned

    def forward(self, x: Tensor, matching: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, (K + 1)·C, H, W), in the type of `x`.

        Args:
            x: (B, C, H, W), floating point; H and W at least the patch size.
            matching: (B, E, H, W) image whose patches are compared, with matching="given" alone.

        Raises:
            ValueError: no `matching` where it is wanted, or an image smaller than a patch.
        """
        with torch.autocast(x.device.type, enabled=False):  # distances need their digits
            out = self._with_neighbours(x if x.dtype == torch.float64 else x.float(), matching)
        return out.to(x.dtype)

    def without_neighbours(self, x: Tensor) -> Tensor:
        """As if every patch's neighbours were equal to itself: what `forward` gives, at no cost,
        before the block has been learned.

        Args:
            x: (B, C, H, W).

        Returns:
            (B, (K + 1)·C, H, W): `x` and zeros.
        """
        return functional.pad(x, (0, 0, 0, 0, 0, self.k * self.channels))

    def _with_neighbours(self, x: Tensor, matching: Tensor | None) -> Tensor:
        if not self.learned:
            if matching is None:
                raise ValueError('matching: an image is wanted with matching="given", got None')
            matching = matching.to(x)
            return ops.n3_window_aggregate(
                matching, matching, x, self.k, **self.patches, selection="knn", differences=True
            )
        e = self.embedding(x)
        log_t, log_scale = self._log_temperature(x), self._log_distance_scale(e)
        if self.selection == "concrete":
            # Its noise is measured by scaled distances: multiply those, not the temperatures.
            e = e * torch.exp(log_scale / 2)
        else:
            log_t = log_t - log_scale
        return ops.n3_window_aggregate(
            e, e, x, self.k, log_t, **self.patches,
            selection=self.selection, generator=self._generator(), differences=True,
        )

    def _log_temperature(self, x: Tensor) -> Tensor:
        """(B, 1, n₁, n₂): the map's mean over each query patch, and the bias."""
        size, stride, window = self.patches.values()
        grid = WindowGrid(*x.shape[-2:], size, stride, window)
        return functional.avg_pool2d(grid.pad(self.temperature(x)), size, stride) + self.log_bias

    def _log_distance_scale(self, e: Tensor) -> Tensor:
        if self.training:
            return self.distance_scale(ops.window_distance_moments(e, e, **self.patches))
        return self.distance_scale()

    def _generator(self) -> torch.Generator | None:
        if self.selection != "concrete" or not self.training:
            return None
        # Seeded by the global generator: a run that sets that one has the same noise again.
        return torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))
