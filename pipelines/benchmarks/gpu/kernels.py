"""What the Triton kernels become on a GPU, without one: compiled as for a launch, and read back.

Registers, spills, shared memory, programs that a multiprocessor holds, the kind of matrix products,
instructions and barriers of the loop over the items, copies under way in it: what decides about a
kernel's speed, and what a change of a kernel or of Triton can lose without a wrong result. Beside
them results of the interpreter, and a model of what tensor cores lose in long sums.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from n3match.files.whole import write_whole
from n3match.matching.side_info import CHANGE_COLUMNS
from n3match.nn.config import COORDINATES, PruningConfig
from n3match.ops.dispatch import LARGEST_DENSE_K, interpreted
from n3match.ops.triton import (
    candidates,
    dense,
    dense_backward,
    dense_forward,
    launch,
    operands,
    rows,
    window,
    window_cells,
)
from n3match.ops.window.grid import WindowGrid
from n3match.pipelines.benchmarks.baselines import LAYOUT
from n3match.pipelines.benchmarks.gpu import tensor_core_sums
from n3match.pipelines.benchmarks.gpu.timings import NEAR
from n3match.pipelines.benchmarks.operator_dense import EMBEDDING, FEATURES, NEIGHBOURS
from n3match.pipelines.benchmarks.operator_window import CHANNELS
from n3match.pipelines.benchmarks.operator_window import NEIGHBOURS as WINDOW_NEIGHBOURS
from n3match.pipelines.common.tables import markdown_table

_MODULES = (operands, dense_forward, dense_backward, window_cells, rows, candidates)
_POINTERS = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32",
    torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64", torch.bool: "*i1",
}
_REGISTERS = 65536  # of a multiprocessor
# Capability: multiprocessors, and bytes of shared memory, of a program and of a multiprocessor.
# Of 8.0 the program's is that of 8.6 and 8.9, which run the same code.
DEVICES = {
    80: (108, 99 << 10, 164 << 10),
    90: (132, 227 << 10, 228 << 10),
    100: (148, 227 << 10, 228 << 10),
}
_RESERVED = 1 << 10  # shared memory that every program takes besides its own
_MMA = ("HGMMA", "UTCHMMA", "UTCQMMA", "HMMA", "DMMA")
# Kernels that multiply, by Hopper's own instructions there.
_MULTIPLY = (
    "neighbours", "start", "power", "values", "row_sums", "key_sums", "value_sums", "products",
    "sums", "sums_back",
)

# Numbers of a row, and where the operands of its products lie, are loaded anew for each tile there.
_MOST_SPILLS = {"row_sums": 160, "key_sums": 60, "rows": 20, "items": 20, "row_gradients": 4}
# Of more steps than that.
_OF_MANY_STEPS = {3: {"row_sums": 200}, 6: {"row_sums": 450, "value_sums": 40}}
# In the loop of a kernel that multiplies.
_MOST_BARRIERS, _OF_BARRIERS = 4, {"key_sums": 6, "value_sums": 6, "sums_back": 6}
# A pair, in float32; of the values kernel for 64 features and three steps. For each step before
# those of a launch, whose masses it makes too, a few more.
_MOST_INSTRUCTIONS = {"neighbours": 25, "power": 22, "values": 35}
# Neighbours compares once more; tiles of the values kernel are half as large.
_WITHOUT_SELF = {"neighbours": 26, "values": 45}
_OF_EARLIER_STEP = 2.1
# What the shipped filter's neighbours are sought with: E, F, K; and a batch of its training.
FILTER = (
    PruningConfig().embedding_channels,
    PruningConfig().value_channels + COORDINATES + CHANGE_COLUMNS,
    PruningConfig().neighbours,
)
_FILTER_BATCH, _FILTER_MATCHES = 8, 1200
FILTER_STEPS = (FILTER[2], LARGEST_DENSE_K)  # K at the filter's sizes
# Kernels whose loops are pipelined: the next tile is on its way while one is computed.
_PIPELINED = ("neighbours", "power", "values", "products", "sums", "sums_back")
_LONGEST, _LARGEST_LOSS = 20000, 2e-6  # numbers of a sum, and of its size what may be lost
_INTERPRETED = """
import sys
from n3match.pipelines.benchmarks.gpu import operator
checks = list(operator.check("cpu", "triton", only="small"))
print(operator.checks_table(checks))
sys.exit(0 if all(check.passed for check in checks) else 1)
"""


@dataclass(frozen=True)
class Launch:
    kernel: triton.JITFunction
    arguments: tuple
    options: dict
    programs: int


@dataclass(frozen=True)
class Code:
    """What one kernel was compiled to; `loop_` numbers are those of the innermost loop that
    multiplies most, or is longest."""

    registers: int
    spills: int  # loads and stores of registers that didn't fit
    shared: int  # bytes
    mma: str  # "" if there is none
    loop_length: int  # instructions; 0 where there is no loop
    loop_spills: int
    loop_barriers: int
    under_way: int  # copies not waited for when a tile begins; 0 where loops aren't pipelined
    copied_again: int  # operands that are the same for every tile, and yet copied for each


@dataclass(frozen=True)
class Report:
    """Of one kernel at one size."""

    kernel: str
    size: str
    programs: int
    resident: int  # programs that a multiprocessor holds
    loop_instructions: float  # a pair of a query and an item, or of cells; 0 where there is no loop
    most_instructions: float  # of them, in float32
    most_spills: int
    code: Code


class _Recorder:
    """Stands for a kernel; notes what it would be launched with."""

    def __init__(self, kernel: triton.JITFunction, launches: list[Launch]):
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *arguments, **options: self._launches.append(
            Launch(self._kernel, arguments, options, math.prod(grid))
        )


@contextlib.contextmanager
def _recorded(capability: int) -> Iterator[list[Launch]]:
    """The launches of all that is called within, on a device of that capability."""
    launches: list[Launch] = []
    places = [(module, name) for module in _MODULES for name in vars(module)]
    kernels = {
        (module, name): kernel
        for module, name in places
        if isinstance(kernel := getattr(module, name), triton.JITFunction)
        and name.endswith("_kernel")
    }
    others = {(launch, "_device"): lambda index: DEVICES[capability][:2]} | {
        (module, "on_device_of"): lambda like: contextlib.nullcontext()
        for module in (dense, candidates, window)
    }
    kept = {(module, name): getattr(module, name) for module, name in (*kernels, *others)}
    stand_ins = {place: _Recorder(kernel, launches) for place, kernel in kernels.items()} | others
    try:
        for (module, name), thing in stand_ins.items():
            setattr(module, name, thing)
        with FakeTensorMode():
            yield launches
    finally:
        for (module, name), thing in kept.items():
            setattr(module, name, thing)


def _items(
    dtype: torch.dtype, b: int, m: int, n: int, e: int, f: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value and log t, of no numbers."""
    query, key, value = (
        torch.empty(*shape, device="cuda", dtype=dtype)
        for shape in ((b, m, e), (b, n, e), (b, n, f))
    )
    return query, key, value, torch.empty(b, m, 1, device="cuda", dtype=launch.accumulator(dtype))


