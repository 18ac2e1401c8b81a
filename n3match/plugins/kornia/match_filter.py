"""The filter behind `kornia.feature.LocalFeatureMatcher`: its dictionary in, its dictionary out.

NC matches of B pairs in one list, as kornia returns them
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from n3match.arguments import dense_tensor, instance
from n3match.geometry import normalize_points
from n3match.geometry.checks import check_tensor
from n3match.matching import one_to_one
from n3match.matching.side_info import SIDE_INFO, side_info_columns
from n3match.nn.match_filter import MatchFilter
from n3match.plugins.kornia.cameras import camera_batch, check_keypoints
from n3match.plugins.kornia.lafs import keypoint_change
from n3match.plugins.kornia.ragged import Ragged
from n3match.plugins.kornia.tensors import check_device, check_together

Size = tuple[int, int] | None


class LocalFeatureMatchFilter(nn.Module):
    """Keeps the right ones of the matches that `kornia.feature.LocalFeatureMatcher` found.

    Give it all nearest neighbours (`DescriptorMatcher("nn")`, or "mnn"), not those of a ratio test.
    The pairs of a batch are filtered together, each by itself. The filter is on the CPU at first;
    `.to(device)` moves it.

    Args:
        filter: a shipped name, a path, or a `MatchFilter`, which becomes a part of this module.
    """

    def __init__(self, filter: MatchFilter | str | os.PathLike = "sift"):
        super().__init__()
        # A copy of its own: .to(device) must not move the filter of others.
        self.filter = (
            filter if isinstance(filter, MatchFilter) else MatchFilter.from_pretrained(filter)
        )
        self.eval()

    def forward(
        self, matches: Mapping[str, Tensor], data: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """
        Args:
            matches: keypoints0, keypoints1 (NC, 2) in pixels and batch_indexes (NC); lafs0, lafs1
                (1, NC, 2, 3) where there are any; and, where known, ratio (NC), nearest / second
                nearest descriptor distance, and mutual (NC), 1 where nearest in both directions,
                for filters that look at second nearest neighbours among the two nearest;
                besides these two, back_ratio, distance and apart (NC), see
                `n3match.matching.PutativeMatches`; index0, index1 (NC), which keypoints of each
                image are matched: for filters that look at second nearest neighbours, of whose
                kept matches that share a keypoint the likeliest stays.
            data: what `LocalFeatureMatcher` was given, of which the sizes of image0 and image1
                (B, C, H, W) are looked at; and, where known, K0, K1 (B, 3, 3) or (3, 3) camera
                matrices in pixels of these images. Without them the focal length is taken as
                1.2 × the longer side, the principal point as the centre.

        Returns:
            The same entries of the kept matches, in their order. confidence (NC') is the filter's
            probability, between ½ and 1.

        Raises:
            ValueError, TypeError: naming the entry, e.g. keypoints outside the image, K in other
            units than its pixels, tensors of several devices or dtypes.
        """
        for name, given in (("matches", matches), ("data", data)):
            instance(name, given, Mapping)
        keypoints0, keypoints1 = _entry(matches, "keypoints0"), _entry(matches, "keypoints1")
        sizes, pairs = [], None
        for name in ("image0", "image1"):
            image = data.get(name)
            if image is not None:
                check_tensor(name, image, None, None, None, None)
                pairs = len(image)
            sizes.append(None if image is None else tuple(image.shape[-2:]))
        batch_indexes = _batch_indexes(matches, keypoints0, pairs)
        if pairs is None:
            pairs = int(batch_indexes.max()) + 1 if len(batch_indexes) else 0
        logits = self.logits(
            keypoints0,
            keypoints1,
            batch_indexes,
            hw=tuple(sizes),
            K=tuple(
                camera_batch(name, data.get(name), image, size, pairs)
                for name, image, size in zip(("K0", "K1"), ("image0", "image1"), sizes)
            ),
            lafs=(matches.get("lafs0"), matches.get("lafs1")),
            known={name: matches[name] for name in SIDE_INFO if name in matches},
        )
        kept = logits > 0
        ends = ("index0", "index1")
        if self.filter.config.second_nearest and matches.keys() >= set(ends):
            numbers = (_keypoint_numbers(name, matches, batch_indexes) for name in ends)
            kept = likeliest(*numbers, logits)
        out = {
            name: matches[name][kept]
            for name in (
                "keypoints0", "keypoints1", "batch_indexes", "index0", "index1", *SIDE_INFO
            )
            if name in matches
        }
        out |= {name: matches[name][:, kept] for name in ("lafs0", "lafs1") if name in matches}
        out["confidence"] = torch.sigmoid(logits[kept]).to(keypoints0.dtype)
        return out

    def logits(
        self,
        keypoints0: Tensor,
        keypoints1: Tensor,
        batch_indexes: Tensor,
        *,
        hw: tuple[Size, Size],
        K: tuple[Tensor, Tensor],
        lafs: tuple[Tensor | None, Tensor | None] = (None, None),
        known: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The logit (NC) of every match: keep those above 0.

        Args:
            keypoints0, keypoints1, batch_indexes: as in `forward`.
            hw: (height, width) of image 0 and image 1, or None.
            K: (B, 3, 3) camera matrices of image 0 and image 1.
            lafs: (1, NC, 2, 3) of image 0 and image 1, or None.
            known: ratio, mutual, back_ratio, distance, apart of `forward`, where there are any.
        """
        check_together({"keypoints0": keypoints0, "keypoints1": keypoints1})
        for name, points, image, size in (
            ("keypoints0", keypoints0, "image0", hw[0]),
            ("keypoints1", keypoints1, "image1", hw[1]),
        ):
            if points.ndim != 2 or points.shape[1] != 2:
                raise ValueError(f"{name} must have shape (NC, 2), got {tuple(points.shape)}")
            check_keypoints(name, points, image, size)
        if len(keypoints0) != len(keypoints1):
            raise ValueError(
                f"keypoints0 and keypoints1 must hold the same number of points, "
                f"got {len(keypoints0)} and {len(keypoints1)}"
            )
        check_device("keypoints0", keypoints0, self.filter)
        count, device = len(keypoints0), keypoints0.device
        change = self._change(lafs, K, batch_indexes, count)
        side_info = self._side_info(known or {}, batch_indexes, K[1], count)
        if not count:
            return keypoints0.new_zeros(0)
        ragged = Ragged.of(batch_indexes)
        dtype = self.filter.dtype
        x0, x1 = (
            normalize_points(ragged.pad(points.double()), camera.to(device)[ragged.pairs])
            for points, camera in zip((keypoints0, keypoints1), K)
        )
        logits = self.filter.logits(
            x0.to(dtype),
            x1.to(dtype),
            None if side_info is None else ragged.pad(side_info.to(dtype)),
            ragged.mask,
            None if change is None else ragged.pad(change.to(dtype)),
        )
        return ragged.unpad(logits)

    def _change(self, lafs, K, batch_indexes: Tensor, count: int) -> Tensor | None:
        if (lafs[0] is None) != (lafs[1] is None):
            raise ValueError("lafs0 and lafs1: found one of them, wanted both or neither")
        if lafs[0] is None:
            return None
        check_together({"lafs0": lafs[0], "lafs1": lafs[1]})
        for name, frames in zip(("lafs0", "lafs1"), lafs):
            if tuple(frames.shape) != (1, count, 2, 3):
                raise ValueError(
                    f"{name} must have shape (1, NC, 2, 3) with NC = {count}, "
                    f"got {tuple(frames.shape)}"
                )
        focal0, focal1 = ((k[:, 0, 0] + k[:, 1, 1]).to(batch_indexes.device) / 2 for k in K)
        ratio = (focal0 / focal1)[batch_indexes]
        change = keypoint_change(lafs[0][0].double(), lafs[1][0].double(), ratio)
        if not bool(change.isfinite().all()):
            raise ValueError("lafs0 and lafs1 hold a frame without a finite scale and angle")
        return change

    def _side_info(
        self, known: Mapping[str, Tensor], batch_indexes: Tensor, K1: Tensor, count: int
    ) -> Tensor | None:
        """(NC, S) columns that the filter asks for; None where a ratio or mutual flag that it asks
        for isn't known: it learnt to have either both or none."""
        for name, column in known.items():
            if dense_tensor(name, column).is_complex():
                raise TypeError(f"{name} must be real numbers, got {column.dtype}")
            if tuple(column.shape) != (count,):
                raise ValueError(
                    f"{name} must have shape (NC) with NC = {count}, got {tuple(column.shape)}"
                )
        wanted = self.filter.side_info
        if not wanted or not {"ratio", "mutual"}.intersection(wanted) <= known.keys():
            return None
        arrays = {"ratio": np.ones(count), "mutual": np.zeros(count)}
        arrays |= {name: column.detach().double().cpu().numpy() for name, column in known.items()}
        index = batch_indexes.cpu().numpy()
        columns = np.empty((count, len(wanted)))
        for pair in np.unique(index):  # distances are compared within a pair
            rows = index == pair
            columns[rows] = side_info_columns(
                wanted, **{name: array[rows] for name, array in arrays.items()},
                focal1=float(K1[pair, 0, 0] + K1[pair, 1, 1]) / 2,
            )
        return torch.from_numpy(columns).to(batch_indexes.device)


def likeliest(index0: Tensor, index1: Tensor, logits: Tensor) -> Tensor:
    """(NC) bool: `n3match.matching.one_to_one` of tensors."""
    arrays = (index0, index1, logits.detach().double())
    kept = one_to_one(*(array.cpu().numpy() for array in arrays))
    return torch.from_numpy(kept).to(logits.device)


def _keypoint_numbers(
    name: str, matches: Mapping[str, Tensor], batch_indexes: Tensor
) -> Tensor:
    """(NC) which keypoints are matched, those of other pairs of the batch told apart."""
    index = _entry(matches, name)
    if index.dtype != torch.int64 or index.shape != batch_indexes.shape:
        raise ValueError(
            f"{name} must be int64 of shape (NC) = {tuple(batch_indexes.shape)}, "
            f"got {index.dtype} {tuple(index.shape)}"
        )
    count = int(index.max()) + 1 if len(index) else 1
    return index + count * batch_indexes.to(index.device)


def _entry(matches: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in matches:
        raise ValueError(f"matches: found {sorted(matches)}, wanted {name}, too")
    return dense_tensor(name, matches[name])


def _batch_indexes(matches: Mapping[str, Tensor], keypoints: Tensor, pairs: int | None) -> Tensor:
    index = _entry(matches, "batch_indexes")
    if index.dtype != torch.int64 or index.shape != keypoints.shape[:1]:
        raise ValueError(
            f"batch_indexes must be int64 of shape (NC) = {tuple(keypoints.shape[:1])}, "
            f"got {index.dtype} {tuple(index.shape)}"
        )
    if index.device != keypoints.device:
        raise ValueError(
            f"batch_indexes: found it on {index.device}, wanted it on {keypoints.device} as "
            "keypoints0"
        )
    if len(index) and (int(index.min()) < 0 or (pairs is not None and int(index.max()) >= pairs)):
        raise ValueError(
            f"batch_indexes runs from {int(index.min())} to {int(index.max())}, but image0 holds "
            f"{pairs} images"
        )
    return index
