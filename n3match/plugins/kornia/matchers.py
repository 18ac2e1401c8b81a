"""Matchers in kornia's two forms: descriptors with LAFs, and whole images.

N0, N1 keypoints · D channels · NC matches of B pairs
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from n3match.matching import nearest_neighbors
from n3match.nn.match_filter import MatchFilter
from n3match.plugins.kornia.cameras import camera_batch
from n3match.plugins.kornia.lafs import filled
from n3match.plugins.kornia.match_filter import LocalFeatureMatchFilter
from n3match.plugins.kornia.tensors import check_together


class N3GeometryAwareMatcher(nn.Module):
    """Nearest neighbours and the filter, called as `kornia.feature.GeometryAwareDescriptorMatcher`.

    Args:
        filter: a shipped name, a path, or a `MatchFilter`.
    """

    def __init__(self, filter: MatchFilter | str | os.PathLike = "sift"):
        super().__init__()
        self.match_filter = LocalFeatureMatchFilter(filter)
        self.eval()

    def forward(
        self,
        desc1: Tensor,
        desc2: Tensor,
        lafs1: Tensor,
        lafs2: Tensor,
        hw1: tuple[int, int] | None = None,
        hw2: tuple[int, int] | None = None,
        K1: Tensor | None = None,
        K2: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            desc1, desc2: (N0, D), (N1, D).
            lafs1, lafs2: (1, N0, 2, 3), (1, N1, 2, 3); all-zero frames, with which kornia's
                detectors pad, are left out.
            hw1, hw2: (height, width) of the images, for a guess of the focal length and to check
                the keypoints.
            K1, K2: (3, 3) camera matrices in pixels; needed where the size isn't given.

        Returns:
            dists (NC, 1) in the descriptors' dtype: 1 − the filter's probability, below ½, lower
            is better; idxs (NC, 2) int64 into desc1 and desc2. Without a match (0, 1) and (0, 2).

        Raises:
            ValueError, TypeError: naming the argument.
        """
        check_together({"desc1": desc1, "desc2": desc2})
        check_together({"lafs1": lafs1, "lafs2": lafs2})
        for name, frames, descriptors in (("lafs1", lafs1, desc1), ("lafs2", lafs2, desc2)):
            if tuple(frames.shape) != (1, len(descriptors), 2, 3):
                raise ValueError(
                    f"{name} must have shape (1, N, 2, 3) with N = {len(descriptors)}, a frame "
                    f"for every descriptor, got {tuple(frames.shape)}"
                )
        cameras = (
            camera_batch("K1", K1, "hw1", hw1, 1),
            camera_batch("K2", K2, "hw2", hw2, 1),
        )
        index1, index2, ratio, mutual = _nearest(desc1, desc2, lafs1[0], lafs2[0])
        frames = lafs1[:, index1], lafs2[:, index2]
        logits = self.match_filter.logits(
            frames[0][0, :, :, 2],
            frames[1][0, :, :, 2],
            torch.zeros_like(index1),
            hw=(hw1, hw2),
            K=cameras,
            lafs=frames,
            ratio=ratio,
            mutual=mutual,
        )
        kept = logits > 0
        dists = torch.sigmoid(-logits[kept])[:, None].to(desc1.dtype)
        return dists, torch.stack((index1[kept], index2[kept]), 1)


class N3LocalFeatureMatcher(nn.Module):
    """In place of `kornia.feature.LocalFeatureMatcher(local_feature, matcher)`.

    It finds the nearest neighbours itself, so that the filter knows ratio and mutual flag of each.

    Args:
        local_feature: of kornia, image (B, C, H, W), mask → LAFs (B, N, 2, 3), responses (B, N),
            descriptors (B, N, D).
        filter: a shipped name, a path, or a `MatchFilter`.
    """

    def __init__(self, local_feature: nn.Module, filter: MatchFilter | str | os.PathLike = "sift"):
        super().__init__()
        self.local_feature = local_feature
        self.match_filter = LocalFeatureMatchFilter(filter)
        self.eval()

    def forward(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        Args:
            data: as for `LocalFeatureMatcher`: image0, image1 (B, C, H, W); optionally mask0,
                mask1, or lafs0, descriptors0, lafs1, descriptors1 extracted before; and K0, K1
                (B, 3, 3) or (3, 3) camera matrices.

        Returns:
            `LocalFeatureMatcher`'s dictionary of the kept matches, see `LocalFeatureMatchFilter`,
            and ratio and mutual (NC).

        Raises:
            ValueError, TypeError: naming the entry.
        """
        (lafs0, descs0), (lafs1, descs1) = self._features(data, "0"), self._features(data, "1")
        check_together({"descriptors0": descs0, "descriptors1": descs1})
        check_together({"lafs0": lafs0, "lafs1": lafs1})
        if len(lafs0) != len(lafs1):
            raise ValueError(
                f"image0 and image1 must hold the same number of images, "
                f"got {len(lafs0)} and {len(lafs1)}"
            )
        found: dict[str, list[Tensor]] = {
            name: [] for name in ("lafs0", "lafs1", "batch_indexes", "ratio", "mutual")
        }
        for b in range(len(lafs0)):
            index0, index1, ratio, mutual = _nearest(descs0[b], descs1[b], lafs0[b], lafs1[b])
            found["lafs0"].append(lafs0[b, index0])
            found["lafs1"].append(lafs1[b, index1])
            found["batch_indexes"].append(torch.full_like(index0, b))
            found["ratio"].append(ratio.to(lafs0.dtype))
            found["mutual"].append(mutual)
        matches = {name: torch.cat(parts) for name, parts in found.items()}
        for image in ("0", "1"):
            lafs = matches[f"lafs{image}"]
            matches[f"keypoints{image}"], matches[f"lafs{image}"] = lafs[..., 2], lafs[None]
        return self.match_filter(matches, data)

    def _features(self, data: Mapping[str, Tensor], image: str) -> tuple[Tensor, Tensor]:
        """LAFs (B, N, 2, 3) and descriptors (B, N, D), given or extracted."""
        if f"lafs{image}" in data and f"descriptors{image}" in data:
            lafs, descriptors = data[f"lafs{image}"], data[f"descriptors{image}"]
        else:
            mask = data.get(f"mask{image}")
            if mask is not None and mask.dim() == 3:
                mask = mask[:, None]
            lafs, _, descriptors = self.local_feature(data[f"image{image}"], mask)
        if lafs.ndim != 4 or lafs.shape[2:] != (2, 3) or lafs.shape[:2] != descriptors.shape[:2]:
            raise ValueError(
                f"lafs{image} must have shape (B, N, 2, 3), a frame for every descriptor, got "
                f"{tuple(lafs.shape)} for descriptors {tuple(descriptors.shape)}"
            )
        return lafs, descriptors


def _nearest(
    desc0: Tensor, desc1: Tensor, lafs0: Tensor, lafs1: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every keypoint of image 0 with its nearest of image 1, padding left out in both.

    Returns index0, index1 (NC) into what was given, ratio (NC) and mutual (NC) bool.
    """
    slots0, slots1 = (torch.nonzero(filled(lafs))[:, 0] for lafs in (lafs0, lafs1))
    found = nearest_neighbors(desc0[slots0].detach(), desc1[slots1].detach())
    if not len(slots1):
        slots0 = slots0[:0]
    index = found.index[: len(slots0)]
    return (
        slots0,
        slots1[index],
        found.ratio[: len(slots0)],
        found.mutual[: len(slots0)],
    )
