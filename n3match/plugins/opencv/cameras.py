"""The cameras of a call, from whichever of OpenCV's argument lists it follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from n3match.arguments import real, sequence
from n3match.geometry.checks import check_distortion
from n3match.plugins.cameras import check_pixel_camera


@dataclass(frozen=True)
class Cameras:
    """Camera matrices and coefficients of both images, and their names."""

    names: tuple[str, str]
    distortion_names: tuple[str, str]
    matrices: tuple[np.ndarray, np.ndarray]
    distortions: tuple[np.ndarray | None, np.ndarray | None]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Cameras:
        """From arguments by name: two matrices, one, or a focal length and principal point."""
        if "cameraMatrix1" in given:
            suffix = "dist_coeff" if "dist_coeff1" in given else "distCoeffs"
            return cls(
                ("cameraMatrix1", "cameraMatrix2"),
                (f"{suffix}1", f"{suffix}2"),
                (given["cameraMatrix1"], given["cameraMatrix2"]),
                (given[f"{suffix}1"], given[f"{suffix}2"]),
            )
        if "cameraMatrix" in given:
            K = given["cameraMatrix"]
            return cls(("cameraMatrix", "cameraMatrix"), ("", ""), (K, K), (None, None))
        focal = real("focal", given.get("focal", 1.0))
        centre = sequence("pp", given.get("pp", (0.0, 0.0)), "two numbers")
        if len(centre) != 2:
            raise ValueError(f"pp must be two numbers, got {len(centre)}")
        cx, cy = (real("pp", number) for number in centre)
        K = np.array([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])
        return cls(("focal", "focal"), ("", ""), (K, K), (None, None))

    def checked(self, points1: np.ndarray, points2: np.ndarray) -> list[np.ndarray]:
        """The matrices as float64.

        Raises:
            ValueError: not a camera matrix, or not in the units of the points; coefficients of no
                lens.
        """
        for name, distortion in zip(self.distortion_names, self.distortions):
            check_distortion(name, distortion)
        return [
            check_pixel_camera(name, K, None, points)
            for name, K, points in zip(self.names, self.matrices, (points1, points2))
        ]
