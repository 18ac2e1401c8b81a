"""The filter in code that uses Kornia: in place of LocalFeatureMatcher, then a differentiable E."""

from pathlib import Path

import kornia
import kornia.feature as KF
import torch

from n3match import pipelines
from n3match.plugins.kornia import N3LocalFeatureMatcher, WeightedEightPoint

BUNDLED = Path(pipelines.__path__[0]) / "demo_data"
image0, image1 = (
    kornia.io.load_image(str(BUNDLED / name), kornia.io.ImageLoadType.GRAY32)[None]
    for name in ("img_4885.jpg", "img_4929.jpg")
)
K = torch.tensor([[840.62, 0, 383.5], [0, 840.62, 511.5], [0, 0, 1]])

matcher = N3LocalFeatureMatcher(KF.SIFTFeatureScaleSpace(1000, descriptor_backend="pyramid"))
with torch.inference_mode():
    out = matcher({"image0": image0, "image1": image1, "K0": K, "K1": K})
print(f"{len(out['keypoints0'])} matches kept, the surest with {out['confidence'].max():.3f}")

# Weights may be learned through the eight-point algorithm.
points0, points1 = (out[name].clone()[None] for name in ("keypoints0", "keypoints1"))
weights = out["confidence"].clone()[None].requires_grad_()
E = WeightedEightPoint()(points0, points1, weights, K[None], K[None])
F = kornia.geometry.epipolar.fundamental_from_essential(E, K[None], K[None])
distance = kornia.geometry.epipolar.sampson_epipolar_distance(points0, points1, F, squared=True)
distance.mean().backward()
print(f"median distance {distance.sqrt().median():.2f} px, gradient {weights.grad.norm():.3g}")
