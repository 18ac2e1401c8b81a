"""Which pairs of photographs show a common part of a scene: learned, and put to the test."""
