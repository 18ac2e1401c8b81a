"""Thin adapters for other libraries: convert, call, convert back."""

from n3match.plugins import opencv

__all__ = ["opencv"]
