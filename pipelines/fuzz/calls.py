"""Every public function and method, with valid arguments for it.

A new public function has to be told of here, or, with a reason, in `EXEMPT`: a test compares this
table with what is public.
"""

from __future__ import annotations

import atexit
import dataclasses
import inspect
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch

from n3match.matching import FEATURES, PutativeMatches, putative_matches
from n3match.matching.side_info import SIDE_INFO
from n3match.nn import MatchFilterConfig, N3NetConfig
from n3match.pipelines.fuzz.damage import damage_some
from n3match.pipelines.fuzz.draws import SIZE, Draw, tiny_denoiser, tiny_filter
from n3match.pipelines.fuzz.outcomes import GOOD, judge_error, judge_result
from n3match.pipelines.fuzz.words import command_lines

#: Where public names are.
MODULES = (
    "n3match", "n3match.ops", "n3match.nn", "n3match.geometry", "n3match.matching",
    "n3match.denoising", "n3match.export", "n3match.weights", "n3match.plugins.opencv",
    "n3match.plugins.kornia", "n3match.plugins.hloc", "n3match.plugins.colmap",
    "n3match.plugins.gluefactory", "n3match.plugins.vismatch", "n3match.datasets",
)  # fmt: skip

_RECORD = "a record: it holds what it is given"
_FILES = "reads or writes files: see files.py"
_PART = "a part of a network, which checks for it what comes in"
#: What isn't called here, and why.
EXEMPT = {
    **dict.fromkeys(
        (
            "FundamentalMatrix", "RelativePose", "FilterOutput", "Features", "Matches",
            "PutativeMatches", "HlocFeatures", "HlocPair", "ColmapCamera", "ColmapImage",
            "ColmapModel", "ColmapModel.camera_of", "DatabaseKeypoints", "PairResult",
            "TwoViewGeometry", "PairRecord", "PairRecord.with_second", "PairRecord.split",
            "ReadOptions",
        ),
        _RECORD,
    ),
    **dict.fromkeys(
        (
            "MatchFilter.from_pretrained", "Denoiser.from_pretrained", "load_weights",
            "save_weights", "find", "ColmapDatabase", "NewColmapDatabase", "has_colmap_model",
            "read_colmap_model", "read_colmap_points", "CleanImages", "PairDataset",
            "PairStoreWriter", "find_scenes", "open_store", "read_scene", "export_onnx",
            *(f"ColmapDatabase.{name}" for name in (
                "close", "check_writable", "cameras", "unsupported_cameras", "images", "keypoints",
                "descriptors", "pairs", "matches", "write", "copy_to")),
            *(f"NewColmapDatabase.{name}" for name in (
                "add_camera", "add_image", "add_keypoints", "add_pair")),
            "CleanImages.crops", "PairDataset.record", "PairDataset.close",
            *(f"PairStoreWriter.{name}" for name in (
                "part_path", "has_part", "begin", "write_part", "finish")),
        ),
        _FILES,
    ),
    **dict.fromkeys(
        (
            "ContextNormReLU", "ContextNormReLU.forward", "ContextNormReLU.in_place", "DnCNN",
            "DnCNN.forward", "ImageN3Block", "ImageN3Block.forward",
            "ImageN3Block.without_neighbours", "PointN3Block", "PointN3Block.forward",
            "N3Net.stage", "N3Net.reach", "N3Net.matching_image", "N3Net.check_input",
            "N3Net.planes_of", "N3Net.image_of", "N3Net.train", "LocalFeatureMatchFilter.logits",
        ),
        _PART,
    ),
    **dict.fromkeys(
        ("MatchFilter", "N3Net", "Denoiser"), "built from a configuration, which checks itself"
    ),
    **dict.fromkeys(
        ("LocalFeatureMatchFilter", "N3GeometryAwareMatcher", "N3LocalFeatureMatcher",
         "WeightedEightPoint", "FilteredMatcher"),
        "made here before it is called",
    ),
    **dict.fromkeys(("backends", "shipped", "N3Matcher.clearPairInfo", "N3Matcher.isMaskSupported"),
                    "has no arguments"),
    **dict.fromkeys(("default_denoiser", "default_filter"), "chooses one of two names"),
    "PoseStatus": "names of statuses",
    "UnsupportedCamera": "an error",
    "export_program": "takes seconds, and a filter alone",
    "input_names": "takes a filter alone",
    **dict.fromkeys(("augment", "collate", "Augmentation", "SyntheticPairs.sample"),
                    "takes samples that are made here"),
}


@dataclass(frozen=True)
class Target:
    """A public function with a maker of its arguments.

    Attributes:
        name: its module and name, or class and method.
        make: arguments by name; "self": of which object it is a method; "*": those by position.
        rate: how often it is called, against others: less where it takes long.
        may_be_infinite: see `judge_result`.
        also_named: by its errors, beside arguments and their entries.
    """

    name: str
    make: Callable[[Draw], dict[str, Any]]
    rate: float = 1.0
    may_be_infinite: tuple[str, ...] = ()
    also_named: tuple[str, ...] = ()

    def run(self, rng: np.random.Generator) -> tuple[str, str]:
        """One call, some of its arguments damaged: what became of it, and what is to be said."""
        arguments = self.make(Draw(rng))
        function = self._function(arguments)
        names = {*_names(arguments), *_parameters(self.name, function), *self.also_named}
        arguments = damage_some(arguments, rng)
        names |= {*_names(arguments), *_texts(arguments)}
        given = dict(arguments)
        positional = given.pop("*", ())
        if not isinstance(positional, (list, tuple)):
            positional = (positional,)
        try:
            result = function(*positional, **given)
        except Exception as error:
            outcome, told = judge_error(error, names)
            # Of what is as it should be less is said: printing takes longer than many a call.
            values = "…" if outcome in GOOD else shown(arguments)
            return outcome, f"{self.name}({values}): {told}"
        outcome = judge_result(result, arguments, self.may_be_infinite)
        if outcome in GOOD:
            return outcome, f"{self.name}(…) gave a {type(result).__name__}"
        return outcome, f"{self.name}({shown(arguments)}) gave {str(result)[:300]}"

    def _function(self, arguments: dict[str, Any]) -> Callable:
        owner = arguments.pop("self", None)
        module, _, name = self.name.rpartition(".")
        if owner is None:
            return getattr(import_module(module), name)
        return owner if name == "forward" else getattr(owner, name)


