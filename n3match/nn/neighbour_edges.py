"""What a match's neighbours in a learned space say of it: edges to them, in order of nearness."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from n3match import ops
from n3match.nn.consensus import COORDINATES, bounded, motion_features

_NEAR = 0.05  # calibrated units: neighbours are about so near at the start
_MOTION = 5  # columns of `motion_features` beside the differences of a match's own


class NeighbourEdges(nn.Module):
    """K neighbours of each match among all, and what the edges to them say.

    Neighbours are sought in a learned map of features and place: at the start by place in both
    images, so that a right match has right ones for neighbours where most are wrong. An edge shows
    how the neighbour's features differ from the match's own, and whether it moves as the match
    does (`consensus.motion_features`). A layer looks at each edge, another at all K in their order:
    the K distributions of the operator are ordered, nearest first.

    Args:
        columns: numbers C known of each match, calibrated x0, y0, x1, y1 first.
        width: of the features.
        shape_at: columns that hold the change of the keypoints' shape; empty where there is none.
        k: neighbours K.
        embedding_channels, value_channels: of the learned space, and of the features shown.
        selection: of `ops.n3_aggregate`. With noise ("concrete") in training alone.
        coldest: lower bound of log temperatures, see `consensus.bounded`.
    """

    def __init__(
        self,
        columns: int,
        width: int,
        shape_at: slice,
        *,
        k: int,
        embedding_channels: int,
        value_channels: int,
        selection: str,
        coldest: float | None,
    ):
        super().__init__()
        self.k, self.selection, self.coldest, self.shape_at = k, selection, coldest, shape_at
        self.embedding = nn.Linear(width, embedding_channels, bias=False)
        self.place = nn.Linear(columns, embedding_channels, bias=False)
        self.temperature = nn.Linear(width, 1)
        self.value = nn.Linear(width, value_channels)
        own = COORDINATES + shape_at.stop - shape_at.start
        self.edge = nn.Linear(value_channels + own + _MOTION, value_channels)
        self.own = nn.Linear(value_channels, value_channels)
        self.out = nn.Linear(k * value_channels, width)
        nn.init.zeros_(self.temperature.weight)
        nn.init.zeros_(self.temperature.bias)
        with torch.no_grad():
            self.place.weight.zero_()
            size = min(COORDINATES, embedding_channels)
            self.place.weight[:size, :size].copy_(torch.eye(size) / _NEAR)

    def forward(self, x: Tensor, matches: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, width), matches (B, N, C), mask (B, N) bool or None -> (B, N, width)."""
        own = torch.cat([matches[..., :COORDINATES], matches[..., self.shape_at]], -1)
        value = self.value(x)
        embedding, temperature = self.embedding(x), self.temperature(x)
        with torch.autocast(x.device.type, enabled=False):  # distances need their digits
            embedding = embedding.to(matches.dtype) + self.place(matches)
            temperature = bounded(temperature.to(matches.dtype), self.coldest)
            shown = torch.cat([value.to(matches.dtype), own], -1)
            z = ops.n3_aggregate(
                embedding, embedding, shown, self.k, temperature, mask=mask, exclude_self=True,
                selection=self.selection, generator=self._noise(),
            )  # fmt: skip
        channels = value.shape[-1]
        edges = torch.cat(
            [z[..., :channels] - value[..., None, :], motion_features(own, z[..., channels:])], -1
        )
        seen = torch.relu(self.edge(edges) + self.own(value)[..., None, :])
        return torch.relu(self.out(seen.flatten(2)))

    def _noise(self) -> torch.Generator | None:
        if self.selection != "concrete" or not self.training:
            return None
        # Seeded by the global generator: a run that sets that one has the same noise again.
        return torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))