def dense_launches(
    dtype: torch.dtype, capability: int, b: int, m: int, n: int, e: int, f: int, k: int,
    *, exclude_self: bool, temperature: bool = False,
) -> list[Launch]:
    """Both passes; temperature: with the gradient of log t."""
    with _recorded(capability) as launches:
        given = (*_items(dtype, b, m, n, e, f), None)
        kept = dense._forward(*given, k, exclude_self)
        dense._backward(
            torch.empty_like(kept[0]), given, kept, (k, exclude_self),
            [True, True, True, temperature],
        )
    return launches


def filter_launches(dtype: torch.dtype, capability: int, k: int) -> list[Launch]:
    """Of `dense_launches`, as the shipped filter is trained, but for K."""
    e, f, _ = FILTER
    b, n = _FILTER_BATCH, _FILTER_MATCHES
    return dense_launches(
        dtype, capability, b, n, n, e, f, k, exclude_self=True, temperature=True
    )


def candidates_launches(
    dtype: torch.dtype, capability: int, b: int, m: int, n: int, o: int, e: int, f: int, k: int,
    *, hard: bool = False, seed: int | None = None,
) -> list[Launch]:
    with _recorded(capability) as launches:
        index = torch.empty(b, m, o, device="cuda", dtype=torch.int64)
        mask = torch.empty(b, n, device="cuda", dtype=torch.bool)
        given, rest = (*_items(dtype, b, m, n, e, f), index, mask), (k, m == n, hard, seed)
        kept = candidates._forward(*given, *rest)
        candidates._backward(torch.empty_like(kept[0]), given, kept, rest, [True] * 6)
    return launches


