"""n3match: learned match filtering and relative pose with neural nearest neighbours (N³)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from n3match import denoising as denoising
    from n3match import geometry as geometry
    from n3match import matching as matching
    from n3match import nn as nn
    from n3match import ops as ops
    from n3match import plugins as plugins
    from n3match import weights as weights
    from n3match.denoising.denoise import denoise as denoise
    from n3match.export import export_onnx as export_onnx
    from n3match.export import export_program as export_program
    from n3match.geometry import FundamentalMatrix as FundamentalMatrix
    from n3match.geometry import PoseStatus as PoseStatus
    from n3match.geometry import RelativePose as RelativePose
    from n3match.nn import MatchFilter as MatchFilter
    from n3match.pipelines.two_view.match_images import match_images as match_images
    from n3match.two_view import estimate_fundamental as estimate_fundamental
    from n3match.two_view import estimate_relative_pose as estimate_relative_pose
    from n3match.two_view import match_logits as match_logits

# Imported when first used: torch takes seconds to load, `n3match --help` should not.
_MODULES = {
    "FundamentalMatrix": "n3match.geometry",
    "MatchFilter": "n3match.nn",
    "PoseStatus": "n3match.geometry",
    "RelativePose": "n3match.geometry",
    "denoise": "n3match.denoising.denoise",
    "denoising": "n3match",
    "estimate_fundamental": "n3match.two_view",
    "estimate_relative_pose": "n3match.two_view",
    "export_onnx": "n3match.export",
    "export_program": "n3match.export",
    "geometry": "n3match",
    "match_images": "n3match.pipelines.two_view.match_images",
    "match_logits": "n3match.two_view",
    "matching": "n3match",
    "nn": "n3match",
    "ops": "n3match",
    "plugins": "n3match",
    "weights": "n3match",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'n3match' has no attribute {name!r}")
    module = _MODULES[name]
    if module == "n3match":
        return import_module(f"n3match.{name}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
