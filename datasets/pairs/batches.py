"""Pairs as a batch for training: padded to one length (torch)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def collate(samples: Sequence[dict]) -> dict[str, torch.Tensor]:
    """Samples (sample.py) of one or more pairs, padded with zeros to the longest.

    Returns:
        float32 ``points0`` (B, N, 2), ``points1`` (B, N, 2), ``side_info`` (B, N, 5),
        ``keypoint_change`` (B, N, 3), ``distances`` (B, N), ``R`` (B, 3, 3), ``t`` (B, 3), ``E``
        (B, 3, 3), and bool ``mask`` (B, N), true where there is a match.
    """
    if not samples:
        raise ValueError("samples: got none, wanted at least one")
    longest = max(len(sample["x"]) for sample in samples)

    def padded(key: str) -> torch.Tensor:
        arrays = [sample[key] for sample in samples]
        rows = np.zeros((len(samples), longest, *arrays[0].shape[1:]), np.float32)
        for row, array in zip(rows, arrays):
            row[: len(array)] = array
        return torch.from_numpy(rows)

    x = padded("x")
    counts = torch.tensor([len(sample["x"]) for sample in samples])
    return {
        "points0": x[..., :2].contiguous(),
        "points1": x[..., 2:].contiguous(),
        **{key: padded(key) for key in ("side_info", "keypoint_change", "distances")},
        "mask": torch.arange(longest) < counts[:, None],
        **{
            key: torch.from_numpy(np.float32([sample[key] for sample in samples]))
            for key in ("R", "t", "E")
        },
    }
