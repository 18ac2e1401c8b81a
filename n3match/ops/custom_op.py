"""What the bodies of the custom operators need around them."""

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


def autocast_off(like: Tensor) -> contextlib.AbstractContextManager:
    """On the device of a tensor."""
    return torch.autocast(like.device.type, enabled=False)


def op_body(function: Callable) -> Callable:
    """Decorator of an operator's body, whose first argument is a tensor: `torch.enable_grad` works
    inside, and autocast leaves its products alone (a backward pass may run where it is on)."""

    @functools.wraps(function)
    def run(first: Tensor, *rest):
        with _autograd_at_hand(), torch.no_grad(), autocast_off(first):
            return function(first, *rest)

    return run


def widest(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Under autocast, the tensors in the widest of their types; otherwise as they are.

    Layers before the operator give half precision there, and their input is often float32.
    """
    if not all(isinstance(t, Tensor) and t.dtype.is_floating_point for t in tensors):
        return tensors  # refused later, with a message
    if not torch.is_autocast_enabled(tensors[0].device.type):
        return tensors
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    return tuple(t.to(dtype) for t in tensors)
