"""Compiles every Triton kernel for GPUs, as it would be launched there. Needs no GPU.

`python compiled_for_gpu.py DTYPE CAPABILITY once|all`, without TRITON_INTERPRET: a line of JSON
for each kernel, with the shared memory that a program takes.
"""

import contextlib
import json
import sys

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from n3match.ops.triton import (
    dense,
    dense_backward,
    dense_forward,
    launch,
    window,
    window_cells,
    window_rows,
)
from n3match.ops.window.grid import WindowGrid

MODULES = (dense_forward, dense_backward, window_cells, window_rows)
POINTERS = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32",
    torch.float64: "*fp64", torch.int32: "*i32",
}


class Recorder:
    """Stands for a kernel; notes what it would be launched with."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **options: self.launches.append((self.kernel, args, options))


@contextlib.contextmanager
def recorded():
    launches = []
    kept = []
    for module in MODULES:
        for name, kernel in list(vars(module).items()):
            if isinstance(kernel, triton.JITFunction) and name.endswith("_kernel"):
                kept.append((module, name, kernel))
                setattr(module, name, Recorder(kernel, launches))
    for module in (dense, window):
        module.on_device_of = lambda like: contextlib.nullcontext()
    launch._processors = lambda index: 132
    try:
        with FakeTensorMode():
            yield launches
    finally:
        for module, name, kernel in kept:
            setattr(module, name, kernel)


def dense_launches(dtype, b, m, n, e, f, k):
    """Both passes."""
    numbers = launch.accumulator(dtype)
    with recorded() as launches:
        query, key, value = (
            torch.empty(*shape, device="cuda", dtype=dtype)
            for shape in ((b, m, e), (b, n, e), (b, n, f))
        )
        norm = torch.empty(b, n, device="cuda", dtype=numbers)
        log_t = torch.empty(b, m, 1, device="cuda", dtype=numbers)
        given = (query, key, value, norm, log_t)
        kept = dense._forward(*given, k, m == n)
        dense._backward(kept[0], given, kept, (k, m == n), [True] * len(given))
    return launches


def window_launches(dtype, channels, k, *layout, hard=False, seed=None):
    numbers = launch.accumulator(dtype)
    grid = WindowGrid(*layout)
    high, wide = (length // grid.stride for length in grid.padded_shape)
    patches = grid.shape[0] * grid.shape[1]
    with recorded() as launches:
        cells = [
            torch.empty(1, high * wide, channels * grid.stride**2, device="cuda", dtype=dtype)
            for _ in range(3)
        ]
        norm = torch.empty(1, high * wide, device="cuda", dtype=numbers)
        log_t = torch.empty(1, patches, 1, device="cuda", dtype=numbers)
        rest = (window._geometry(grid), k, True, hard, seed)
        (z,) = window._forward(*cells, norm, log_t, *rest)
        window._backward(z, (*cells, norm, log_t), (), rest, [True] * 5)
    return launches


def compile_launch(kernel, args, options, capability):
    given = dict(zip(kernel.arg_names, args)) | options
    settings = {name: given.pop(name) for name in ("num_warps", "num_stages") if name in given}
    signature, constants, facts = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        name = parameter.name
        thing = given[name]
        plain = isinstance(thing, int) and parameter.do_not_specialize
        if parameter.is_constexpr or (isinstance(thing, int) and thing == 1 and not plain):
            signature[name], constants[name] = "constexpr", thing
            continue
        number = "i32" if isinstance(thing, int) and thing < 1 << 31 else "i64"
        signature[name] = number if isinstance(thing, int) else POINTERS[thing.dtype]
        if not plain and (not isinstance(thing, int) or thing % 16 == 0):
            facts[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=facts)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=settings)


def main(dtype, capability, which):
    dtype = getattr(torch, dtype)
    launches = [
        *dense_launches(dtype, 1, 20000, 20000, 32, 128, 3),
        *window_launches(dtype, 8, 7, 512, 512, 10, 5, 15),
        *window_launches(dtype, 8, 7, 512, 512, 10, 5, 15, hard=True),
        *window_launches(dtype, 8, 7, 512, 512, 10, 5, 15, seed=1 << 61),
    ]
    if which == "all":
        launches += [
            *dense_launches(dtype, 1, 300, 300, 32, 128, 3),  # few programs
            *dense_launches(dtype, 1, 1, 1, 1, 1, 1),  # numbers of 1 are compiled in
            *window_launches(dtype, 1, 1, 2, 2, 2, 2, 1),
        ]
    else:  # the first launch of each kernel
        launches = {each[0].fn.__name__: each for each in reversed(launches)}.values()
    for kernel, args, options in launches:
        compiled = compile_launch(kernel, args, options, capability)
        report = {"kernel": kernel.fn.__name__, "shared": compiled.metadata.shared}
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
