"""The filter as users hold it: a trained classifier in eval mode."""

from __future__ import annotations

import os

from n3match import weights
from n3match.nn import ClassifierConfig, MatchClassifier


class MatchFilter(MatchClassifier):
    """Scores putative matches: keep those with ``logits > 0``.

    Call it with calibrated coordinates ``(points0, points1, side=None, mask=None, shape=None)``,
    see `MatchClassifier.forward`; `n3match.score_matches` takes pixels.
    """

    @property
    def side_information(self) -> tuple[str, ...]:
        """Names of the columns of `side`, e.g. ("ratio", "mutual"); it works without them too."""
        return self.config.side_information

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike = "sift") -> MatchFilter:
        """Loads shipped weights by name ("sift", "sift-cnnet") or any weights file by path.

        Returns:
            The filter in eval mode, on the CPU.

        Raises:
            FileNotFoundError: no such name or file. ValueError: the file holds something else.
        """
        network, config, state = weights.load_weights(name_or_path)
        if network not in ("MatchClassifier", "MatchFilter"):
            raise ValueError(f"name_or_path: {name_or_path} holds a {network}, not a match filter")
        try:
            net = cls(ClassifierConfig(**config))
            net.load_state_dict(state)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"name_or_path: {name_or_path} doesn't fit: {error}") from error
        return net.eval()
