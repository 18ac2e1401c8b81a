"""Custom operators with a way back: the one way in which this project registers them.

A custom operator can stand in compiled graphs (`torch.compile`, `torch.export`), whatever its body
does. Here it comes as two functions of plain tensors, forward and backward, and a third that makes
empty outputs; the schemas, the fake versions and what autograd wants are derived from these.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_AUTOGRAD = ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor")


@contextlib.contextmanager
def _autograd_at_hand() -> Iterator[None]:
    """Autograd records nothing inside a custom operator, even where it is asked to; rows left to
    the reference formula are differentiated by it."""
    included = torch._C._dispatch_tls_local_include_set()
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for name in _AUTOGRAD:
        excluded = excluded.remove(getattr(torch._C.DispatchKey, name))
    with torch._C._ForceDispatchKeyGuard(included, excluded):
        yield


def _body(function: Callable) -> Callable:
    """The body of an operator, whose first argument is a tensor: `torch.enable_grad` works inside,
    and autocast leaves its products alone (a backward pass may run where it is on)."""

    @functools.wraps(function)
    def run(first: Tensor, *rest):
        off = torch.autocast(first.device.type, enabled=False)
        with _autograd_at_hand(), torch.no_grad(), off:
            return function(first, *rest)

    return run


def differentiable(
    name: str,
    tensors: str,
    options: str,
    *,
    forward: Callable,
    backward: Callable,
    blank: Callable,
    kept: int = 0,
) -> torch.library.CustomOpDef:
    """The operator n3match::NAME, once differentiable, and n3match::NAME_backward behind it.

    Args:
        tensors: names of its tensors, "?" behind one that may be None.
        options: its other arguments, as a schema has them.
        forward: (*tensors, *options) -> the output and, behind it, `kept` tensors more that the
            way back wants: a tuple.
        backward: (grad, tensors, outputs, options, wanted) -> a gradient for each tensor, or None
            where it isn't wanted or 0; outputs: what `forward` gave, () if `kept` is 0; wanted: a
            bool for each tensor.
        blank: (*tensors, *options) -> new tensors like those of `forward`, whatever they hold.
        kept: how many tensors are kept.

    Returns:
        What is called with (*tensors, *options): the output, with `kept` a tuple.
    """
    names = tensors.split()
    count = len(names)
    inputs = ", ".join(f"Tensor{'?' * n.endswith('?')} {n.rstrip('?')}" for n in names)
    results = f"({', '.join(['Tensor'] * (1 + kept))})" if kept else "Tensor"

    def output(found: tuple):
        return found if kept else found[0]

    def run_forward(*given):
        return output(forward(*given))

    def run_backward(grad, *given):
        tensors, (outputs, *rest, wanted) = given[:count], given[count:]
        found = backward(grad, tensors, outputs, rest, wanted)
        return [
            torch.zeros_like(t, memory_format=torch.contiguous_format)
            if g is None
            else g.contiguous()
            for t, g, w in zip(tensors, found, wanted)
            if w
        ]

    operator = torch.library.custom_op(
        f"n3match::{name}", _body(run_forward), mutates_args=(),
        schema=f"({inputs}, {options}) -> {results}",
    )
    way_back = torch.library.custom_op(
        f"n3match::{name}_backward", _body(run_backward), mutates_args=(),
        schema=f"(Tensor grad, {inputs}, Tensor[] outputs, {options}, bool[] wanted) -> Tensor[]",
    )
    operator.register_fake(lambda *given: output(blank(*given)))
    way_back.register_fake(
        lambda grad, *given: [t.new_empty(t.shape) for t, w in zip(given, given[-1]) if w]
    )

    def setup_context(ctx, inputs, output) -> None:
        ctx.options = inputs[count:]
        ctx.save_for_backward(*inputs[:count], *(output if kept else ()))

    def differentiate(ctx, grad, *_):
        saved, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[:count])
        found = iter(way_back(grad, *saved[:count], list(saved[count:]), *ctx.options, wanted))
        return *(next(found) if w else None for w in wanted), *[None] * len(ctx.options)

    operator.register_autograd(differentiate, setup_context=setup_context)
    return operator


def widest(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, the tensors in the widest of their types; otherwise as they are.

    Layers before the operator give half precision there, and their input is often float32.
    """
    if not all(isinstance(t, Tensor) and t.dtype.is_floating_point for t in tensors):
        return tensors  # refused later, with a message
    if any(t.is_meta for t in tensors) or not torch.is_autocast_enabled(tensors[0].device.type):
        return tensors
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    return tuple(t.to(dtype) for t in tensors)
