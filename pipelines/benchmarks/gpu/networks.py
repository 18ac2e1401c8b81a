"""Filter and denoiser on a GPU: as on a CPU, with nothing that waits for the device; times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from n3match.files.whole import write_whole
from n3match.matching.side_info import CHANGE_COLUMNS
from n3match.nn import MatchFilter, N3Net, N3NetConfig
from n3match.pipelines.benchmarks.gpu.operator import NO_GPU, missing
from n3match.pipelines.benchmarks.gpu.timings import as_graph, seconds_of
from n3match.pipelines.common.tables import markdown_table
from n3match.weights import load_weights

FILTERS, DENOISERS = ("sift", "sift-cnnet"), ("n3net-25",)
_PAIRS = 4  # of a call
_SMALL = 96  # side of the image on which a denoiser is compared with the CPU
# Largest difference from the CPU's float32, of the largest number: of logits, of an image.
TOLERANCES = {
    torch.float32: (1e-2, 1e-3), torch.float16: (0.3, 2e-2), torch.bfloat16: (1.0, 1e-1),
}


@dataclass(frozen=True)
class Row:
    network: str
    size: str
    dtype: torch.dtype
    difference: float  # from the CPU's float32, of its largest number
    tolerance: float
    waits: str  # what waits for the device; "" if nothing does
    seconds: float
    replayed: float | None  # as a CUDA graph

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance and not self.waits  # NaN doesn't


def waiting(call: Callable[[], object], device: str) -> str:
    """What a call waits for; "" if nothing, or where that can't be told."""
    if device != "cuda":
        return ""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as problem:
        return str(problem).partition("\n")[0]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return ""


def _filter(name: str, matches: int) -> tuple[nn.Module, dict[str, Tensor]]:
    net = MatchFilter.from_pretrained(name)
    generator = torch.Generator().manual_seed(0)
    columns = {"points0": 2, "points1": 2, "side_info": len(net.side_info)}
    if net.config.keypoint_change:
        columns["keypoint_change"] = CHANGE_COLUMNS
    given = {
        name: torch.rand(_PAIRS, matches, count, generator=generator) - 0.5 * ("p" in name)
        for name, count in columns.items()
    }
    if "mutual" in net.side_info:
        given["side_info"][..., net.side_info.index("mutual")].round_()
    return net, given


def _denoiser(name: str, side: int) -> tuple[nn.Module, dict[str, Tensor]]:
    _, config, state = load_weights(name)
    net = N3Net(N3NetConfig(**config))
    net.load_state_dict(state)
    channels = net.config.channels + len(net.config.maps)
    generator = torch.Generator().manual_seed(0)
    return net.eval(), {"x": torch.rand(1, channels, side, side, generator=generator)}


def _run(
    net: nn.Module, given: dict[str, Tensor], device: str, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """A call with its products in that type, which a filter does by itself."""
    net = net.to(device)
    given = {name: x.to(device) for name, x in given.items()}
    if isinstance(net, MatchFilter):
        function, casts = net.to(dtype).logits, False
    else:
        function, casts = net, dtype != torch.float32

    def call() -> Tensor:
        with torch.inference_mode(), torch.autocast(device, dtype if casts else None, casts):
            return function(**given)

    return call


def measure(
    sizes: Sequence[int], sides: Sequence[int], device: str, repeats: int
) -> Iterator[Row]:
    """Of filters with so many matches a pair, of denoisers on images of those sides."""
    tasks = [(_filter, name, n, n, f"{_PAIRS} × {n}", 0) for name in FILTERS for n in sizes]
    tasks += [
        (_denoiser, name, min(side, _SMALL), side, f"{side}²", 1)
        for name in DENOISERS
        for side in sides
    ]
    for make, name, compared, timed, size, kind in tasks:
        wanted = _run(*make(name, compared), "cpu", torch.float32)()
        for dtype, tolerances in TOLERANCES.items():
            found = _run(*make(name, compared), device, dtype)()
            difference = (found.cpu().float() - wanted).abs().max() / wanted.abs().max()
            call = _run(*make(name, timed), device, dtype)
            call()  # what is compiled, and tried, the first time
            waits = waiting(call, device)
            seconds = seconds_of(call, device, repeats)
            replayed = None
            if device == "cuda" and not waits:
                replayed = seconds_of(as_graph(call), device, repeats)
            yield Row(
                name, size, dtype, difference.item(), tolerances[kind], waits, seconds, replayed
            )


def run(
    sizes: Sequence[int], sides: Sequence[int], device: str, repeats: int, out: Path | None = None
) -> int:
    """Prints the rows as they are found; with `out`, writes benchmark-gpu-networks.md there.

    Returns:
        An exit status: 0; 1 where something waits or differs; 2 without the GPU.
    """
    reason = missing() if device == "cuda" else ""
    if reason:
        print(f"The networks were not run: {reason}.")
        return NO_GPU
    rows = []
    for row in measure(sizes, sides, device, repeats):
        rows.append(row)
        print(table([row]) + "\n", flush=True)
    if out is not None:
        write_whole(out / "benchmark-gpu-networks.md", table(rows) + "\n")
    return 0 if all(row.passed for row in rows) else 1


def table(rows: Sequence[Row]) -> str:
    columns = [
        "network", "size", "type", "off by", "allowed", "waits for the GPU", "ms",
        "as a CUDA graph, ms",
    ]
    return markdown_table(columns, [
        [
            r.network, r.size, str(r.dtype).removeprefix("torch."), f"{r.difference:.1e}",
            f"{r.tolerance:.0e}", r.waits or "no", f"{1e3 * r.seconds:.3g}",
            "—" if r.replayed is None else f"{1e3 * r.replayed:.3g}",
        ]
        for r in rows
    ])
