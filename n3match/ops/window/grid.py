"""Where the patches of an image lie, and which of them a query patch may select.

Patches of P×P pixels every S pixels of a zero-padded image: the padding makes (H − P) a multiple of
S, its smaller half at the top and left. The window of the query at grid position (i, j) is the
min(W, n₁) × min(W, n₂) patches from (clamp(i − W//2, 0, n₁ − W), …) on: moved inwards at the
border, never cut, and clamped to the grid where the grid is smaller. Even W are allowed.

B batch, C channels, (n₁, n₂) patches, M = n₁·n₂, D = C·P², O candidates of a query.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class WindowGrid:
    height: int
    width: int
    patch_size: int
    stride: int
    window: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n₁, n₂)."""
        return self._patches(self.height), self._patches(self.width)

    def _patches(self, length: int) -> int:
        return -(-(length - self.patch_size) // self.stride) + 1

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Height and width after padding."""
        rows, columns = (self.patch_size + (n - 1) * self.stride for n in self.shape)
        return rows, columns

    @property
    def window_shape(self) -> tuple[int, int]:
        """Rows and columns of every window."""
        rows, columns = (min(self.window, n) for n in self.shape)
        return rows, columns

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Left, right, top, bottom."""
        high, wide = (p - n for p, n in zip(self.padded_shape, (self.height, self.width)))
        return wide // 2, wide - wide // 2, high // 2, high - high // 2

    def pad(self, image: Tensor) -> Tensor:
        return functional.pad(image, self.padding)

    def crop(self, image: Tensor) -> Tensor:
        left, _, top, _ = self.padding
        return image[..., top : top + self.height, left : left + self.width]

    @property
    def firsts(self) -> tuple[list[int], list[int]]:
        """First row and first column of the windows, for the queries in each row and column."""
        rows, columns = (
            [min(max(i - self.window // 2, 0), n - w) for i in range(n)]
            for n, w in zip(self.shape, self.window_shape)
        )
        return rows, columns

    def candidates(self, device: torch.device | None = None) -> Tensor:
        """(M, O) numbers of the patches in each window, the query itself among them."""
        rows, columns = (
            torch.tensor(first, device=device)[:, None] + torch.arange(w, device=device)
            for first, w in zip(self.firsts, self.window_shape)
        )
        index = rows[:, None, :, None] * self.shape[1] + columns[None, :, None, :]
        return index.flatten(0, 1).flatten(1)

    def cells(self, padded: Tensor) -> Tensor:
        """(B, C, H', W') -> (B, y, x, C·S²): in cells of S×S pixels, where P is a multiple."""
        s = self.stride
        b, c, high, wide = padded.shape
        cut = padded.view(b, c, high // s, s, wide // s, s)
        return cut.permute(0, 2, 4, 1, 3, 5).flatten(3)

    def patches(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, M, D)."""
        return functional.unfold(self.pad(image), self.patch_size, stride=self.stride).mT

    def put_back(self, patches: Tensor) -> Tensor:
        """(B, M, D) -> (B, C, H, W): the mean of the patches that cover a pixel."""

        def add(columns: Tensor) -> Tensor:
            return functional.fold(
                columns, self.padded_shape, self.patch_size, stride=self.stride
            )

        count = add(patches.new_ones(1, self.patch_size**2, patches.shape[1]))
        return self.crop(add(patches.mT) / count)
