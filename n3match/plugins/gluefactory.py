"""glue-factory: a filter for `TwoViewPipeline`, chosen by its dotted path.

    model:
      filter:
        name: n3match.plugins.gluefactory

`filter_batch` is the same on such a dictionary, and needs no glue-factory.

B pairs · N0, N1 keypoints
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from n3match.arguments import dense_tensor, instance, real_array
from n3match.geometry import guess_intrinsics
from n3match.matching import is_gradient_histogram, keypoint_change, side_info_of_matches
from n3match.nn import MatchFilter
from n3match.two_view import PairMatches, logits_of_many, probability

try:
    from gluefactory.models.base_model import BaseModel
except ImportError:
    BaseModel = None

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
_NEEDED = ("view0", "view1", "keypoints0", "keypoints1", "matches0")

if BaseModel is None:

    def __getattr__(name: str):
        if name not in ("N3MatchFilter", "__main_model__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise ImportError(
            f"{__name__}.{name} needs glue-factory: "
            "pip install git+https://github.com/cvg/glue-factory"
        )

else:

    class N3MatchFilter(BaseModel):
        """Rejects wrong matches: entries of `matches0` and `matches1` become −1.

        Takes `keypoints{0,1}` (B, N, 2), `matches0` (B, N0), and cameras from `view{0,1}`: its
        `camera`, else a guess from its `image_size` (B, 2) (focal length 1.2 × the longer side).
        `scales{0,1}`, `oris{0,1}` (radians) and `descriptors{0,1}` of SIFT are used where they are
        there.
        Returns `matches{0,1}` and `matching_scores{0,1}` (0 where rejected).

        glue-factory's keypoints and cameras agree on where pixel centres are: nothing is shifted.
        """

        default_conf: ClassVar[dict[str, Any]] = {
            "weights": "sift",  # shipped weights, or a file of weights
            "trainable": False,
        }
        required_data_keys: ClassVar[list[str]] = [*_NEEDED]

        def _init(self, conf):
            self.net = MatchFilter.from_pretrained(conf.weights)
            self.are_weights_initialized = True

        def train(self, mode: bool = True):
            """As in PyTorch; without `trainable` the filter stays in eval mode.

            Args:
                mode: True for training, False for eval mode.
            """
            # Normalisation statistics belong to the weights: the filter stays in eval mode.
            return super().train(mode and self.conf.trainable)

        @torch.no_grad()
        def _forward(self, data):
            return filter_batch(self.net, data)

        def loss(self, pred, data):
            """There is none, and glue-factory is told so.

            Args:
                pred, data: not looked at.

            Raises:
                NotImplementedError: always.
            """
            raise NotImplementedError  # glue-factory's sign for a component without a loss

    __main_model__ = N3MatchFilter


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
        `matching_scores1`, the filter's probabilities, 0 for none; on the device of `matches0`.

    Raises:
        ValueError: an entry that is missing or of another shape, a match past the keypoints,
            nothing that tells a camera. TypeError: an entry of another type.
    """
    instance("net", net, MatchFilter)
    instance("data", data, Mapping)
    missing = [key for key in _NEEDED if key not in data]
    if missing:
        raise ValueError(f"data: found {sorted(data)}, wanted {', '.join(missing)}, too")
    _check_shapes(data)
    matches0 = data["matches0"]
    points = [_calibrated(data, i) for i in (0, 1)]
    sizes_angles = [_sizes_angles(data, i) for i in (0, 1)]
    descriptors = [_array(data.get(f"descriptors{i}")) for i in (0, 1)]
    pixels = [data[f"keypoints{i}"].detach().cpu().double().numpy() for i in (0, 1)]
    focals = [_focals(data, i) for i in (0, 1)]
    joined, pairs = [], []
    for b, row in enumerate(matches0.detach().cpu().numpy()):
        index0 = np.flatnonzero(row >= 0)
        index1 = row[index0]
        if len(index1) and index1.max() >= points[1].shape[1]:
            raise ValueError(
                f"matches0: an index of {index1.max()}, but keypoints1 holds {points[1].shape[1]}"
            )
        change = None
        if all(found is not None for found in sizes_angles):
            change = keypoint_change(
                sizes_angles[0][b][index0], sizes_angles[1][b][index1],
                *(1.0 if focal is None else focal[b] for focal in focals),
            )
        side_info = None
        if all(found is not None for found in descriptors) and len(index0):
            desc0, desc1 = (d[b] for d in descriptors)
            if is_gradient_histogram(desc0) and is_gradient_histogram(desc1):
                side_info = side_info_of_matches(
                    net.side_info, index0, index1, pixels[0][b], desc0, pixels[1][b], desc1,
                    None if focals[1] is None else focals[1][b],
                )
        joined.append((index0, index1))
        pairs.append(PairMatches(points[0][b][index0], points[1][b][index1], side_info, change))
    kept0 = np.full(matches0.shape, -1, dtype=np.int64)
    kept1 = np.full((len(matches0), points[1].shape[1]), -1, dtype=np.int64)
    sure0, sure1 = np.zeros(kept0.shape, np.float32), np.zeros(kept1.shape, np.float32)
    for b, ((index0, index1), logits) in enumerate(zip(joined, logits_of_many(net, pairs))):
        keep = logits > 0
        first, second = index0[keep], index1[keep]
        sure = probability(logits[keep])
        kept0[b, first], sure0[b, first] = second, sure
        # Where several keypoints of image 0 share one of image 1, the best is its match.
        order = np.argsort(sure, kind="stable")
        kept1[b, second[order]], sure1[b, second[order]] = first[order], sure[order]
    found = {
        "matches0": kept0, "matches1": kept1,
        "matching_scores0": sure0, "matching_scores1": sure1,
    }
    return {key: torch.from_numpy(value).to(matches0.device) for key, value in found.items()}


