"""Scenes with known poses, in the layouts that they come in."""
