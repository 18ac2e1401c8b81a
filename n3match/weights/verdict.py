"""What was learned of pairs of photographs: which of them show a common part of a scene.

`verdict.json` holds logistic models by name, a coefficient for each piece of evidence; `verdict.md`
is its card. `n3match train-verdict` writes the first.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

FORMAT = "n3match-verdict-2"

# What a model is of: the matrix that the inliers agree with; a rotation counts as essential.
ESSENTIAL, FUNDAMENTAL = "essential", "fundamental"
GEOMETRIES = (ESSENTIAL, FUNDAMENTAL)


@dataclass(frozen=True)
class PairVerdict:
    """Models by name, and the probabilities from which a pair counts as real.

    Attributes:
        threshold: default of `min_pair_probability`, for each of GEOMETRIES.
        models: by name, what is multiplied with each piece of evidence, and "constant".
        notes: how it was made.
    """

    threshold: Mapping[str, float]
    models: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, object]

    def to_text(self) -> str:
        """As in the file."""
        content = {
            "format": FORMAT, "threshold": self.threshold, "models": self.models,
            "notes": self.notes,
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def probability_of(model: Mapping[str, float], evidence: Mapping[str, float]) -> float:
    """Of a pair being real, by a logistic model of its pieces of evidence."""
    logit = sum(
        coefficient * (1.0 if name == "constant" else evidence[name])
        for name, coefficient in model.items()
    )
    return float(0.5 * (1.0 + np.tanh(0.5 * logit)))


def verdict_file() -> Path:
    """The file inside the package."""
    return Path(str(resources.files(__package__) / "verdict.json"))


@functools.cache
def shipped_verdict() -> PairVerdict:
    """That of the package, read once."""
    return read_verdict(verdict_file())


def read_verdict(path: Path) -> PairVerdict:
    """From a file.

    Raises:
        FileNotFoundError: no such file. ValueError: another kind of file; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"has format {content['format']!r}: {FORMAT!r} wanted")
        models = {
            name: {term: float(value) for term, value in model.items()}
            for name, model in content["models"].items()
        }
        threshold = {name: float(content["threshold"][name]) for name in GEOMETRIES}
        return PairVerdict(threshold, models, content["notes"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no verdict of n3match: {error}") from error