_parameters_of: dict[str, tuple[str, ...]] = {}


def _parameters(name: str, function: Callable) -> tuple[str, ...]:
    """Names of its arguments, looked up once."""
    if name not in _parameters_of:
        _parameters_of[name] = tuple(inspect.signature(function).parameters)
    return _parameters_of[name]


TARGETS: dict[str, Target] = {}


def cases(seed: int, only: str = "") -> Callable[[int], tuple[str, str]]:
    """Case number -> what became of it.

    Args:
        seed: of all cases.
        only: functions with this in their names.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    targets = [t for t in (*TARGETS.values(), *command_lines()) if only in t.name]
    home = tempfile.mkdtemp(prefix="n3match-fuzz-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.chdir(home)  # where a command may write
    if not targets:
        raise ValueError(f"only: no public function has {only!r} in its name")
    ends = np.cumsum([target.rate for target in targets])

    def case(number: int) -> tuple[str, str]:
        rng = np.random.default_rng([seed, number])
        return targets[int(np.searchsorted(ends, rng.random() * ends[-1]))].run(rng)

    return case


def public_callables() -> Iterator[tuple[str, str]]:
    """(module, name) of all public functions, classes, and methods of these ("Class.method")."""
    seen = set()
    for module_name in MODULES:
        module = import_module(module_name)
        names = getattr(module, "__all__", None) or [
            name for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module_name
        ]
        for name in names:
            value = getattr(module, name)
            if not callable(value) or value in seen:
                continue
            seen.add(value)
            yield module_name, name
            if inspect.isclass(value):
                for method, found in vars(value).items():
                    function = inspect.isfunction(found) or isinstance(found, (classmethod,))
                    if function and not method.startswith("_"):
                        yield module_name, f"{name}.{method}"


def shown(value: Any, most: int = 600) -> str:
    """A value in a few words: arrays by type, shape and, where they are small, numbers."""
    if isinstance(value, dict):
        text = ", ".join(f"{k}={shown(v, 120)}" for k, v in value.items())
    elif isinstance(value, (np.ndarray, torch.Tensor)):
        small = value.size if isinstance(value, np.ndarray) else value.numel()
        text = f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"
        if small <= 4 and getattr(value, "device", "cpu") != torch.device("meta"):
            text += f" {value.tolist()}" if not _is_sparse(value) else " sparse"
    elif isinstance(value, torch.nn.Module):
        text = type(value).__name__
    elif isinstance(value, (list, tuple)) and len(value) > 3:
        text = f"{type(value).__name__} of {len(value)}: {shown(value[0], 60)} …"
    else:
        text = repr(value)
    return text[:most]


def _is_sparse(value) -> bool:
    return isinstance(value, torch.Tensor) and value.layout != torch.strided


def _names(arguments: dict[str, Any]) -> Iterator[str]:
    """Of arguments, and of entries of those that are dictionaries."""
    for name, value in arguments.items():
        yield name
        if isinstance(value, dict):
            yield from _names({str(key): entry for key, entry in value.items()})


def _texts(arguments: dict[str, Any]) -> Iterator[str]:
    """Texts, paths and open files among arguments: an error that quotes one has named it."""
    for value in arguments.values():
        if isinstance(value, (str, Path)) and str(value):
            yield str(value)
        if isinstance(value, h5py.File):
            yield str(value.filename)


def _target(name: str, rate: float = 1.0, *more: tuple[str, ...]):
    """Adds a function's maker of arguments; more: `may_be_infinite` and `also_named`."""

    def add(make: Callable[[Draw], dict[str, Any]]):
        TARGETS[name] = Target(name, make, rate, *more)
        return make

    return add


# --- n3match -----------------------------------------------------------------------------------


def _sampling(d: Draw) -> dict[str, Any]:
    return d.some({
        "threshold": 1.0, "seed": int(d.rng.integers(100)),
        "estimator": d.one_of("auto", "opencv_usac", "opencv_ransac", "poselib"),
    })  # fmt: skip


def _judged(d: Draw, count: int) -> dict[str, Any]:
    """What a filter that picked the matches knows of them."""
    angle = d.rng.uniform(-4, 4, count)
    change = np.c_[np.cos(angle), np.sin(angle), 0.3 * d.normal(count)]
    change[d.rng.random(count) < 0.2] = 0.0
    return d.some({
        "logits": d.rng.uniform(-8, 12, count), "keypoint_change": change,
        "min_pair_probability": d.one_of(0.0, 0.5, 1.0),
    })  # fmt: skip


@_target("n3match.match_logits", 0.2, ("",))  # −inf where a lens has no ray
def _(d):
    m = d.matches()
    return {
        "points0": m.points0, "points1": m.points1, "K0": m.K0, "K1": m.K1, **m.known,
        "filter": d.filter(), **d.some({"distortion0": d.distortion()}),
        **d.some({"distortion1": d.distortion()}),
    }  # fmt: skip


@_target("n3match.estimate_relative_pose", 0.02, ("log10_false_alarms",))
def _(d):
    m = d.matches()
    return {
        "points0": m.points0, "points1": m.points1, "K0": m.K0, "K1": m.K1, **m.known,
        "filter": d.maybe(d.filter()), **_sampling(d),
        **d.some({"distortion0": d.distortion(), "distortion1": d.distortion()}),
    }  # fmt: skip


@_target("n3match.estimate_fundamental", 0.02, ("log10_false_alarms",))
def _(d):
    m = d.matches()
    return {
        "points0": m.points0, "points1": m.points1, "size0": SIZE, "size1": SIZE, **m.known,
        "filter": d.filter(), **d.some({"threshold": 1.0, "seed": 1, "estimator": "opencv_usac"}),
    }  # fmt: skip


