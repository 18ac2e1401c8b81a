"""The N³ block on point sets: features in, features and their K learned neighbours out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from n3match import ops


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

    Args:
        channels: feature channels F of the input.
        k: neighbours K.
        embedding_width, embedding_channels: size of the embedding and temperature networks.
    """

    def __init__(
        self, channels: int, k: int = 3, embedding_width: int = 128, embedding_channels: int = 32
    ):
        super().__init__()
        self.k = k
        self.embedding = point_network(channels, embedding_width, embedding_channels)
        self.temperature = point_network(channels, embedding_width, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, F), mask (B, N) bool -> (B, N, (K + 1)·F)."""
        embedding = self.embedding(x)
        z = ops.n3_aggregate(
            embedding, embedding, x, self.k, self.temperature(x), mask=mask, exclude_self=True
        )
        return torch.cat([x, z.flatten(2)], -1)
