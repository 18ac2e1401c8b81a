"""Photographs with known poses become pairs, pairs a filter: a run of a few steps.

A scene here is a list of pairs, of the two bundled photographs; a folder with a COLMAP model or
any other that docs/data-formats.md names does as well. For a filter that is of use: more scenes,
and thousands of steps.
"""

import json
from pathlib import Path

import numpy as np

from n3match import pipelines
from n3match.pipelines.cli import main

BUNDLED = Path(pipelines.__path__[0]) / "demo_data"
about = json.loads((BUNDLED / "pair.json").read_text(encoding="utf-8"))
T = np.eye(4)
T[:3, :3], T[:3, 3] = about["R"], about["t"]
names = [image["file"] for image in about["images"]]
numbers = [x for image in about["images"] for x in np.ravel(image["K"])] + [*T.ravel()]
Path("scene.txt").write_text(" ".join(map(str, [*names, 0, 0, *numbers])) + "\n")

steps = [
    ["build-pairs", "scene.txt", "pairs.h5", "--image-root", str(BUNDLED)],
    ["train-filter", "run", "--pairs", "pairs.h5", "--network", "n3-consensus",
     "--steps", "3", "--batch", "2", "--min-matches", "200", "--max-matches", "200"],
    ["evaluate-pose", "pairs.h5", "--filters", "mutual", "run/filter.safetensors", "sift",
     "--estimators", "opencv_usac"],
]  # fmt: skip
for step in steps:
    print("\n$ n3match " + " ".join(step), flush=True)
    if main(step) != 0:
        raise SystemExit(f"{step[0]} failed")