@_target("n3match.match_images", 0.02, ("apart",))  # a keypoint alone
def _(d):
    return {
        "image0": d.image(largest=120), "image1": d.image(largest=120), "filter": d.filter(),
        **d.some({"K0": d.camera(), "K1": d.camera(), "distortion0": d.distortion(),
                  "distortion1": d.distortion(), "feature": d.one_of(*FEATURES),
                  "max_keypoints": 50, "max_size": 60, "device": "cpu", "stored_pixels": True}),
    }  # fmt: skip


# --- ops ---------------------------------------------------------------------------------------


def _rule(d: Draw) -> dict[str, Any]:
    found = d.some({"recursion": d.one_of("released", "poster"), "exclude_self": d.boolean()})
    if d.rng.random() < 0.2:
        found["selection"] = d.one_of("n3", "knn", "concrete")
        if found["selection"] == "concrete":
            found["generator"] = d.maybe(torch.Generator().manual_seed(1))
    return found


@_target("n3match.ops.n3_aggregate", 1.0)
def _(d):
    b, n, e, f = 1, d.count(1), d.one_of(1, 3, 8), d.one_of(1, 5)
    rule = _rule(d)
    m = n if rule.get("exclude_self") else d.count()
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    query = d.tensor(b, m, e, kinds=kinds)
    found = {
        "query": query, "key": d.tensor(b, n, e).to(query), "value": d.tensor(b, n, f).to(query),
        "k": d.one_of(1, 2, 3, 7), **rule,
    }  # fmt: skip
    candidates = torch.from_numpy(d.rng.integers(0, n, (b, m, 5)))
    return found | d.some({
        "log_temperature": d.one_of(0.5, d.tensor(b, m, 1)), "mask": d.mask(b, n),
        "candidates": candidates, "backend": d.one_of("tiled", "reference", None),
    }, 0.25)  # fmt: skip


@_target("n3match.ops.n3_window_aggregate", 0.3)
def _(d):
    b, e, c = 1, d.one_of(1, 3), d.one_of(1, 2)
    height, width = (int(n) for n in d.rng.integers(4, 18, 2))
    rule = _rule(d)
    query = d.tensor(b, e, height, width, kinds=(torch.float32, torch.float64, torch.float16))
    return {
        "query": query, "key": d.tensor(b, e, height, width).to(query),
        "value": d.tensor(b, c, height, width).to(query), "k": d.one_of(1, 2, 4),
        "patch_size": 4, "stride": d.one_of(1, 2, 4), "window": d.one_of(1, 3, 4), **rule,
        **d.some({"log_temperature": 0.5, "backend": d.one_of("tiled", "reference"),
                  "differences": d.boolean()}, 0.25),
    }  # fmt: skip


@_target("n3match.ops.n3_weights")
def _(d):
    rule = _rule(d)
    rule.pop("exclude_self", None)
    shape = (1, d.count(), d.count())
    return {
        "distances": d.tensor(*shape).square(), "k": d.one_of(1, 2, 5), **rule,
        **d.some({"log_temperature": -1.0, "mask": d.mask(*shape)}),
    }  # fmt: skip


@_target("n3match.ops.window_distance_moments", 0.5)
def _(d):
    shape = (1, 2, *(int(n) for n in d.rng.integers(4, 14, 2)))
    query = d.tensor(*shape)
    return {
        "query": query, "key": d.tensor(*shape).to(query), "patch_size": 4,
        "stride": d.one_of(1, 2), "window": 3, **d.some({"exclude_self": d.boolean()}),
    }  # fmt: skip


# --- nn ----------------------------------------------------------------------------------------


def _network_input(d: Draw, net) -> dict[str, Any]:
    b, n = d.one_of(1, 2), d.count()
    found = {"points0": d.tensor(b, n, 2, kinds=(torch.float32,)) / 3,
             "points1": d.tensor(b, n, 2, kinds=(torch.float32,)) / 3}
    if net.side_info:
        found["side_info"] = d.maybe(torch.rand(b, n, len(net.side_info)))
    if net.config.keypoint_change:
        found["keypoint_change"] = d.maybe(torch.zeros(b, n, 3))
    return found | d.some({"mask": d.mask(b, n)})


@_target("n3match.MatchFilter.forward", 0.2, ("logits", "earlier_logits"))
def _(d):
    net = d.filter()
    return {"self": net, **_network_input(d, net)}


@_target("n3match.MatchFilter.logits", 0.2, ("",))
def _(d):
    net = d.filter()
    return {"self": net, **_network_input(d, net)}


@_target("n3match.MatchFilter.logits_of_many", 0.1)
def _(d):
    net = d.filter()
    lengths = [d.count() for _ in range(d.one_of(0, 1, 3))]
    found = {
        "points0": [d.tensor(n, 2, kinds=(torch.float32,)) for n in lengths],
        "points1": [d.tensor(n, 2, kinds=(torch.float32,)) for n in lengths],
    }
    if net.side_info:
        found["side_info"] = d.maybe([torch.rand(n, len(net.side_info)) for n in lengths])
    if net.config.keypoint_change:
        found["keypoint_change"] = d.maybe([torch.zeros(n, 3) for n in lengths])
    return {"self": net, **found, **d.some({"batch_matches": d.one_of(1, 64)})}


@_target("n3match.nn.MatchFilterConfig")
def _(d):
    return d.some(dataclasses.asdict(MatchFilterConfig()), 0.4)


@_target("n3match.nn.PruningConfig")
def _(d):
    return d.some({
        "widths": (8, 4), "blocks": 1, "selection": "n3", "neighbours": 2, "embedding_channels": 2,
        "value_channels": 4, "kept_share": 0.5, "verdict_width": 4, "verdict_neighbours": 2,
        "mutual_stages": d.boolean(),
    }, 0.5)  # fmt: skip


