"""The N³ block on point sets: features in, features and their K learned neighbours out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from n3match import ops
from n3match.nn.consensus import MotionConsensus, bounded


class ResidualPointLayer(nn.Module):
    """x + relu(Linear(x)) per match, or without the sum where the widths differ."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.linear = nn.Linear(channels_in, channels_out)
        self.residual = channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.linear(x))
        return x + y if self.residual else y


def point_network(channels_in: int, width: int, channels_out: int) -> nn.Sequential:
    """Three per-match layers, `width` wide, the middle one residual, without normalisation."""
    return nn.Sequential(
        ResidualPointLayer(channels_in, width),
        ResidualPointLayer(width, width),
        nn.Linear(width, channels_out),
    )


class PointN3Block(nn.Module):
    """Concatenates each match's features with those of its K soft nearest neighbours.

    The space in which neighbours are sought, and the temperature of each query, are learned by two
    small per-match networks; the matches of a pair are each other's candidates, self excluded
    (Plötz & Roth, NeurIPS 2018).

    With `consensus` the matches' own columns count too: a linear map of them is added to the
    embedding, so that neighbours are sought by features and by place, and how the neighbours move
    (`MotionConsensus`) is added to the output. Both start at zero.

    Args:
        channels: feature channels F of the input.
        k: neighbours K.
        embedding_width, embedding_channels: size of the embedding and temperature networks.
        consensus: see above.
        keypoint_change: whether consensus sees the keypoints' change as well.
        min_log_temperature: smooth lower bound of log temperatures; None: none, as published.
    """

    def __init__(
        self,
        channels: int,
        k: int = 3,
        embedding_width: int = 128,
        embedding_channels: int = 32,
        consensus: bool = False,
        keypoint_change: bool = False,
        min_log_temperature: float | None = None,
    ):
        super().__init__()
        self.k, self.min_log_temperature = k, min_log_temperature
        self.embedding = point_network(channels, embedding_width, embedding_channels)
        self.temperature = point_network(channels, embedding_width, 1)
        self.consensus = None
        if consensus:
            self.consensus = MotionConsensus(k, (k + 1) * channels, keypoint_change)
            self.place = nn.Linear(self.consensus.columns, embedding_channels, bias=False)
            nn.init.zeros_(self.place.weight)

    @property
    def columns(self) -> int:
        """How many of a match's own columns it wants beside the features."""
        return 0 if self.consensus is None else self.consensus.columns

    def forward(
        self, x: Tensor, mask: Tensor | None = None, own: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            x: (B, N, F) features.
            mask: (B, N) bool, False for padding; None: all matches are real.
            own: (B, N, `columns`), wanted with consensus alone: x0, y0, x1, y1 of each match, and
                its keypoints' change where the network knows it.

        Returns:
            (B, N, (K + 1)·F).
        """
        embedding, temperature = self.embedding(x), self.temperature(x)
        with torch.autocast(x.device.type, enabled=False):
            # Under autocast the small networks answer in half precision, too coarse for distances.
            embedding = embedding.to(x.dtype)
            if self.consensus is not None:
                embedding = embedding + self.place(own)
            temperature = bounded(temperature.to(x.dtype), self.min_log_temperature)
            value = x if self.consensus is None else torch.cat([x, own], -1)
            z = ops.n3_aggregate(
                embedding, embedding, value, self.k, temperature, mask=mask, exclude_self=True
            )
        features = z[..., : x.shape[-1]]
        out = torch.cat([x, features.flatten(2)], -1)
        if self.consensus is None:
            return out
        return out + self.consensus(own, z[..., x.shape[-1] :])
