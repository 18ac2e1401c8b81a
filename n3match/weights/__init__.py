"""Weights trained by us, and how they are stored."""

from n3match.weights.store import (
    DEFAULT_DENOISER,
    FAST_DENOISER,
    default_denoiser,
    default_filter,
    find,
    load_weights,
    save_weights,
    shipped,
)

__all__ = [
    "DEFAULT_DENOISER", "FAST_DENOISER", "default_denoiser", "default_filter", "find",
    "load_weights", "save_weights", "shipped",
]