@_target("n3match.nn.N3NetConfig")
def _(d):
    return d.some(dataclasses.asdict(N3NetConfig()), 0.4)


@_target("n3match.nn.N3Net.forward", 0.1)
def _(d):
    net = d.denoiser()
    channels = net.config.channels + len(net.config.maps)
    shape = (1, channels, *(int(n) for n in d.rng.integers(4, 12, 2)))
    return {"self": net, "x": d.tensor(*shape, kinds=(torch.float32,))}


@_target("n3match.nn.mutual_mask")
def _(d):
    b, n = 2, d.count()
    return {
        "side_info": torch.rand(b, n, len(SIDE_INFO)), "config": tiny_filter("all").config,
        "mask": d.maybe(d.mask(b, n)),
    }  # fmt: skip


# --- geometry ----------------------------------------------------------------------------------


@_target("n3match.geometry.calibrated_points", 1.0, ("",))  # NaN where no ray reaches a pixel
def _(d):
    lens, count = d.one_of(
        ("opencv", 4), ("opencv", 8), ("equidistant", 4), ("fov", 1), ("division", 1),
        ("thin_prism", 8), ("fisheye624", 12), ("eucm", 2),
    )
    return {"points": d.pixels(d.count()), "K": d.camera(), "distortion": 0.05 * d.normal(count),
            "lens": lens}


for _name in ("distort_points", "undistort_points"):

    @_target(f"n3match.geometry.{_name}")
    def _(d, _name=_name):
        points = d.normal(d.count(), 2) if _name == "distort_points" else d.pixels(d.count())
        return {"points": points, "K": d.camera(), "distortion": d.distortion()}


for _name in ("normalize_points", "denormalize_points"):

    @_target(f"n3match.geometry.{_name}", 1.0, ("",))  # values aren't checked
    def _(d):
        return {"points": d.tensor(d.count(), 2), "K": torch.from_numpy(d.camera())}


@_target("n3match.geometry.decompose_essential", 1.0, ("",))  # NaN for none
def _(d):
    return {"E": _either(d, d.essential())}


@_target("n3match.geometry.project_to_essential")
def _(d):
    return {"E": _either(d, d.normal(3, 3))}


@_target("n3match.geometry.skew_symmetric", 1.0, ("",))
def _(d):
    return {"t": _either(d, d.normal(3))}


@_target("n3match.geometry.essential_from_pose", 1.0, ("",))
def _(d):
    return {"R": d.rotation(), "t": d.normal(3)}


def _either(d: Draw, array: np.ndarray):
    return d.one_of(array, torch.from_numpy(array))


@_target("n3match.geometry.epipolar_lines", 0.1)
def _(d):
    return {
        "points0": d.pixels(d.one_of(0, 1, 3)), "E": d.essential(), "K0": d.camera(),
        "K1": d.camera(), "size1": SIZE,
        **d.some({"distortion0": d.distortion(), "distortion1": d.distortion()}),
    }  # fmt: skip


@_target("n3match.geometry.estimate_fundamental_from_matches", 0.02, ("log10_false_alarms",))
def _(d):
    m = d.matches()
    return {
        "points0": m.points0, "points1": m.points1, "size0": SIZE, "size1": SIZE,
        **d.some({"threshold": 1.0, "confidence": 0.99, "seed": 3, "num_putative": m.count + 3,
                  "estimator": d.one_of("opencv_usac", "poselib", "auto")}),
        "max_iterations": 200, **_judged(d, m.count),
    }  # fmt: skip


@_target("n3match.geometry.estimate_relative_pose_from_matches", 0.05, ("log10_false_alarms",))
def _(d):
    m = d.matches()
    return {
        "points0": m.points0, "points1": m.points1, "K0": m.K0, "K1": m.K1, **_sampling(d),
        "max_iterations": 200, **_judged(d, m.count),
        **d.some({"weights": d.rng.random(m.count), "sampling": "uniform", "confidence": 0.99,
                  "threshold_calibrated": 1e-3, "distortion0": d.distortion(),
                  "distortion1": d.distortion(), "num_putative": m.count + 3,
                  "verify": d.boolean(), "estimator": d.one_of("eight_point", "kornia")}, 0.2),
    }  # fmt: skip


@_target("n3match.geometry.guess_focal")
def _(d):
    return {"size": d.one_of(SIZE, np.array([SIZE, SIZE]))}


@_target("n3match.geometry.guess_intrinsics")
def _(d):
    return {"size": SIZE, **d.some({"focal": 500.0})}


for _name in ("mean_average_precision", "pose_auc"):

    @_target(f"n3match.geometry.{_name}")
    def _(d):
        errors = np.abs(d.normal(d.count(1))) * 10
        return {"errors": d.one_of(errors, errors.tolist()), **d.some({"thresholds": (5, 10)})}


@_target("n3match.geometry.pose_error_deg")
def _(d):
    return {"R": d.rotation(), "t": d.normal(3), "R_gt": d.rotation(), "t_gt": d.normal(3)}


@_target("n3match.geometry.rotation_error_deg")
def _(d):
    return {"R": _either(d, d.rotation()), "R_gt": _either(d, d.rotation())}


@_target("n3match.geometry.translation_error_deg")
def _(d):
    return {"t": _either(d, d.normal(3)), "t_gt": _either(d, d.normal(3))}


@_target("n3match.geometry.recover_pose", 1.0, ("",))  # NaN for an E that is none
def _(d):
    n = d.count()
    E, x0, x1 = d.essential(), d.normal(n, 2), d.normal(n, 2)
    weights = d.maybe(d.rng.random(n))
    given = {"E": E, "x0": x0, "x1": x1, "weights": weights}
    if d.boolean():
        given = {k: None if v is None else torch.from_numpy(v) for k, v in given.items()}
    return given


