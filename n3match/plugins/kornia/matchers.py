"""Matchers in kornia's two forms: descriptors with LAFs, and whole images.

N0, N1 keypoints · D channels · NC matches of B pairs
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from n3match.arguments import dense_tensor, instance
from n3match.geometry.checks import check_tensor
from n3match.matching import putative_matches
from n3match.matching.side_info import SIDE_INFO
from n3match.nn.config import MatchFilterConfig
from n3match.nn.match_filter import MatchFilter
from n3match.plugins.kornia.cameras import camera_batch, check_keypoints
from n3match.plugins.kornia.lafs import filled
from n3match.plugins.kornia.match_filter import LocalFeatureMatchFilter, likeliest
from n3match.plugins.kornia.tensors import check_finite, check_together


class N3GeometryAwareMatcher(nn.Module):
    """Nearest neighbours and the filter, called as `kornia.feature.GeometryAwareDescriptorMatcher`.

    In the place of the matcher in `kornia.feature.LocalFeatureMatcher(local_feature, matcher)` it
    is called with descriptors alone. From the moment that it is put there it notes the frames and
    the image size of what that module's `local_feature` finds, so that it works there as well.

    Args:
        filter: a shipped name, a path, or a `MatchFilter`.
    """

    def __init__(self, filter: MatchFilter | str | os.PathLike = "sift"):
        super().__init__()
        self.match_filter = LocalFeatureMatchFilter(filter)
        self._noted: list[_Noted] = []
        _watch_for_parents()
        self.eval()

    def forward(
        self,
        desc1: Tensor,
        desc2: Tensor,
        lafs1: Tensor | None = None,
        lafs2: Tensor | None = None,
        hw1: tuple[int, int] | None = None,
        hw2: tuple[int, int] | None = None,
        K1: Tensor | None = None,
        K2: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            desc1, desc2: (N0, D), (N1, D).
            lafs1, lafs2: (1, N0, 2, 3), (1, N1, 2, 3); all-zero frames, with which kornia's
                detectors pad, are left out. None: those noted, see above.
            hw1, hw2: (height, width) of the images, for a guess of the focal length and to check
                the keypoints. None: unless it is noted or K is given, the keypoints' extent, as
                AdaLAM takes it.
            K1, K2: (3, 3) camera matrices in pixels; None: focal length 1.2 × the longer side.

        Returns:
            dists (NC, 1) in the descriptors' dtype: 1 − the filter's probability, below ½, lower
            is better; idxs (NC, 2) int64 into desc1 and desc2. Without a match (0, 1) and (0, 2).

        Raises:
            ValueError, TypeError: naming the argument.
        """
        check_together({"desc1": desc1, "desc2": desc2})
        for name, descriptors in (("desc1", desc1), ("desc2", desc2)):
            if descriptors.ndim != 2:
                raise ValueError(f"{name} must have shape (N, D), got {tuple(descriptors.shape)}")
        if desc1.shape[1] != desc2.shape[1]:
            raise ValueError(
                f"desc2: found {desc2.shape[1]} channels, wanted {desc1.shape[1]} as in desc1"
            )
        if lafs1 is None and lafs2 is None:
            lafs1, lafs2, hw1, hw2 = self._frames_of(desc1, desc2, hw1, hw2)
        check_together({"lafs1": lafs1, "lafs2": lafs2})
        for name, frames, descriptors in (("lafs1", lafs1, desc1), ("lafs2", lafs2, desc2)):
            if tuple(frames.shape) != (1, len(descriptors), 2, 3):
                raise ValueError(
                    f"{name} must have shape (1, N, 2, 3) with N = {len(descriptors)}, a frame "
                    f"for every descriptor, got {tuple(frames.shape)}"
                )
        check_finite({"desc1": desc1, "desc2": desc2, "lafs1": lafs1, "lafs2": lafs2})
        cameras = tuple(
            camera_batch(name, K, size_name, _extent(lafs) if K is hw is None else hw, 1)
            for name, K, size_name, hw, lafs in (
                ("K1", K1, "hw1", hw1, lafs1), ("K2", K2, "hw2", hw2, lafs2)
            )
        )
        for name, frames, size_name, hw in (
            ("lafs1", lafs1, "hw1", hw1), ("lafs2", lafs2, "hw2", hw2)
        ):
            check_keypoints(name, frames[0, :, :, 2], size_name, hw)
        config = self.match_filter.filter.config
        found = _nearest(desc1, desc2, lafs1[0], lafs2[0], config)
        index1, index2 = found.pop("index0"), found.pop("index1")
        frames = lafs1[:, index1], lafs2[:, index2]
        logits = self.match_filter.logits(
            frames[0][0, :, :, 2],
            frames[1][0, :, :, 2],
            torch.zeros_like(index1),
            hw=(hw1, hw2),
            K=cameras,
            lafs=frames,
            known=found,
        )
        kept = likeliest(index1, index2, logits) if config.second_nearest else logits > 0
        dists = torch.sigmoid(-logits[kept])[:, None].to(desc1.dtype)
        return dists, torch.stack((index1[kept], index2[kept]), 1)

    def _note(self, _, images: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> None:
        """The hook of a `local_feature`: what it found in two batches of images is held."""
        lafs, _, descriptors = found
        noted = _Noted(lafs, descriptors, tuple(images[0].shape[-2:]))
        self._noted = [*self._noted[-1:], noted]

    def _frames_of(self, desc1: Tensor, desc2: Tensor, hw1, hw2) -> tuple:
        """Frames and sizes of the images that these descriptors are of."""
        found = []
        # The first image's descriptors are the earlier ones, unless both are of one image.
        for descriptors, order in ((desc1, 1), (desc2, -1)):
            for noted in self._noted[::order]:
                lafs = noted.frames_of(descriptors)
                if lafs is not None:
                    found.append((lafs, noted.hw))
                    break
        if len(found) < 2:
            raise ValueError(
                "lafs1 and lafs2: found None, wanted frames: these descriptors were not found by "
                "the local_feature of a LocalFeatureMatcher around this matcher; "
                "N3LocalFeatureMatcher takes features that were extracted before"
            )
        (lafs1, size1), (lafs2, size2) = found
        return lafs1, lafs2, size1 if hw1 is None else hw1, size2 if hw2 is None else hw2


@dataclass(frozen=True)
class _Noted:
    """Frames (B, N, 2, 3) and descriptors (B, N, D) of B images, and their (height, width)."""

    lafs: Tensor
    descriptors: Tensor
    hw: tuple[int, int]

    def frames_of(self, descriptors: Tensor) -> Tensor | None:
        """(1, M, 2, 3) frames of the image that has these (M, D) descriptors beside its padding."""
        for lafs, own in zip(self.lafs, self.descriptors):
            real = filled(lafs)
            if int(real.sum()) == len(descriptors) and torch.equal(own[real], descriptors):
                return lafs[real][None]
        return None


@functools.cache
def _watch_for_parents() -> None:
    """Has every N3GeometryAwareMatcher listen to the `local_feature` of a module it is put in.

    Kornia's module tells its matcher nothing of the frames, and the matcher nothing of itself; that
    it is put there is all there is to go by.
    """

    def registered(parent: nn.Module, _, child: nn.Module | None) -> None:
        if isinstance(child, N3GeometryAwareMatcher):
            feature = parent._modules.get("local_feature")
            if feature is not None:
                feature.register_forward_hook(child._note)

    register_module_module_registration_hook(registered)


def _extent(lafs: Tensor) -> tuple[int, int]:
    """(height, width) of an image that is no larger than its keypoints (1, N, 2, 3) need."""
    if not lafs.shape[1]:
        return 1, 1
    x, y = (int(most) for most in lafs[0, :, :, 2].detach().double().amax(0).clamp(min=0).ceil())
    return y + 1, x + 1


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
            and what is known of each match (NC): index0 and index1 among the features, ratio,
            mutual, back_ratio, distance and apart. A filter that looks at second nearest neighbours
            gets them, too; mutual is then 1 for all that are among the two nearest both ways.

        Raises:
            ValueError, TypeError: naming the entry.
        """
        instance("data", data, Mapping)
        (lafs0, descs0), (lafs1, descs1) = self._features(data, "0"), self._features(data, "1")
        check_together({"descriptors0": descs0, "descriptors1": descs1})
        check_together({"lafs0": lafs0, "lafs1": lafs1})
        check_finite(
            {"descriptors0": descs0, "descriptors1": descs1, "lafs0": lafs0, "lafs1": lafs1}
        )
        if descs0.shape[2] != descs1.shape[2]:
            raise ValueError(
                f"descriptors1: found {descs1.shape[2]} channels, wanted {descs0.shape[2]} as in "
                "descriptors0"
            )
        if len(lafs0) != len(lafs1):
            raise ValueError(
                f"image0 and image1 must hold the same number of images, "
                f"got {len(lafs0)} and {len(lafs1)}"
            )
        found: dict[str, list[Tensor]] = {
            name: [] for name in ("lafs0", "lafs1", "batch_indexes", "index0", "index1", *SIDE_INFO)
        }
        config = self.match_filter.filter.config
        for b in range(len(lafs0)):
            known = _nearest(descs0[b], descs1[b], lafs0[b], lafs1[b], config)
            index0, index1 = known["index0"], known["index1"]
            known |= {
                "lafs0": lafs0[b, index0], "lafs1": lafs1[b, index1],
                "batch_indexes": torch.full_like(index0, b),
            }
            for name, values in known.items():
                found[name].append(values)
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
            if mask is not None and dense_tensor(f"mask{image}", mask).dim() == 3:
                mask = mask[:, None]
            if f"image{image}" not in data:
                raise ValueError(
                    f"data: found {sorted(data)}, wanted image{image}, or lafs{image} and "
                    f"descriptors{image}, too"
                )
            check_tensor(f"image{image}", data[f"image{image}"], None, None, None, None)
            lafs, _, descriptors = self.local_feature(data[f"image{image}"], mask)
        for name, given in (("lafs", lafs), ("descriptors", descriptors)):
            check_tensor(f"{name}{image}", given)
        if descriptors.ndim != 3:
            raise ValueError(
                f"descriptors{image} must have shape (B, N, D), got {tuple(descriptors.shape)}"
            )
        if lafs.ndim != 4 or lafs.shape[2:] != (2, 3) or lafs.shape[:2] != descriptors.shape[:2]:
            raise ValueError(
                f"lafs{image} must have shape (B, N, 2, 3), a frame for every descriptor, got "
                f"{tuple(lafs.shape)} for descriptors {tuple(descriptors.shape)}"
            )
        return lafs, descriptors


def _nearest(
    desc0: Tensor, desc1: Tensor, lafs0: Tensor, lafs1: Tensor, config: MatchFilterConfig
) -> dict[str, Tensor]:
    """Every keypoint of image 0 with its nearest of image 1, padding left out in both; and with its
    second nearest, as `putative_matches` has them, where the filter wants them.

    Returns index0, index1 (NC) into what was given, and the entries of SIDE_INFO as
    `LocalFeatureMatchFilter.forward` takes them, in the dtype of the frames.
    """
    slots0, slots1 = (torch.nonzero(filled(lafs))[:, 0] for lafs in (lafs0, lafs1))
    points0, points1 = (
        lafs[slots, :, 2].detach().double().cpu().numpy()
        for lafs, slots in ((lafs0, slots0), (lafs1, slots1))
    )
    second_nearest = config.wants_second(len(points0))
    found = putative_matches(
        points0, desc0[slots0].detach(), points1, desc1[slots1].detach(),
        second_nearest=second_nearest,
    )
    if second_nearest:
        found = replace(found, mutual=found.near_mutual)
    index0, index1 = (torch.from_numpy(i).to(lafs0.device) for i in (found.index0, found.index1))
    known = {
        name: torch.from_numpy(getattr(found, name)).to(lafs0.device) for name in SIDE_INFO
    }
    for name, values in known.items():
        if values.is_floating_point():
            known[name] = values.to(lafs0.dtype)
    return known | {"index0": slots0[index0], "index1": slots1[index1]}
