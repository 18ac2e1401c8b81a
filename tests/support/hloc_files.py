"""hloc's files of made-up scenes, for tests."""

from pathlib import Path

import h5py
import numpy as np
from putative_scenes import SIZE0, SIZE1, make_scene

NAMES = [("db/a_1.jpg", "db/b_1.jpg"), ("db/a_2.jpg", "query/b_2.jpg"), ("c.jpg", "d/e/f.jpg")]


def write_hloc(folder: Path, *, names=NAMES, joint: str = "/", right: int = 120, wrong: int = 240):
    """features.h5, matches.h5 and the scenes; keypoint i of image 0 matches keypoint i of 1."""
    scenes = [make_scene(right, wrong, seed=seed) for seed in range(len(names))]
    features, matches = folder / "features.h5", folder / "matches.h5"
    with h5py.File(features, "w") as f, h5py.File(matches, "w") as m:
        for (name0, name1), scene in zip(names, scenes):
            for name, points, size in (
                (name0, scene.points0, SIZE0), (name1, scene.points1, SIZE1)
            ):
                group = f.create_group(name)
                group["keypoints"] = points.astype(np.float32)
                group["image_size"] = np.array(size)
            group = m.create_group(joint.join(n.replace("/", "-") for n in (name0, name1)))
            group["matches0"] = np.arange(len(scene.right), dtype=np.int16)
            group["matching_scores0"] = np.full(len(scene.right), 0.25, np.float16)
    return features, matches, scenes