for _name in ("sampson_distance", "symmetric_epipolar_distance"):

    @_target(f"n3match.geometry.{_name}")
    def _(d):
        n = d.count()
        given = {"x0": d.normal(n, 2), "x1": d.normal(n, 2), "E": d.essential()}
        return given if d.boolean() else {k: torch.from_numpy(v) for k, v in given.items()}


@_target("n3match.geometry.smallest_eigenvector")
def _(d):
    a = d.tensor(d.count(), 4, 4)
    return {"matrix": a @ a.mT, **d.some({"damping": 1e-6})}


@_target("n3match.geometry.weighted_eight_point")
def _(d):
    b, n = d.one_of(1, 2), d.count()
    x0 = d.tensor(b, n, 2)
    return {
        "x0": x0, "x1": d.tensor(b, n, 2).to(x0), "weights": torch.rand(b, n, dtype=x0.dtype),
        **d.some({"normalize": d.boolean(), "damping": 1e-6}),
    }  # fmt: skip


# --- matching ----------------------------------------------------------------------------------


@_target("n3match.matching.extract_sift", 0.1)
def _(d):
    return {
        "image": d.image(), **d.some({
            "max_keypoints": d.one_of(1, 20), "root": d.boolean(), "contrast_threshold": 0.02,
            "edge_threshold": 10.0, "octave_layers": 3, "sigma": 1.6,
        }),
    }  # fmt: skip


@_target("n3match.matching.extract_features", 0.05)
def _(d):
    return {"image": d.image(), "kind": d.one_of(*FEATURES), **d.some({"max_keypoints": 20})}


@_target("n3match.matching.is_gradient_histogram")
def _(d):
    return {"descriptors": d.descriptors(d.count(), d.one_of(128, 32))}


@_target("n3match.matching.keypoint_change")
def _(d):
    n = d.count()
    return {"sizes_angles0": d.sizes_angles(n), "sizes_angles1": d.sizes_angles(n),
            **d.some({"focal0": 500.0, "focal1": 600.0})}


# Distances to a neighbour that isn't there.
_NONE_THERE = ("distance", "second_distance", "apart")


def _descriptor_pair(d: Draw) -> dict[str, Any]:
    columns = d.one_of(2, 32, 128)
    if d.rng.random() < 0.2:
        bits = [d.rng.integers(0, 256, (d.count(), columns)).astype(np.uint8) for _ in "01"]
        return {"desc0": bits[0], "desc1": bits[1], "binary": True}
    found = {f"desc{i}": d.maybe(d.descriptors(d.count(), columns), 0.95) for i in (0, 1)}
    if d.boolean():
        found = {k: v if v is None else torch.from_numpy(v) for k, v in found.items()}
    return found


@_target("n3match.matching.nearest_neighbors", 1.0, _NONE_THERE)
def _(d):
    return {**_descriptor_pair(d), **d.some({"block_size": d.one_of(1, 7), "device": "cpu"}, 0.2)}


@_target("n3match.matching.putative_matches", 1.0, _NONE_THERE)
def _(d):
    found = _descriptor_pair(d)
    lengths = [0 if found[f"desc{i}"] is None else len(found[f"desc{i}"]) for i in (0, 1)]
    return {**found, "keypoints0": d.pixels(lengths[0]), "keypoints1": d.pixels(lengths[1]),
            **d.some({"device": "cpu", "second_nearest": d.boolean()}, 0.2)}


@_target("n3match.nn.MatchFilterConfig.wants_second", 0.2)
def _(d):
    return {"self": tiny_filter("all").config, "count": d.count()}


@_target("n3match.matching.one_to_one")
def _(d):
    n = d.count()
    return {"index0": d.rng.integers(0, 9, n), "index1": d.rng.integers(0, 9, n),
            "logits": d.rng.normal(0, 3, n)}


@_target("n3match.matching.exclusive_logits")
def _(d):
    n = d.count()
    return {"index0": d.rng.integers(0, 9, n), "index1": d.rng.integers(0, 9, n),
            "logits": d.rng.normal(0, 3, n)}


@_target("n3match.matching.root_sift")
def _(d):
    return {"descriptors": d.descriptors(d.count(), d.one_of(4, 128))}


@_target("n3match.matching.side_info_columns")
def _(d):
    n = d.count()
    return {
        "names": d.one_of(SIDE_INFO, SIDE_INFO[:2], ()), "ratio": d.rng.random(n),
        "mutual": d.rng.random(n) < 0.5,
        **d.some({"back_ratio": d.rng.random(n), "distance": d.rng.random(n),
                  "apart": 100 * d.rng.random(n), "focal1": 500.0}),
    }  # fmt: skip


@_target("n3match.matching.side_info_of_matches", 0.5)
def _(d):
    n0, n1, m = d.count(1), d.count(1), d.count()
    return {
        "names": d.one_of(SIDE_INFO, ("ratio",), ()),
        "index0": d.rng.integers(0, n0, m), "index1": d.rng.integers(0, n1, m),
        "keypoints0": d.pixels(n0), "desc0": d.descriptors(n0, 8),
        "keypoints1": d.pixels(n1), "desc1": d.descriptors(n1, 8), "focal1": d.maybe(500.0),
    }  # fmt: skip


def _putative(d: Draw) -> PutativeMatches:
    n = d.count()
    if d.boolean():
        return putative_matches(
            d.pixels(n), d.descriptors(n, 8), d.pixels(n), d.descriptors(n, 8), second_nearest=True
        )
    return PutativeMatches(
        d.pixels(n), d.pixels(n), d.rng.random(n), d.rng.random(n) < 0.5, np.arange(n),
        np.arange(n), d.rng.random(n), d.maybe(d.rng.random(n)), d.maybe(d.rng.random(n)),
        d.boolean(),
    )


@_target("n3match.matching.PutativeMatches.side_info")
def _(d):
    return {"self": _putative(d), "names": d.one_of(SIDE_INFO, ()), "focal1": d.maybe(500.0),
            **d.some({"binary": d.boolean(), "second_nearest": d.boolean()})}


