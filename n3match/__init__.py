"""n3match: learned match filtering and relative pose with neural nearest neighbours (N³)."""

from importlib import import_module

# Imported when first used: torch takes seconds to load, `n3match --help` should not.
_MODULES = {
    "FundamentalMatrix": "n3match.geometry",
    "MatchFilter": "n3match.nn.match_filter",
    "PoseStatus": "n3match.geometry",
    "RelativePose": "n3match.geometry",
    "denoise": "n3match.denoising",
    "denoising": "n3match",
    "estimate_fundamental": "n3match.two_view",
    "estimate_relative_pose": "n3match.two_view",
    "export_onnx": "n3match.export.filter",
    "export_program": "n3match.export.filter",
    "geometry": "n3match",
    "match_images": "n3match.pipelines.two_view.match_images",
    "matching": "n3match",
    "nn": "n3match",
    "ops": "n3match",
    "plugins": "n3match",
    "match_logits": "n3match.two_view",
    "weights": "n3match",
}

__all__ = [*_MODULES]


def __getattr__(name: str):
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
