"""Thin adapters for other libraries: convert, call, convert back."""

from n3match.plugins import kornia, opencv

__all__ = ["kornia", "opencv"]