@_target("n3match.matching.PutativeMatches.nearest", 1.0, _NONE_THERE)
def _(d):
    return {"self": _putative(d)}


@_target("n3match.matching.PutativeMatches.side_info_of")
def _(d):
    found = _putative(d)
    m = d.count() if len(found) else 0
    index = d.rng.integers(0, max(len(found), 1), m)
    return {"self": found, "names": SIDE_INFO, "index0": index, "index1": index,
            "focal1": d.maybe(500.0), **d.some({"binary": d.boolean()})}


# --- denoising ---------------------------------------------------------------------------------


def _no_progress(share: float) -> None:
    """Called with the share of a work that is done."""


def _picture(d: Draw, channels: int = 1, smallest: int = 1) -> np.ndarray:
    height, width = (int(n) for n in d.rng.integers(smallest, 14, 2))
    shape = (height, width, channels) if channels > 1 else (height, width)
    unit = d.rng.random(shape)
    return d.one_of(
        (255 * unit).astype(np.uint8), (65535 * unit).astype(np.uint16), unit.astype(np.float32),
        unit, unit.astype(np.float16),
    )


@_target("n3match.denoise", 0.1)
def _(d):
    net = d.denoiser()
    return {
        "image": _picture(d, d.one_of(1, 3) if net.config.channels == 1 else 3, 8),
        "weights": net,
        **d.some({"sigma": 25.0, "memory_limit": 1 << 20, "progress": _no_progress}),
    }  # fmt: skip


@_target("n3match.denoising.denoise_raw", 0.1)
def _(d):
    return {"image": _picture(d), "a": 0.01, "b": 0.001, "weights": d.denoiser(raw=True),
            **d.some({"memory_limit": 1 << 20, "progress": _no_progress})}


@_target("n3match.denoising.estimate_sigma")
def _(d):
    return {"image": _picture(d, d.one_of(1, 3), 8)}


@_target("n3match.denoising.Denoiser.restore", 0.1)
def _(d):
    net = tiny_denoiser(d.one_of("plain", "blocks"))
    shape = (1, net.config.channels, *(int(n) for n in d.rng.integers(4, 12, 2)))
    return {"self": net, "x": d.tensor(*shape, kinds=(torch.float32,)),
            **d.some({"memory_limit": 1 << 22, "progress": _no_progress})}


@_target("n3match.denoising.Denoiser.work")
def _(d):
    return {"self": d.denoiser(), "height": int(d.rng.integers(8, 2000)),
            "width": int(d.rng.integers(8, 2000)), **d.some({"memory_limit": 1 << 24})}


# --- plugins -----------------------------------------------------------------------------------


def _opencv_pair(d: Draw) -> dict[str, Any]:
    n1, n2 = d.count(), d.count()
    pairs = d.count() if n1 and n2 else 0
    matches = [
        cv2.DMatch(int(a), int(b), 1.5)
        for a, b in zip(d.rng.integers(0, max(n1, 1), pairs), d.rng.integers(0, max(n2, 1), pairs))
    ]
    rows = [(match, match) for match in matches]
    return {"keypoints1": d.keypoints(n1), "keypoints2": d.keypoints(n2),
            "matches1to2": d.one_of(matches, rows)}


@_target("n3match.plugins.opencv.filter_matches", 0.1)
def _(d):
    found = _opencv_pair(d)
    n1, n2 = len(found["keypoints1"]), len(found["keypoints2"])
    described = {"descriptors1": d.descriptors(n1), "descriptors2": d.descriptors(n2)}
    return {
        "size1": SIZE, "size2": SIZE, **found, "filter": d.filter(),
        **d.some({"withRotation": True, "withScale": False, "thresholdFactor": 6.0,
                  "side_info": d.rng.random((len(found["matches1to2"]), 5))}, 0.1),
        **d.some({"K1": d.camera(), "K2": d.camera(), "distortion1": d.distortion(),
                  "distortion2": d.distortion()}),
        **(described if d.rng.random() < 0.3 else {}),
    }  # fmt: skip


@_target("n3match.plugins.opencv.match_information", 0.3)
def _(d):
    found = _opencv_pair(d)
    found["matches1to2"] = [m if isinstance(m, cv2.DMatch) else m[0] for m in found["matches1to2"]]
    n1, n2 = len(found["keypoints1"]), len(found["keypoints2"])
    described = {"descriptors1": d.descriptors(n1), "descriptors2": d.descriptors(n2)}
    return {**found, "filter": d.filter(), **d.some({"K2": d.camera()}),
            **(described if d.boolean() else {})}


def _opencv_points(d: Draw, m) -> dict[str, Any]:
    shape = d.one_of((-1, 2), (-1, 1, 2), (1, -1, 2))
    return {"points1": m.points0.reshape(shape), "points2": m.points1.reshape(shape)}


@_target("n3match.plugins.opencv.find_essential_mat", 0.03)
def _(d):
    m = d.matches(5)
    lists = [
        {"cameraMatrix": m.K0},
        {"focal": 500.0, "pp": (320.0, 240.0)},
        {"cameraMatrix1": m.K0, "distCoeffs1": None, "cameraMatrix2": m.K1, "distCoeffs2": None},
    ]
    return {
        **_opencv_points(d, m), **d.one_of(*lists), "filter": d.maybe(d.filter()),
        **d.some({"method": d.one_of(cv2.RANSAC, cv2.USAC_MAGSAC, "poselib"), "prob": 0.99,
                  "threshold": 1.0, "mask": np.zeros((m.count, 1), np.uint8),
                  "side_info": d.rng.random((m.count, 5)),
                  "sizes_angles1": d.sizes_angles(m.count),
                  "sizes_angles2": d.sizes_angles(m.count)}),
    }  # fmt: skip


@_target("n3match.plugins.opencv.recover_pose", 0.1)
def _(d):
    m = d.matches(1)
    lists = [
        {"cameraMatrix": m.K0}, {"focal": 500.0, "pp": (320.0, 240.0)},
        {"cameraMatrix1": m.K0, "distCoeffs1": None, "cameraMatrix2": m.K1, "distCoeffs2": None},
    ]
    return {"E": d.essential(), **_opencv_points(d, m), **d.one_of(*lists),
            **d.some({"mask": np.ones((m.count, 1), np.uint8)})}