def _check_shapes(data: Mapping) -> None:
    """Require tensors that belong together."""
    pairs, counts = None, []
    for i in (0, 1):
        instance(f"view{i}", data[f"view{i}"], Mapping)
        name = f"keypoints{i}"
        keypoints = dense_tensor(name, data[name])
        if keypoints.ndim != 3 or keypoints.shape[2] != 2 or keypoints.is_complex():
            raise ValueError(
                f"{name} must have shape (B, N, 2), got {keypoints.dtype} {tuple(keypoints.shape)}"
            )
        pairs = keypoints.shape[0] if pairs is None else pairs
        counts.append(keypoints.shape[1])
        wanted = {name: (pairs, counts[i], 2)}
        for what in ("scales", "oris"):
            wanted[f"{what}{i}"] = (pairs, counts[i])
        wanted[f"descriptors{i}"] = (pairs, counts[i], None)
        for entry, shape in wanted.items():
            if data.get(entry) is None:
                continue
            found = dense_tensor(entry, data[entry])
            known = tuple(n if m is None else m for n, m in zip(found.shape, shape))
            if tuple(found.shape) != known or found.ndim != len(shape) or found.is_complex():
                legend = "(B, N, D)" if None in shape else shape
                raise ValueError(
                    f"{entry} must have shape {legend}, got {found.dtype} {tuple(found.shape)}"
                )
            if entry[:-1] in ("scales", "oris") and not bool(found.isfinite().all()):
                raise ValueError(f"{entry} holds NaN or infinite numbers: finite numbers wanted")
    matches0 = dense_tensor("matches0", data["matches0"])
    if tuple(matches0.shape) != (pairs, counts[0]) or matches0.dtype not in _INTEGERS:
        raise ValueError(
            f"matches0 must be integers of shape (B, N0) = {(pairs, counts[0])}, "
            f"got {matches0.dtype} {tuple(matches0.shape)}"
        )


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
    centre, focal = _sizes(data, i)[:, None] / 2, _guessed_focals(data, i)[:, None, None]
    return (keypoints.detach().cpu().double().numpy() - centre) / focal


def _focals(data: dict, i: int) -> np.ndarray | None:
    """(B,) mean focal lengths in pixels; None where the camera doesn't tell."""
    view = data[f"view{i}"]
    camera = view.get("camera")
    if camera is not None:
        f = getattr(camera, "f", None)
        return None if f is None else f.detach().cpu().double().numpy().mean(-1)
    return _guessed_focals(data, i)


def _guessed_focals(data: Mapping, i: int) -> np.ndarray:
    """(B,) pixels."""
    return np.array([guess_intrinsics(size, name=f"view{i}")[0, 0] for size in _sizes(data, i)])


def _sizes(data: Mapping, i: int) -> np.ndarray:
    """(B, 2) widths and heights."""
    view, pairs = data[f"view{i}"], len(data[f"keypoints{i}"])
    if view.get("image_size") is None:
        raise ValueError(f"view{i}: has neither camera nor image_size, wanted one of them")
    sizes = real_array("image_size", view["image_size"])
    if sizes.shape not in ((2,), (1, 2), (pairs, 2)):
        raise ValueError(f"view{i}: image_size must have shape {(pairs, 2)}, got {sizes.shape}")
    return np.broadcast_to(sizes, (pairs, 2))


def _sizes_angles(data: dict, i: int) -> np.ndarray | None:
    """(B, N, 2) sizes and angles in degrees."""
    if data.get(f"scales{i}") is None or data.get(f"oris{i}") is None:
        return None
    scales, oris = (data[f"{key}{i}"].detach().cpu().double().numpy() for key in ("scales", "oris"))
    return np.stack([scales, np.degrees(oris) % 360.0], axis=-1)
