"""Denoising of images of any size and depth (numpy in, numpy out)."""

from n3match.denoising.denoise import denoise, denoise_raw
from n3match.denoising.denoiser import Denoiser
from n3match.denoising.noise_level import estimate_sigma

__all__ = ["Denoiser", "denoise", "denoise_raw", "estimate_sigma"]
