"""What an evaluation of poses can compare, by name."""

from __future__ import annotations

from dataclasses import dataclass

# The usual match filters, with what the tables say of them.
DESCRIPTIONS = {
    "none": "all putative matches",
    "ratio": "nearest / second nearest distance < 0.8",
    "mutual": "nearest neighbours of each other",
    "mutual-ratio": "mutual, and ratio < 0.9",
    "gms": "`cv2.xfeatures2d.matchGMS`, default settings (no rotation, no scale)",
    "gms-rotation-scale": "the same with rotation and scale",
    "adalam": "`kornia.feature` AdaLAM, default settings",
}

SAMPLINGS = ("uniform", "by_weight")


@dataclass(frozen=True)
class Protocol:
    """How an estimator is run here."""

    title: str
    options: dict[str, float]
    package: str  # whose version matters


PROTOCOLS = {
    "eight_point": Protocol(
        "Weighted eight-point algorithm (no RANSAC), weights of the filter, 1 without", {}, "torch"
    ),
    # Threshold, confidence and iterations (OpenCV's defaults) of the CNNet and N³ evaluations.
    "opencv_ransac": Protocol(
        "OpenCV five-point RANSAC, 1e-3 in calibrated units",
        {"threshold_calibrated": 1e-3, "confidence": 0.999, "max_iterations": 1000},
        "opencv",
    ),
    "opencv_usac": Protocol("OpenCV USAC (MAGSAC++), 1 px", {"threshold": 1.0}, "opencv"),
    "poselib": Protocol("PoseLib LO-RANSAC, 1 px", {"threshold": 1.0}, "poselib"),
    "kornia": Protocol("Kornia five-point RANSAC, 1 px", {"threshold": 1.0}, "kornia"),
}
