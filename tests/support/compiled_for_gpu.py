"""Compiles the Triton kernels for GPUs, as they would be launched there. Needs no GPU.

`python compiled_for_gpu.py DTYPE CAPABILITY measured|all`, without TRITON_INTERPRET: prints the
names of the kernels; what is wrong with any, on standard error, ends it with status 1.
"""

import sys

import torch

from n3match.pipelines.benchmarks.gpu.kernels import (
    candidates_launches,
    dense_launches,
    faults,
    read,
    window_launches,
)


def main(dtype, capability, which):
    dtype = getattr(torch, dtype)
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
    else:  # the first launch of each kernel
        launches = {each.kernel.fn.__name__: each for each in reversed(launches)}.values()
    reports = [read(launched, "any size", capability) for launched in launches]
    wrong = faults(reports, capability, dtype)
    if which == "all":  # only that it fits: the sizes are unusual ones
        wrong = [sentence for sentence in wrong if "don't fit" in sentence]
    print(*{report.kernel for report in reports})
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
