"""Weights trained by us, and how they are stored."""

from n3match.weights.store import find, load_weights, save_weights, shipped

__all__ = ["find", "load_weights", "save_weights", "shipped"]
