"""Noise taken out of images, and how well that is done."""
