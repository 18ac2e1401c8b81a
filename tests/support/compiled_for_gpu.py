"""Compiles the Triton kernels for GPUs, as they would be launched there. Needs no GPU.

`python compiled_for_gpu.py DTYPE CAPABILITY measured|filter|all`, without TRITON_INTERPRET: prints
the names of the kernels; what is wrong with any, on standard error, ends it with status 1.
"""

import sys

import torch

from n3match.pipelines.benchmarks.gpu.kernels import (
    FILTER_STEPS,
    candidates_launches,
    dense_launches,
    faults,
    filter_launches,
    read,
    window_launches,
)


def main(dtype, capability, which):
    dtype = getattr(torch, dtype)
    if which == "filter":
        launches = [
            launched for k in FILTER_STEPS
            for launched in filter_launches(dtype, capability, k)
        ]
        return said(launches, dtype, capability)
    window = (dtype, capability, 8, 7, 512, 512, 10, 5, 15)
    launches = [
        *dense_launches(dtype, capability, 1, 20000, 20000, 32, 128, 3, exclude_self=False),
        *window_launches(*window),
        *window_launches(*window, hard=True),
        *candidates_launches(dtype, capability, 1, 20000, 20000, 225, 32, 128, 3),
    ]
    if which == "all":
        for sizes in ((1, 300, 301, 32, 32, 3), (1, 200, 100, 200, 150, 8), (1, 1, 1, 1, 1, 1)):
            launches += dense_launches(
                dtype, capability, *sizes, exclude_self=sizes[1] == 1, temperature=True
            )
        launches += window_launches(*window, seed=1 << 61)
        launches += window_launches(dtype, capability, 1, 1, 2, 2, 2, 2, 1)
        for sizes in ((2, 300, 301, 70, 200, 150, 64), (1, 1, 1, 1, 1, 1, 1)):
            launches += candidates_launches(dtype, capability, *sizes, seed=1 << 61)
        launches += candidates_launches(dtype, capability, 1, 9, 9, 4096, 8, 8, 8, hard=True)
        return said(launches, dtype, capability, "don't fit")  # the sizes are unusual ones
    # The first launch of each kernel; and of the filter's forward pass what isn't among them.
    firsts = {each.kernel.fn.__name__: each for each in reversed(launches)}
    shipped = filter_launches(dtype, capability, FILTER_STEPS[0])
    of_filter = {each.kernel.fn.__name__: each for each in shipped}
    added = [of_filter[f"{name}_kernel"] for name in ("power", "scales", "values")]
    return said([*firsts.values(), *added], dtype, capability)


def said(launches, dtype, capability, only=""):
    reports = [read(launched, "any size", capability) for launched in launches]
    wrong = [sentence for sentence in faults(reports, capability, dtype) if only in sentence]
    print(*{report.kernel for report in reports})
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
