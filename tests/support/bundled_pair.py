"""The bundled photographs as OpenCV users read them, and keypoints of any detector."""

import functools
import json
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

from n3match.geometry import pose_error_deg

FOLDER = Path(str(resources.files("n3match.pipelines"))) / "demo_data"
PHOTOS = FOLDER / "img_4885.jpg", FOLDER / "img_4929.jpg"
PAIR = json.loads((FOLDER / "pair.json").read_text(encoding="utf-8"))
K = np.array(PAIR["images"][0]["K"])
DISTORTION = np.array(PAIR["images"][0]["distortion"])
SIZE = (768, 1024)
R, T = np.array(PAIR["R"]), np.array(PAIR["t"])


def detector(name: str):
    """By name: OpenCV 5 has AKAZE and BRISK in xfeatures2d."""
    create = getattr(cv2, f"{name}_create", None) or getattr(cv2.xfeatures2d, f"{name}_create")
    return create(2000) if name in ("SIFT", "ORB") else create()


def photograph(which: int) -> np.ndarray:
    """(1024, 768) uint8."""
    return cv2.imread(str(PHOTOS[which]), cv2.IMREAD_GRAYSCALE)


@functools.cache
def features(name: str):
    """[(keypoints, descriptors), (keypoints, descriptors)] of the pair, the 2000 strongest."""
    found = []
    for which in range(2):
        keypoints, descriptors = detector(name).detectAndCompute(photograph(which), None)
        best = np.argsort([-k.response for k in keypoints], kind="stable")[:2000]
        found.append(([keypoints[i] for i in best], descriptors[best]))
    return found


def error_deg(rotation, translation) -> float:
    """max of rotation and translation error of a pose of the pair."""
    return float(pose_error_deg(np.asarray(rotation), np.ravel(translation), R, T))