@_target("n3match.plugins.opencv.N3Matcher")
def _(d):
    return {"filter": d.filter(), **d.some({"normType": d.one_of(cv2.NORM_L2, cv2.NORM_HAMMING)})}


@_target("n3match.plugins.opencv.N3Matcher.setPairInfo")
def _(d):
    from n3match.plugins.opencv import N3Matcher

    return {
        "self": N3Matcher(filter=d.filter()), "queryKpts": d.keypoints(d.count()),
        "trainKpts": d.pixels(d.count()), "queryImageSize": SIZE, "trainImageSize": SIZE,
        **d.some({"K1": d.camera(), "K2": d.camera(), "distortion1": d.distortion(),
                  "distortion2": d.distortion()}),
    }  # fmt: skip


for _name in ("match", "knnMatch"):

    @_target(f"n3match.plugins.opencv.N3Matcher.{_name}", 0.1)
    def _(d, _name=_name):
        from n3match.plugins.opencv import N3Matcher

        n, m = d.count(), d.count()
        matcher = N3Matcher(filter=d.filter())
        matcher.setPairInfo(d.keypoints(n), d.keypoints(m), SIZE, SIZE)
        rows = {"k": d.one_of(1, 2), **d.some({"compactResult": d.boolean()})}
        more = rows if _name == "knnMatch" else {}
        return {
            "self": matcher, "queryDescriptors": d.descriptors(n, 8),
            "trainDescriptors": d.descriptors(m, 8), **more,
            **d.some({"mask": d.rng.integers(0, 2, (n, m)).astype(np.uint8)}),
        }  # fmt: skip


def _frames(d: Draw, *shape: int) -> torch.Tensor:
    found = torch.zeros(*shape, 2, 3)
    found[..., 0, 0] = found[..., 1, 1] = 4.0
    found[..., 2] = torch.from_numpy(d.rng.uniform((0, 0), np.array(SIZE) - 1.0, (*shape, 2)))
    return found


@lru_cache
def _kornia(kind: str, filter_: str):
    from n3match.plugins import kornia

    net = tiny_filter(filter_)
    if kind == "matches":
        return kornia.LocalFeatureMatchFilter(net)
    if kind == "geometry":
        return kornia.N3GeometryAwareMatcher(net)
    return kornia.N3LocalFeatureMatcher(_NothingFound(), net)


class _NothingFound(torch.nn.Module):
    """A detector of kornia's without a keypoint."""

    def forward(self, image, mask=None):
        count = len(image)
        return torch.zeros(count, 0, 2, 3), torch.zeros(count, 0), torch.zeros(count, 0, 8)


@_target("n3match.plugins.kornia.LocalFeatureMatchFilter.forward", 0.1)
def _(d):
    n = d.count()
    frames = [_frames(d, 1, n) for _ in "01"]
    matches = {
        "keypoints0": frames[0][0, :, :, 2], "keypoints1": frames[1][0, :, :, 2],
        "batch_indexes": torch.zeros(n, dtype=torch.int64),
        **d.some({"lafs0": frames[0], "ratio": torch.rand(n), "mutual": torch.ones(n)}),
    }
    if "lafs0" in matches:
        matches["lafs1"] = frames[1]
    images = {f"image{i}": torch.zeros(1, 1, SIZE[1], SIZE[0]) for i in (0, 1)}
    return {"self": _kornia("matches", "all"), "matches": matches,
            "data": images | d.some({"K0": torch.from_numpy(d.camera())})}


@_target("n3match.plugins.kornia.N3GeometryAwareMatcher.forward", 0.1)
def _(d):
    n, m = d.count(), d.count()
    return {
        "self": _kornia("geometry", "all"), "desc1": d.tensor(n, 8, kinds=(torch.float32,)),
        "desc2": d.tensor(m, 8, kinds=(torch.float32,)), "lafs1": _frames(d, 1, n),
        "lafs2": _frames(d, 1, m),
        **d.some({"hw1": SIZE[::-1], "hw2": SIZE[::-1], "K1": torch.from_numpy(d.camera())}),
    }  # fmt: skip


@_target("n3match.plugins.kornia.N3LocalFeatureMatcher.forward", 0.1, ("apart",))
def _(d):
    n, m = d.count(), d.count()
    data = {f"image{i}": torch.zeros(1, 1, SIZE[1], SIZE[0]) for i in (0, 1)}
    for i, count in enumerate((n, m)):
        data |= {f"lafs{i}": _frames(d, 1, count), f"descriptors{i}": torch.rand(1, count, 8)}
    return {"self": _kornia("images", "all"), "data": data}


@_target("n3match.plugins.kornia.find_essential", 0.5)
def _(d):
    n = d.count(8)
    points1 = d.tensor(1, n, 2)
    return {"points1": points1, "points2": d.tensor(1, n, 2).to(points1),
            "weights": d.maybe(torch.rand(1, n, dtype=points1.dtype))}


@_target("n3match.plugins.kornia.WeightedEightPoint.forward", 0.5)
def _(d):
    from n3match.plugins.kornia import WeightedEightPoint

    n = d.count(8)
    points1 = d.tensor(1, n, 2)
    cameras = {f"K{i}": torch.from_numpy(d.camera()).to(points1) for i in (1, 2)}
    return {"self": WeightedEightPoint(), "points1": points1,
            "points2": d.tensor(1, n, 2).to(points1), **(cameras if d.boolean() else {})}


