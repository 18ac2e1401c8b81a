"""A batch of pairs in glue-factory's dictionary, through the filter.

B pairs · N0, N1 keypoints
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from n3match.match_filter import MatchFilter
from n3match.matching.known_side import is_gradient_histogram, ratio_and_mutual
from n3match.matching.relative_shape import relative_shape
from n3match.ragged import PairMatches, score_pairs
from n3match.side_information import side_columns


def filter_batch(net: MatchFilter, data: dict) -> dict[str, Tensor]:
    """Filtered matches of a batch.

    Args:
        net: in eval mode.
        data: `view0`, `view1` (dictionaries with `camera` or `image_size`), `keypoints0` (B, N0,
            2), `keypoints1` (B, N1, 2), `matches0` (B, N0) with −1 for none, and, where known,
            `scales{0,1}`, `oris{0,1}` (B, N) (radians) and `descriptors{0,1}` (B, N, D), which
            are used where they are SIFT's. A camera has `image2cam(points)` and
            optionally `f` (focal lengths), as glue-factory's.

    Returns:
        `matches0` (B, N0), `matches1` (B, N1) int64, −1 for none, and `matching_scores0`,
        `matching_scores1` in [0, 1], 0 for none; on the device of `matches0`.

    Raises:
        ValueError: a match past the keypoints, or nothing that tells a camera.
    """
    matches0 = data["matches0"]
    points = [_calibrated(data, i) for i in (0, 1)]
    shapes = [_shapes(data, i) for i in (0, 1)]
    descriptors = [_array(data.get(f"descriptors{i}")) for i in (0, 1)]
    focals = [_focals(data, i, len(matches0)) for i in (0, 1)]
    joined, pairs = [], []
    for b, row in enumerate(matches0.detach().cpu().numpy()):
        index0 = np.flatnonzero(row >= 0)
        index1 = row[index0]
        if len(index1) and index1.max() >= points[1].shape[1]:
            raise ValueError(
                f"matches0: an index of {index1.max()}, but keypoints1 holds {points[1].shape[1]}"
            )
        shape = None
        if all(found is not None for found in shapes):
            shape = relative_shape(
                shapes[0][b][index0], shapes[1][b][index1], focals[0][b], focals[1][b]
            )
        side = None
        if all(found is not None for found in descriptors) and len(index0):
            pair = [d[b] for d in descriptors]
            if all(map(is_gradient_histogram, pair)):
                ratio, mutual = ratio_and_mutual(index0, index1, *pair)
                side = side_columns(net.side_information, ratio, mutual)
        joined.append((index0, index1))
        pairs.append(PairMatches(points[0][b][index0], points[1][b][index1], side, shape))
    kept0 = np.full(matches0.shape, -1, dtype=np.int64)
    kept1 = np.full((len(matches0), points[1].shape[1]), -1, dtype=np.int64)
    scores0, scores1 = np.zeros(kept0.shape, np.float32), np.zeros(kept1.shape, np.float32)
    for b, ((index0, index1), logits) in enumerate(zip(joined, score_pairs(net, pairs))):
        keep = logits > 0
        first, second = index0[keep], index1[keep]
        score = 0.5 * (1 + np.tanh(0.5 * logits[keep]))
        kept0[b, first], scores0[b, first] = second, score
        # Where several keypoints of image 0 share one of image 1, the best is its match.
        order = np.argsort(score, kind="stable")
        kept1[b, second[order]], scores1[b, second[order]] = first[order], score[order]
    found = {
        "matches0": kept0, "matches1": kept1,
        "matching_scores0": scores0, "matching_scores1": scores1,
    }
    return {key: torch.from_numpy(value).to(matches0.device) for key, value in found.items()}


def _array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().cpu().float().numpy()


def _calibrated(data: dict, i: int) -> np.ndarray:
    """(B, N, 2) float64 keypoints on z = 1."""
    keypoints, view = data[f"keypoints{i}"], data[f"view{i}"]
    if view.get("camera") is not None:
        x = view["camera"].image2cam(keypoints)
        if isinstance(x, tuple):  # with a mask of valid points, in some versions
            x = x[0]
        return x[..., :2].detach().cpu().double().numpy()
    size = _size(view, i)
    focal = 1.2 * size.max(-1, keepdims=True)[:, None]
    return (keypoints.detach().cpu().double().numpy() - size[:, None] / 2) / focal


def _focals(data: dict, i: int, count: int) -> np.ndarray:
    """(B,) mean focal lengths in pixels, to compare keypoint sizes."""
    view = data[f"view{i}"]
    camera = view.get("camera")
    if camera is not None:
        f = getattr(camera, "f", None)
        return np.ones(count) if f is None else f.detach().cpu().double().numpy().mean(-1)
    return 1.2 * _size(view, i).max(-1)


def _size(view: dict, i: int) -> np.ndarray:
    if view.get("image_size") is None:
        raise ValueError(f"view{i}: has neither camera nor image_size, wanted one of them")
    return torch.as_tensor(view["image_size"]).detach().cpu().double().numpy().reshape(-1, 2)


def _shapes(data: dict, i: int) -> np.ndarray | None:
    """(B, N, 2) sizes and angles in degrees."""
    if data.get(f"scales{i}") is None or data.get(f"oris{i}") is None:
        return None
    scales, oris = (data[f"{key}{i}"].detach().cpu().double().numpy() for key in ("scales", "oris"))
    return np.stack([scales, np.degrees(oris) % 360.0], axis=-1)
