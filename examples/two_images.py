"""From two photographs to matches, a relative pose and a picture.

    python two_images.py [A.jpg B.jpg]

Without arguments: the bundled pair.
"""

import sys
from pathlib import Path

import n3match
from n3match import pipelines

BUNDLED = Path(pipelines.__path__[0]) / "demo_data"
image0, image1 = sys.argv[1:3] or (BUNDLED / "img_4885.jpg", BUNDLED / "img_4929.jpg")

pair = n3match.match_images(image0, image1)
print(f"{len(pair.points0)} putative matches, {pair.kept.sum()} kept")
best = pair.probability.argmax()
print(f"the surest: {pair.points0[best]} in image 0 is {pair.points1[best]} in image 1")

pose = pair.pose()
print(f"{pose.status}: {pose.num_inliers} inliers {pose.detail}")
if pose.ok:
    print(f"R = {pose.R.round(4).tolist()}\nt = {pose.t.round(4).tolist()}")
pair.plot("matches.png")
