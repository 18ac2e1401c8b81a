"""A trained denoising network as it is used: batch norms folded, large images in tiles."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from n3match import weights
from n3match.arguments import check_function, whole
from n3match.denoising.tiles import Layout, Span, tile_sides
from n3match.nn import N3Net, N3NetConfig
from n3match.weights.store import build

# Bytes per pixel that a stage needs at its peak, for each feature channel and each channel of a
# block's output, in float32: measured on 512×512 pixels, with a fifth to spare.
_BYTES_PER_FEATURE = 14
_BYTES_PER_NEIGHBOUR_CHANNEL = 12

# Features of a layer that are made at once on a CPU: larger arrays leave the cache, and each is
# memory new from the system, which fills it with zeros first. And how much more work that may be.
_BYTES_AT_ONCE = 24 << 20
_MOST_WORK = 1.1


class Denoiser(N3Net):
    """`N3Net` for inference: see `N3Net.forward`; `restore` keeps to a memory limit.

    Attributes:
        products_in: type that `restore` multiplies matrices in, e.g. torch.bfloat16; None: that of
            the weights. Images, and what is compared and added up, stay as they are.
    """

    products_in: torch.dtype | None = None

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike) -> Denoiser:
        """Loads shipped weights by name or any weights file by path.

        Args:
            name_or_path: a shipped name (see `n3match.weights.shipped`), or a .safetensors file.

        Returns:
            The network in eval mode, on the CPU, batch norms folded into the convolutions.

        Raises:
            FileNotFoundError: no such name or file. ValueError: the file holds something else.
        """
        network, config, state = weights.load_weights(name_or_path)
        if network not in ("N3Net", "Denoiser"):
            raise ValueError(
                f"name_or_path: {name_or_path} holds a {network}, not a denoising network"
            )
        net = build(cls, N3NetConfig, config, state, f"name_or_path: {name_or_path}")
        return _folded(net.eval()).requires_grad_(False)

    @torch.inference_mode()
    def restore(
        self,
        x: Tensor,
        *,
        memory_limit: int = 1 << 30,
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """`forward`, stage by stage in overlapping tiles where the whole doesn't fit.

        The result is that of `forward` but for rounding: margins are as wide as each stage looks.
        A limit that is too small is found before anything is computed.

        Args:
            x: (B, C + M, H, W) as in `forward`.
            memory_limit: bytes for intermediate results; the whole image's features between two
                stages are among them.
            progress: called after each tile with the share of the work that is done, which goes
                with the time.

        Raises:
            ValueError: a limit too small even for tiles. TypeError: no function for `progress`.
        """
        if progress is not None:
            check_function("progress", progress)
        given, x = x, self.planes_of(x)
        size = given.shape[2:]
        b, _, height, width = x.shape
        tiled = self._tiled(b, height, width, x.element_size(), memory_limit)
        whole = sum(run.bytes for run, _ in tiled)
        matching, before = None, 0.0
        # A CPU's convolutions take three quarters of the time where channels lie side by side.
        layout = torch.channels_last if x.device.type == "cpu" else torch.contiguous_format
        x = x.to(memory_format=layout)
        for run, tiles in tiled:
            out = torch.empty(
                (b, run.channels, height, width), dtype=x.dtype, device=x.device,
                memory_format=layout,
            )
            for done, (row, column) in enumerate(tiles, 1):
                tile = (..., row.tile, column.tile)
                near = None if matching is None else matching[tile]
                with torch.autocast(
                    x.device.type, self.products_in, enabled=self.products_in is not None
                ):
                    found = run.function(x[tile], near)
                out[..., row.core, column.core] = found[
                    ..., row.core_in_tile, column.core_in_tile
                ]
                if progress is not None:
                    progress((before + run.bytes * done / len(tiles)) / whole)
            before += run.bytes
            if run.is_guide:
                matching = out
            else:
                if matching is None and self.config.matching == "input":
                    matching = x[:, : self.config.planes]
                x = out
        return self.image_of(x, size)

    def work(self, height: int, width: int, memory_limit: int = 1 << 30) -> float:
        """Pixels that `restore` goes through for one of an image, with margins: 1 or more.

        Args:
            height, width: of the image.
            memory_limit: as of `restore`, for float32.

        Raises:
            ValueError: a limit too small even for tiles.
        """
        height, width = whole("height", height, 1), whole("width", width, 1)
        height, width = (-(-side // self.config.scale) for side in (height, width))
        tiled = self._tiled(1, height, width, 4, memory_limit)
        pixels = sum(
            run.bytes * sum(row.length * column.length for row, column in tiles)
            for run, tiles in tiled
        )
        return pixels / (height * width * sum(run.bytes for run, _ in tiled))

    def _tiled(
        self, b: int, height: int, width: int, itemsize: int, memory_limit: int
    ) -> list[tuple[_Pass, list[tuple[Span, Span]]]]:
        """The passes, each with its tiles: rows and columns."""
        memory_limit = whole("memory_limit", memory_limit, 1)
        passes = self._passes()
        kept = b * height * width * itemsize * 2 * max(p.channels for p in passes)
        tiled = []
        for run in passes:
            pixels = (memory_limit - kept) // max(b * run.bytes * itemsize // 4, 1)
            sides = tile_sides(height, width, max(pixels, 1))
            try:
                rows = list(run.layout.spans(height, sides[0]))
                columns = list(run.layout.spans(width, sides[1]))
            except ValueError as error:
                raise ValueError(
                    f"memory_limit: {memory_limit} bytes are too few for {height}×{width} pixels: "
                    f"{error}"
                ) from error
            tiled.append((run, [(row, column) for row in rows for column in columns]))
        return tiled

    def _passes(self) -> list[_Pass]:
        config = self.config
        plain = _BYTES_PER_FEATURE * config.features
        passes = []
        if self.guide is not None:
            layout = Layout(self.guide.reach)
            passes.append(
                _Pass(lambda x, _: self.guide(x), layout, config.planes, plain, is_guide=True)
            )
        last = self.stages - 1
        for index in range(self.stages):
            layout = Layout(self.reach(index))
            needed = plain
            if index:
                layout = replace(
                    layout, patch_size=config.patch_size, stride=config.stride,
                    window=config.window,
                )
                wide = (config.neighbours + 1) * config.block_channels
                needed += _BYTES_PER_NEIGHBOUR_CHANNEL * wide
            channels = config.planes if index == last else config.block_channels
            passes.append(_Pass(partial(self.stage, index), layout, channels, needed))
        return passes


class _Pass:
    """Something that is done to the whole image, tile by tile.

    The time that it takes for a pixel goes with `bytes`: 1 : 2.1 was measured, they are 1 : 1.9.
    """

    def __init__(self, function, layout: Layout, channels: int, bytes: int, is_guide=False):
        self.function, self.layout, self.channels = function, layout, channels
        self.bytes, self.is_guide = bytes, is_guide


def _folded(net: Denoiser) -> Denoiser:
    """Batch norms in eval mode are linear: the convolutions before them can do their work."""
    for module in net.modules():
        for name, stack in module.named_children():
            if isinstance(stack, nn.Sequential):
                setattr(module, name, _folded_stack(stack))
    return net


def _folded_stack(stack: nn.Sequential) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in stack:
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    return _Stack(*layers)


class _Stack(nn.Sequential):
    """Convolutions one after the other: on a CPU in tiles that stay in the caches, where their
    margins are narrow enough for that to pay."""

    def forward(self, x: Tensor) -> Tensor:
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
        tiles = [] if plain or x.device.type != "cpu" else self._tiles(x)
        if len(tiles) < 2:
            return super().forward(x)
        out = None
        for row, column in tiles:
            found = super().forward(x[..., row.tile, column.tile])
            if out is None:
                out = torch.empty(
                    (*found.shape[:2], *x.shape[2:]), dtype=found.dtype,
                    memory_format=torch.channels_last,
                )
            out[..., row.core, column.core] = found[..., row.core_in_tile, column.core_in_tile]
        return out

    def _tiles(self, x: Tensor) -> list[tuple[Span, Span]]:
        """[] where the image is better done whole."""
        convolutions = [layer for layer in self if isinstance(layer, nn.Conv2d)]
        features = max(layer.out_channels for layer in convolutions)
        height, width = x.shape[2:]
        pixels = _BYTES_AT_ONCE // (len(x) * features * x.element_size())
        layout = Layout(len(convolutions))
        try:
            rows, columns = (
                list(layout.spans(length, longest))
                for length, longest in zip((height, width), tile_sides(height, width, pixels))
            )
        except (ValueError, ZeroDivisionError):  # no room for tiles with such margins
            return []
        tiles = [(row, column) for row in rows for column in columns]
        work = sum(row.length * column.length for row, column in tiles)
        return tiles if work <= _MOST_WORK * height * width else []
