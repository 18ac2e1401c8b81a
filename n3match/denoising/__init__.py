"""Denoising of images of any size and depth (numpy in, numpy out)."""

from n3match.denoising.denoise import denoise, denoise_raw
from n3match.denoising.denoiser import Denoiser
from n3match.denoising.noise_level import estimate_sigma
from n3match.weights import DEFAULT_DENOISER as DEFAULT_WEIGHTS

__all__ = ["DEFAULT_WEIGHTS", "Denoiser", "denoise", "denoise_raw", "estimate_sigma"]
