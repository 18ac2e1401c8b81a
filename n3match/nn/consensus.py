"""Do a match's neighbours move as it does? What N³ neighbours say beside their features.

True matches near each other move alike, up to perspective: by the turn and change of size that
their keypoints show. That test is old (GMS, LPM, AdaLAM); here its neighbours are those of the N³
block, sought in a learned space, so that the search is trained with it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from n3match import ops
from n3match.matching.side_info import CHANGE_COLUMNS
from n3match.nn.config import COORDINATES

_SMALLEST = 1e-5  # squared calibrated units: a distance of 3e-3, a few pixels
_HIDDEN = 64
_EMBEDDING = 16  # channels of the space of places
_SHARPNESS = 4.0  # of the bend of `bounded`
_NEAR = 0.05  # calibrated units: neighbours are about so near at the start


class MotionConsensus(nn.Module):
    """What K neighbours' motions say of each match, through a small network that starts at zero.

    Of each neighbour it sees the displacement from the match in both images, how far the second is
    from the first turned and scaled as the match's own keypoints are (from the first itself where
    that isn't known), the logarithms of these three lengths, and how the keypoints' changes differ.

    Args:
        k: neighbours K.
        channels_out: of the answer.
        keypoint_change: whether matches come with their keypoints' change, three more columns.
    """

    def __init__(self, k: int, channels_out: int, keypoint_change: bool):
        super().__init__()
        self.columns = COORDINATES + (CHANGE_COLUMNS if keypoint_change else 0)
        per_neighbour = 2 * 3 + 3 + self.columns - COORDINATES
        self.hidden = nn.Linear(k * per_neighbour, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, channels_out, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, own: Tensor, neighbours: Tensor) -> Tensor:
        """own (B, N, C), neighbours (B, N, K, C), C = `columns` -> (B, N, channels_out)."""
        features = motion_features(own, neighbours)
        return self.out(torch.relu(self.hidden(features.flatten(2))))


class LocalConsensus(nn.Module):
    """A look at the neighbours before the first block: what their motions say of each match.

    Neighbours are those of the N³ operator in a learned linear map of what is known of each match.
    It starts as the place in both images, so that a right match has right ones for neighbours where
    most are wrong; the answer starts at zero.

    Args:
        columns: numbers C known of each match, calibrated x0, y0, x1, y1 first.
        channels_out: of the answer.
        keypoint_change: whether `own` in the call has the keypoints' change.
        k: neighbours.
        min_log_temperature: see `bounded`.
    """

    def __init__(
        self, columns: int, channels_out: int, keypoint_change: bool, k: int = 4,
        min_log_temperature: float | None = None,
    ):
        super().__init__()
        self.k, self.min_log_temperature = k, min_log_temperature
        self.place = nn.Linear(columns, _EMBEDDING, bias=False)
        self.temperature = nn.Linear(columns, 1)
        self.motion = MotionConsensus(k, channels_out, keypoint_change)
        nn.init.zeros_(self.temperature.weight)
        nn.init.zeros_(self.temperature.bias)
        with torch.no_grad():
            self.place.weight.zero_()
            self.place.weight[:COORDINATES, :COORDINATES].copy_(torch.eye(COORDINATES) / _NEAR)

    def forward(self, matches: Tensor, own: Tensor, mask: Tensor | None) -> Tensor:
        """matches (B, N, C), own (B, N, 4 or 7), mask (B, N) bool -> (B, N, channels_out)."""
        with torch.autocast(matches.device.type, enabled=False):  # distances need their digits
            place = self.place(matches)
            temperature = bounded(self.temperature(matches), self.min_log_temperature)
            neighbours = ops.n3_aggregate(
                place, place, own, self.k, temperature, mask=mask, exclude_self=True
            )
        return self.motion(own, neighbours)


def bounded(log_t: Tensor, min_log_temperature: float | None) -> Tensor:
    """Log temperatures, smoothly kept above a bound; the same well above it, or without one.

    Where a certain choice pays off, training makes temperatures ever colder, until the choice is
    hard: then the embedding gets no gradient any more, and nothing better is found.
    """
    if min_log_temperature is None:
        return log_t
    return min_log_temperature + functional.softplus(log_t - min_log_temperature, beta=_SHARPNESS)


def motion_features(own: Tensor, neighbours: Tensor) -> Tensor:
    """(B, N, C) and (B, N, K, C), C = 4 or 7 columns -> (B, N, K, C + 5).

    C: calibrated x0, y0, x1, y1; cosine, sine and log scale of the keypoints' change (zeros: not
    known), see `n3match.matching.keypoint_change`.
    """
    difference = neighbours - own[..., None, :]
    moved0, moved1 = difference[..., :2], difference[..., 2:4]
    expected = moved0
    if own.shape[-1] > COORDINATES:
        cosine, sine, log_scale = own[..., None, COORDINATES:].unbind(-1)
        known = cosine.square() + sine.square() > 0.5
        scale = log_scale.exp()
        a = torch.where(known, cosine, 1.0) * scale
        b = torch.where(known, sine, 0.0) * scale
        x, y = moved0.unbind(-1)
        expected = torch.stack([a * x - b * y, b * x + a * y], -1)
    residual = moved1 - expected
    lengths = [
        (v.square().sum(-1, keepdim=True) + _SMALLEST).log() / 5 + 1
        for v in (moved0, moved1, residual)
    ]
    return torch.cat([difference, residual, *lengths], -1)
