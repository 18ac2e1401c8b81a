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


COORDINATES = 4  # x0, y0, x1, y1


class PointN3Block(nn.Module):
    """Concatenates each match's features with those of its K soft nearest neighbours.

    The space in which neighbours are sought, and the temperature of each query, are learned by two
    small per-match networks; the matches of a pair are each other's candidates, self excluded
    (Plötz & Roth, NeurIPS 2018).

    With `consensus` the block also looks at where the neighbours are and how they move: the
    differences of their coordinates from the match's own, through a linear layer that starts at
    zero, are added to its output. True matches move like their neighbours, wrong ones seldom do.

    Args:
        channels: feature channels F of the input.
        k: neighbours K.
        embedding_width, embedding_channels: size of the embedding and temperature networks.
        consensus: see above.
    """

    def __init__(
        self,
        channels: int,
        k: int = 3,
        embedding_width: int = 128,
        embedding_channels: int = 32,
        consensus: bool = False,
    ):
        super().__init__()
        self.k = k
        self.embedding = point_network(channels, embedding_width, embedding_channels)
        self.temperature = point_network(channels, embedding_width, 1)
        self.consensus = None
        if consensus:
            self.consensus = nn.Linear(k * COORDINATES, (k + 1) * channels, bias=False)
            nn.init.zeros_(self.consensus.weight)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, coordinates: Tensor | None = None
    ) -> Tensor:
        """x (B, N, F), mask (B, N) bool -> (B, N, (K + 1)·F).

        `coordinates` (B, N, 4), x0, y0, x1, y1 of each match, are wanted with consensus alone.
        """
        embedding, temperature = self.embedding(x), self.temperature(x)
        with torch.autocast(x.device.type, enabled=False):
            # Under autocast the small networks answer in half precision, too coarse for distances.
            embedding, temperature = embedding.to(x.dtype), temperature.to(x.dtype)
            value = x if self.consensus is None else torch.cat([x, coordinates], -1)
            z = ops.n3_aggregate(
                embedding, embedding, value, self.k, temperature, mask=mask, exclude_self=True
            )
        features = z[..., : x.shape[-1]]
        out = torch.cat([x, features.flatten(2)], -1)
        if self.consensus is None:
            return out
        return out + self.consensus((z[..., x.shape[-1] :] - coordinates[..., None, :]).flatten(2))
