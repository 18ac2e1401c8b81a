"""Camera matrices of a batch of pairs, given or guessed from the image sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from n3match.arguments import sequence, whole
from n3match.geometry.checks import check_tensor
from n3match.plugins.cameras import check_inside, check_pixel_camera, given_or_guessed


def camera_batch(
    name: str, K: Tensor | None, size_name: str, hw: tuple[int, int] | None, pairs: int
) -> Tensor:
    """(B, 3, 3) float64 on the CPU.

    Args:
        name: of the argument.
        K: (B, 3, 3) or (3, 3) in pixels; None: guessed (focal length 1.2 × the longer side).
        size_name: of the argument that tells the size.
        hw: (height, width) of the images; None where it isn't known: K is then needed.
        pairs: B.

    Raises:
        ValueError: neither K nor a size, or a K that belongs to an image of another size.
    """
    size = None if hw is None else size_of(size_name, hw)
    if K is None:
        camera = given_or_guessed(name, None, size_name, size)
        return torch.from_numpy(camera).expand(pairs, 3, 3)
    if isinstance(K, Tensor):
        check_tensor(name, K, 3, 3)
    if not isinstance(K, Tensor) or tuple(K.shape) not in ((3, 3), (pairs, 3, 3)):
        found = tuple(K.shape) if isinstance(K, Tensor) else type(K).__name__
        raise ValueError(
            f"{name} must have shape (3, 3) or (B, 3, 3) with B = {pairs}, got {found}"
        )
    matrices = K.detach().double().cpu().reshape(-1, 3, 3)
    for matrix in matrices:
        check_pixel_camera(name, matrix, size)
    return matrices.expand(pairs, 3, 3)


def size_of(name: str, hw: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of kornia's (height, width).

    Raises:
        ValueError, TypeError: another value; names the argument.
    """
    if len(sequence(name, hw, "height and width")) != 2:
        raise ValueError(f"{name} must be (height, width), got {len(hw)} numbers")
    height, width = (whole(name, side, 1) for side in hw)
    return width, height


def check_keypoints(
    name: str, keypoints: Tensor, size_name: str, hw: tuple[int, int] | None
) -> None:
    """Require finite keypoints (N, 2), inside the image where its size is known."""
    if not bool(keypoints.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite numbers: finite numbers wanted")
    if hw is not None:
        check_inside(
            name, keypoints.detach().double().cpu().numpy(), size_name, size_of(size_name, hw)
        )
