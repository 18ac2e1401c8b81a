"""From putative matches of two images to probabilities, a pose or a fundamental matrix."""
