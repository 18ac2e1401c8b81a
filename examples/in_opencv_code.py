"""The filter in code that uses OpenCV: in place of a ratio test, or of matchGMS."""

from pathlib import Path

import cv2
import numpy as np

from n3match import pipelines
from n3match.plugins.opencv import filter_matches, find_essential_mat, match_information

BUNDLED = Path(pipelines.__path__[0]) / "demo_data"
image1, image2 = (
    cv2.imread(str(BUNDLED / name), cv2.IMREAD_GRAYSCALE)
    for name in ("img_4885.jpg", "img_4929.jpg")
)
K = np.array([[840.62, 0, 383.5], [0, 840.62, 511.5], [0, 0, 1]])

sift = cv2.SIFT_create(2000)
keypoints1, descriptors1 = sift.detectAndCompute(image1, None)
keypoints2, descriptors2 = sift.detectAndCompute(image2, None)
matches = cv2.BFMatcher(cv2.NORM_L2).match(descriptors1, descriptors2)  # all, no ratio test

sizes = image1.shape[::-1], image2.shape[::-1]
good = filter_matches(
    *sizes, keypoints1, keypoints2, matches, K1=K, K2=K,
    descriptors1=descriptors1, descriptors2=descriptors2,
)
print(f"{len(good)} of {len(matches)} matches kept")
cv2.imwrite("good.png", cv2.drawMatches(image1, keypoints1, image2, keypoints2, good, None))

# The essential matrix takes all matches: the filter runs before OpenCV's estimator.
points1 = np.float32([keypoints1[m.queryIdx].pt for m in matches])
points2 = np.float32([keypoints2[m.trainIdx].pt for m in matches])
known = match_information(keypoints1, keypoints2, matches, descriptors1, descriptors2)
E, inliers = find_essential_mat(points1, points2, K, None, K, None, **known)
print("no pose that can be trusted" if E is None else f"{inliers.sum()} inliers\n{E.round(4)}")