def window_launches(
    dtype: torch.dtype, capability: int, channels: int, k: int, *layout: int,
    hard: bool = False, seed: int | None = None,
) -> list[Launch]:
    numbers = launch.accumulator(dtype)
    grid = WindowGrid(*layout)
    high, wide = (length // grid.stride for length in grid.padded_shape)
    patches = grid.shape[0] * grid.shape[1]
    with _recorded(capability) as launches:
        cells = [
            torch.empty(1, high * wide, window.depth(channels, grid), device="cuda", dtype=dtype)
            for _ in range(3)
        ]
        norm = torch.empty(1, high * wide, device="cuda", dtype=numbers)
        log_t = torch.empty(1, patches, 1, device="cuda", dtype=numbers)
        rest = (window._geometry(grid), k, True, hard, seed)
        kept = window._forward(*cells, norm, log_t, *rest)
        window._backward(
            torch.empty_like(kept[0]), (*cells, norm, log_t), kept, rest, [True] * 5
        )
    return launches


def _compile(launched: Launch, capability: int):
    kernel = launched.kernel
    given = dict(zip(kernel.arg_names, launched.arguments)) | launched.options
    settings = {
        name: given.pop(name)
        for name in ("num_warps", "num_stages", "enable_fp_fusion")
        if name in given
    }
    signature, constants, facts = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        name = parameter.name
        thing = given[name]
        plain = isinstance(thing, int) and parameter.do_not_specialize
        if parameter.is_constexpr or (isinstance(thing, int) and thing == 1 and not plain):
            signature[name], constants[name] = "constexpr", thing
            continue
        number = "i32" if isinstance(thing, int) and thing < 1 << 31 else "i64"
        signature[name] = number if isinstance(thing, int) else _POINTERS[thing.dtype]
        if not plain and (not isinstance(thing, int) or thing % 16 == 0):
            facts[(index,)] = [["tt.divisibility", 16]]
    return _compiled(
        kernel, tuple(signature.items()), tuple(constants.items()),
        tuple((i, tuple(map(tuple, f))) for i, f in facts.items()), tuple(settings.items()),
        capability,
    )


@functools.cache
def _compiled(kernel, signature, constants, facts, settings, capability) -> Code:
    """Once for launches of several sizes that come to the same code."""
    source = ASTSource(
        kernel, signature=dict(signature), constexprs=dict(constants),
        attrs={i: [list(x) for x in f] for i, f in facts},
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=dict(settings))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        Path(path).write_bytes(compiled.asm["cubin"])
        code = [
            (int(address, 16), operation, rest)
            for address, operation, rest in _INSTRUCTION.findall(_tool("cuobjdump", "-sass", path))
        ]
        usage = _tool("cuobjdump", "--dump-resource-usage", path)
    counts = Counter(operation.split(".")[0] for _, operation, _ in code)
    busiest = max(_loops(code), key=lambda ops: (sum(o in _MMA for o in ops), len(ops)), default=[])
    return Code(
        int(re.search(r"REG:(\d+)", usage)[1]), counts["LDL"] + counts["STL"],
        compiled.metadata.shared, "+".join(kind for kind in _MMA if counts[kind]), len(busiest),
        busiest.count("LDL") + busiest.count("STL"), busiest.count("BAR"),
        *_copies(compiled.asm["ttgir"]),
    )


def _copies(text: str) -> tuple[int, int]:
    """Of the loop with most products in Triton's intermediate code: copies that its first wait
    leaves under way, and how many operands it copies that were there before it."""
    lines = text.splitlines()
    loops = []
    for begin, line in enumerate(lines):
        if "scf.for" in line:
            indent = line[: len(line) - len(line.lstrip())]
            end = next(i for i in range(begin + 1, len(lines)) if lines[i].startswith(indent + "}"))
            body = lines[begin + 1 : end]
            if not any("scf.for" in inner for inner in body):
                loops.append((sum(" ttng.warp_group_dot " in x for x in body), line, body))
    if not loops:
        return 0, 0
    _, head, body = max(loops, key=lambda loop: loop[0])
    waits = [int(n) for n in re.findall(r"async_wait .*\{num = (\d+)", "\n".join(body))]
    made = set(re.findall(r"(%[\w.$-]+) = ", head))
    made |= {name for x in body for name in re.findall(r"%[\w.$-]+", x.partition(" = ")[0])}
    copied = [re.search(r"local_alloc (%[\w.$-]+)", line) for line in body]
    again = sum(found is not None and found[1] not in made for found in copied)
    return (waits[0] if waits else 0), again


def _tool(*arguments: str) -> str:
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    found = subprocess.run(
        [str(folder / arguments[0]), *arguments[1:]], capture_output=True, text=True, check=True
    )
    return found.stdout


_INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)([^;]*);", re.MULTILINE
)


