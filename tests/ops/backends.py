"""The one list of backends that every test with a backend as its parameter goes through."""

from n3match import ops

BACKENDS = ops.backends()
FAST = tuple(name for name in BACKENDS if name != "reference")
