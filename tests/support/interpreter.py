"""Triton's interpreter, for machines without a GPU: it runs kernels as numpy on the CPU.

It is chosen by an environment variable that Triton reads when it is imported, and takes a fraction
of a millisecond for every operation of a kernel.
"""

import dataclasses
import importlib.util
import os

import torch


def switch_on() -> None:
    """Where there is no GPU. Before anything imports Triton."""
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    call = interpreter.InterpretedFunction.__call__

    def faster(self, *arguments, **options):
        # A kernel's call of another function prepares Triton's modules again, which takes longer
        # than the function itself; for ours the kernel has done it.
        if self.fn.__module__.startswith("n3match."):
            return self.rewrite()(*arguments, **options)
        return call(self, *arguments, **options)

    interpreter.InterpretedFunction.__call__ = faster
    # Whether 32-bit integers overflow: of small tensors they don't, and asking takes a third of the
    # time.
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