def _loops(code: list[tuple[int, str, str]]) -> list[list[str]]:
    """The operations of each innermost loop."""
    place = {address: i for i, (address, _, _) in enumerate(code)}
    loops = []
    for i, (address, operation, rest) in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)", rest)
        if operation.startswith("BRA") and target:
            begin = place.get(int(target[1], 16))
            if begin is not None and begin < i and address > int(target[1], 16):
                loops.append((begin, i))
    inner = [a for a in loops if not any(a[0] <= b[0] and b[1] <= a[1] and a != b for b in loops)]
    return [[operation.split(".")[0] for _, operation, _ in code[b : e + 1]] for b, e in inner]


def read(launched: Launch, size: str, capability: int) -> Report:
    """Compiles a launch, and reads what became of it."""
    code = _compile(launched, capability)
    name, options = launched.kernel.fn.__name__.removesuffix("_kernel"), launched.options
    spills = dict(_MOST_SPILLS)
    for steps, more in _OF_MANY_STEPS.items():
        spills |= more if options.get("K", 0) > steps else {}
    threads = 32 * options.get("num_warps", 4)
    tile = options.get("BLOCK_M", 1) * options.get("BLOCK_N", 0)
    of_registers = _REGISTERS // (threads * (math.ceil(code.registers / 8) * 8))
    of_shared = DEVICES[capability][2] // (code.shared + _RESERVED)
    return Report(
        name, size, launched.programs,
        min(of_registers, of_shared, 2048 // threads),
        code.loop_length * threads / tile if tile else 0.0,
        _most_instructions(name, options), spills.get(name, 0), code,
    )


def _most_instructions(kernel: str, options: dict) -> float:
    limits = _MOST_INSTRUCTIONS | (_WITHOUT_SELF if options.get("EXCLUDE") else {})
    return limits.get(kernel, math.inf) + _OF_EARLIER_STEP * options.get("FIRST", 0)


def faults(reports: Sequence[Report], capability: int, dtype: torch.dtype) -> list[str]:
    """What would make a kernel slow, or refuse to run, in sentences."""
    found = []
    for r in reports:
        code = r.code
        sentences = []
        if code.spills > r.most_spills:
            sentences.append(f"{code.spills} spills, at most {r.most_spills} wanted")
        if code.shared > DEVICES[capability][1] or not r.resident:
            sentences.append(f"{code.shared} bytes of shared memory don't fit")
        if capability == 90 and r.kernel in _MULTIPLY:
            if code.mma != "HGMMA":
                sentences.append(f"{code.mma or 'no'} products, HGMMA wanted")
            barriers = _OF_BARRIERS.get(r.kernel, _MOST_BARRIERS)
            if code.loop_barriers > barriers:
                sentences.append(f"{code.loop_barriers} barriers, at most {barriers} wanted")
            if code.copied_again:
                sentences.append(f"{code.copied_again} operands copied again for each tile")
            if r.kernel in _PIPELINED and not code.under_way:
                sentences.append("the next tile isn't on its way")
            if dtype == torch.float32 and r.loop_instructions > r.most_instructions:
                sentences.append(
                    f"{r.loop_instructions:.1f} instructions a pair, at most "
                    f"{r.most_instructions:.3g} wanted"
                )
        found += [f"{r.kernel} at {r.size}: {sentence}" for sentence in sentences]
    return found


def _interpreted() -> tuple[str, bool]:
    """Errors of the kernels as Triton's interpreter runs them, and whether they are all small."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _INTERPRETED], capture_output=True, text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    return run.stdout.strip() or run.stderr.strip(), run.returncode == 0


def run(
    sizes: Sequence[int], sides: Sequence[int], indexed: Sequence[int], out: Path | None = None,
    capability: int = 90,
) -> int:
    """Prints the tables; with `out`, writes benchmark-kernels.md into that folder.

    Sizes, sides and `indexed` as of `operator.run`; and the filter's sizes.

    Returns:
        An exit status: 0; 1 where `faults` finds any, or results are wrong.

    Raises:
        ValueError: Triton interprets kernels in this process.
    """
    if interpreted():
        raise ValueError("kernels are interpreted where TRITON_INTERPRET=1: unset it")
    wrong = []
    heading = (
        f"Triton {triton.__version__}, compute capability {capability / 10:g}; dense form E = "
        f"{EMBEDDING}, F = {FEATURES}, K = {NEIGHBOURS}, windows of {CHANNELS} channels, "
        f"K = {WINDOW_NEIGHBOURS}; {NEAR} explicit candidates, as the dense form. Filter: E = "
        f"{FILTER[0]}, F = {FILTER[1]}, {_FILTER_BATCH} × {_FILTER_MATCHES} matches, none its own "
        "neighbour, a temperature for each with its gradient. The values kernel's instructions are "
        "those of up to 64 features and three steps; it is launched for each three steps."
    )
    parts = [heading]
    for dtype in (torch.float32, torch.bfloat16):
        of_type = []
        for n in sizes:
            launches = dense_launches(
                dtype, capability, 1, n, n, EMBEDDING, FEATURES, NEIGHBOURS, exclude_self=False
            )
            of_type += [read(launched, str(n), capability) for launched in launches]
        for k in FILTER_STEPS:
            launches = filter_launches(dtype, capability, k)
            of_type += [read(launched, f"filter, K = {k}", capability) for launched in launches]
        for side in sides:
            launches = window_launches(
                dtype, capability, CHANNELS, WINDOW_NEIGHBOURS, side, side, *LAYOUT
            )
            of_type += [read(launched, f"{side}²", capability) for launched in launches]
        for n in indexed:
            launches = candidates_launches(
                dtype, capability, 1, n, n, NEAR, EMBEDDING, FEATURES, NEIGHBOURS
            )
            of_type += [read(launched, f"{n}×{NEAR}", capability) for launched in launches]
        parts += [str(dtype).removeprefix("torch."), table(of_type)]
        wrong += faults(of_type, capability, dtype)
    loss, unpromoted = (tensor_core_sums.loss(_LONGEST, promoted=p) for p in (True, False))
    parts.append(
        f"Sums of {_LONGEST} numbers on tensor cores, which truncate: off by {loss:.1e} as the "
        f"kernels do it, by {unpromoted:.1e} without leaving the tensor cores after each tile."
    )
    if loss > _LARGEST_LOSS:
        wrong.append(f"sums are off by {loss:.1e}, at most {_LARGEST_LOSS:.0e} wanted")
    errors, right = _interpreted()
    parts += ["As the interpreter runs the kernels, against the formula in float64:", errors]
    if not right:
        wrong.append("the interpreter's results differ from the formula's")
    text = "\n\n".join([*parts, *wrong]) + "\n"
    print(text, flush=True)
    if out is not None:
        write_whole(out / "benchmark-kernels.md", text)
    return 1 if wrong else 0


def table(reports: Sequence[Report]) -> str:
    rows = [
        [
            r.kernel, r.size, str(r.programs), str(r.code.registers), str(r.code.spills),
            str(r.code.loop_spills), f"{r.code.shared / 1024:.0f}", str(r.resident),
            r.code.mma or "—", f"{r.loop_instructions:.1f}" if r.loop_instructions else "—",
            str(r.code.loop_barriers), str(r.code.under_way), str(r.code.copied_again),
        ]
        for r in reports
    ]
    columns = [
        "kernel", "size", "programs", "registers", "spills", "in the loop", "shared, KiB",
        "programs a multiprocessor", "products", "instructions a pair", "barriers in the loop",
        "copies under way", "copied again",
    ]
    return markdown_table(columns, rows)
