"""Calls whose memory is known. A new process that measures them loads nothing but this."""


def hold(megabytes):
    return lambda: bytearray(b"\x01" * (megabytes << 20))


def hold_in_turn(sizes):
    return [hold(size) for size in sizes]


def fail(_):
    raise ValueError("on purpose")
