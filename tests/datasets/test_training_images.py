"""Images to train denoising on, beside those that it is measured on."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from n3match.datasets.denoising.image_files import images_in

_SIDE = 12
_SAME = 4.0  # grey levels; images of these sets that differ do so by more than twice that


def thumbnail(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    return cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def in_both(images: list[Path], others: list[Path]) -> list[tuple[str, str]]:
    """Pairs of the same content, however compressed, in colour or grey, turned or not."""
    thumbnails = np.stack([thumbnail(path) for path in others])
    found = []
    for path in images:
        for turns in range(4):
            distance = np.abs(np.rot90(thumbnail(path), turns) - thumbnails).mean((1, 2))
            found += [(path.name, others[i].name) for i in np.flatnonzero(distance < _SAME)]
    return found


@pytest.mark.parametrize("folder", ["bsds500_train_test", "bsds500_val_rest", "shrunk"])
def test_no_image_is_one_that_networks_are_measured_on(shared_data, tmp_path, folder):
    data = shared_data / "denoise"
    measured_on = [path for name in ("bsd68", "set12") for path in images_in(data / name)]
    assert not in_both(images_in(data / folder), measured_on)
    # One that is there is found, though it is another file.
    image = cv2.imread(str(measured_on[5]))
    cv2.imwrite(str(tmp_path / "planted.jpg"), np.rot90(image), [cv2.IMWRITE_JPEG_QUALITY, 60])
    found = in_both([tmp_path / "planted.jpg"], measured_on)
    assert found == [("planted.jpg", measured_on[5].name)]
