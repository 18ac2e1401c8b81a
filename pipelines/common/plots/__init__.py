"""Pictures of matches, poses and probabilities."""