@_target("n3match.plugins.gluefactory.filter_batch", 0.1)
def _(d):
    b, n0, n1 = d.one_of(1, 2), d.count(), d.count(1)
    size = torch.tensor([SIZE] * b, dtype=torch.float32)
    data = {
        "view0": {"image_size": size}, "view1": {"image_size": size},
        "keypoints0": torch.from_numpy(d.rng.uniform(0, 400, (b, n0, 2))).float(),
        "keypoints1": torch.from_numpy(d.rng.uniform(0, 400, (b, n1, 2))).float(),
        "matches0": torch.from_numpy(d.rng.integers(-1, n1, (b, n0))),
    }
    if d.boolean():
        data |= {f"{what}{i}": torch.rand(b, n)
                 for what in ("scales", "oris") for i, n in enumerate((n0, n1))}
    if d.boolean():
        data |= {f"descriptors{i}": torch.rand(b, n, 128) for i, n in enumerate((n0, n1))}
    return {"net": d.filter(), "data": data}


_ANSWER = ("answer", *(f"{what}{i}" for i in (0, 1) for what in (
    "matched_kpts", "all_kpts", "all_desc")))


# What the matcher answers is passed on.
_OPEN = ("log10_false_alarms", "all_desc0", "all_desc1")


@_target("n3match.plugins.vismatch.FilteredMatcher.forward", 0.02, _OPEN, _ANSWER)
def _(d):
    from n3match.plugins.vismatch import FilteredMatcher

    m = d.matches()
    answer = {"matched_kpts0": m.points0, "matched_kpts1": m.points1}
    if d.boolean():
        answer |= {"all_kpts0": m.points0, "all_kpts1": m.points1,
                   "all_desc0": d.descriptors(m.count), "all_desc1": d.descriptors(m.count)}
    answer = damage_some(answer, d.rng)
    cameras = {"K0": m.K0, "K1": m.K1} if d.boolean() else {}
    matcher = FilteredMatcher(lambda *_: answer, filter=d.filter(), **cameras)
    return {"self": matcher, "img0": np.zeros((3, 480, 640), np.uint8),
            "img1": np.zeros((3, 480, 640), np.uint8)}


def _hloc(d: Draw) -> tuple[h5py.File, h5py.File]:
    """Files of features and of matches, in memory."""
    features, matches = (
        h5py.File(io.BytesIO(), "w") for _ in "01"
    )
    for name in ("a.jpg", "b.jpg"):
        group = features.create_group(name)
        group["keypoints"] = d.pixels(4)
        group["image_size"] = np.array(SIZE)
        group["descriptors"] = d.descriptors(8, 4)
    group = matches.create_group("a.jpg/b.jpg")
    group["matches0"] = np.array([0, -1, 2, 3], np.int16)
    group["matching_scores0"] = np.ones(4, np.float16)
    return features, matches


@_target("n3match.plugins.hloc.add_features", 0.1)
def _(d):
    n = d.count()
    return {
        "file": h5py.File(io.BytesIO(), "w"), "name": "a.jpg", "keypoints": d.pixels(n),
        "sizes_angles": d.sizes_angles(n), "responses": d.rng.random(n),
        "descriptors": d.descriptors(n), "size": SIZE,
    }  # fmt: skip


@_target("n3match.plugins.hloc.add_matches", 0.1)
def _(d):
    n = d.count()
    return {
        "file": h5py.File(io.BytesIO(), "w"), "names": ("a.jpg", "d/b.jpg"), "count0": n,
        "matches": np.stack([np.arange(n), np.arange(n)], 1), "probability": d.rng.random(n),
    }  # fmt: skip


@_target("n3match.plugins.hloc.find_pair", 0.1)
def _(d):
    return {"matches": _hloc(d)[1], "name0": "a.jpg", "name1": "b.jpg"}


@_target("n3match.plugins.hloc.image_names", 0.1)
def _(d):
    return {"features": _hloc(d)[0]}


@_target("n3match.plugins.hloc.list_pairs", 0.1)
def _(d):
    return {"matches": _hloc(d)[1], "names": ["a.jpg", "b.jpg"]}


@_target("n3match.plugins.hloc.read_features", 0.1)
def _(d):
    return {"features": _hloc(d)[0], "name": "a.jpg", **d.some({"descriptors": d.boolean()})}


@_target("n3match.plugins.hloc.read_matches", 0.1)
def _(d):
    return {"matches": _hloc(d)[1], "group": "a.jpg/b.jpg", "count0": 4, "count1": 4}


@_target("n3match.plugins.hloc.write_matches", 0.1)
def _(d):
    return {
        "source": _hloc(d)[1], "target": h5py.File(io.BytesIO(), "w"), "group": "a.jpg/b.jpg",
        "kept0": np.array([0, 2]), "probability": d.rng.random(2),
    }  # fmt: skip


def _colmap_image(d: Draw):
    from n3match.plugins.colmap import ColmapImage

    return ColmapImage("a.jpg", 1, d.rotation(), d.normal(3), np.arange(d.count()))


@_target("n3match.plugins.colmap.colmap_parameters")
def _(d):
    from n3match.plugins.colmap import ColmapCamera

    return {"camera": ColmapCamera(*SIZE, d.camera(), np.zeros(d.one_of(4, 8)))}


@_target("n3match.plugins.colmap.covisible_pairs")
def _(d):
    from n3match.plugins.colmap import ColmapModel

    images = {i: _colmap_image(d) for i in range(d.one_of(0, 2, 3))}
    return {"model": ColmapModel({}, images), **d.some({"min_shared": 2})}


@_target("n3match.plugins.colmap.pair_ids")
def _(d):
    return {"pair_id": int(d.rng.integers(0, 2**40))}


@_target("n3match.plugins.colmap.pair_number")
def _(d):
    return {"id1": int(d.rng.integers(1, 100)), "id2": int(d.rng.integers(100, 200))}


@_target("n3match.plugins.colmap.relative_pose")
def _(d):
    return {"image0": _colmap_image(d), "image1": _colmap_image(d)}


# --- datasets ----------------------------------------------------------------------------------


@_target("n3match.datasets.SyntheticPairs", 0.5)
def _(d):
    return d.some({"num_matches": (20, 30), "seed": 1, "scenes": ["plane", "room"]})
