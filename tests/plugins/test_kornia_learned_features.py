"""Kornia's learned features themselves, untrained (their weights would have to be downloaded)."""

import cv2
import kornia.feature as KF
import pytest
import torch
from bundled_pair import photograph
from torch import nn

from n3match.plugins.kornia import LocalFeatureMatchFilter, N3LocalFeatureMatcher

COUNT = 80


class Disk(nn.Module):
    """DISK as one of kornia's local features."""

    def __init__(self):
        super().__init__()
        self.disk = KF.DISK()

    def forward(self, image, mask=None):
        found = self.disk(image.expand(-1, 3, -1, -1), COUNT, pad_if_not_divisible=True)
        keypoints, responses, descriptors = (
            torch.stack([getattr(f, name) for f in found])
            for name in ("keypoints", "detection_scores", "descriptors")
        )
        return KF.laf_from_center_scale_ori(keypoints), responses, descriptors


class DeDoDe(nn.Module):
    """DeDoDe as one of kornia's local features."""

    def __init__(self):
        super().__init__()
        self.dedode = KF.DeDoDe("L", "B", torch.float32)

    def forward(self, image, mask=None):
        keypoints, responses, descriptors = self.dedode(image.expand(-1, 3, -1, -1), COUNT)
        return KF.laf_from_center_scale_ori(keypoints), responses, descriptors


def keynet():
    detector = KF.KeyNetDetector(False, COUNT, ori_module=KF.LAFOrienter(19))
    # Untrained, its responses may all be negative, and cut to 0.
    last = [layer for layer in detector.modules() if isinstance(layer, nn.Conv2d)][-1]
    nn.init.ones_(last.bias)
    return KF.LocalFeature(detector, KF.LAFDescriptor(KF.HardNet(False)))


@pytest.fixture(scope="module")
def data():
    small = (
        cv2.resize(photograph(i), (96, 128), interpolation=cv2.INTER_AREA) for i in range(2)
    )
    images = [torch.from_numpy(image)[None, None].float() / 255 for image in small]
    return {"image0": images[0], "image1": images[1]}


@pytest.mark.parametrize("make", [Disk, DeDoDe, keynet])
def test_their_frames_and_descriptors_go_through(data, make):
    torch.manual_seed(0)
    feature = make().eval()
    with torch.inference_mode():
        raw = KF.LocalFeatureMatcher(feature, KF.DescriptorMatcher("nn"))(data)
        behind = LocalFeatureMatchFilter()(raw, data)
        whole = N3LocalFeatureMatcher(feature)(data)
    assert len(raw["confidence"]) > COUNT // 2
    candidates = {tuple(row.tolist()) for row in torch.cat(_ends(raw), 1)}
    for out in (behind, whole):
        assert {name: (t.dtype, t.ndim) for name, t in out.items() if name in raw} == {
            name: (t.dtype, t.ndim) for name, t in raw.items()
        }
        assert len(out["confidence"]) < len(raw["confidence"])
        assert ((out["confidence"] > 0.5) & (out["confidence"] <= 1)).all()
        assert {tuple(row.tolist()) for row in torch.cat(_ends(out), 1)} <= candidates


def _ends(matches):
    return matches["keypoints0"], matches["keypoints1"]
