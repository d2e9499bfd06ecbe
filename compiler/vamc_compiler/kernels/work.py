"""How much work is worth more than one thread."""

SERIAL_WORK = 1 << 18
"""Multiply-adds up to which a kernel stays on the calling thread: some 15 us of work, against 6 us to wake another
thread, and far longer where that thread's core is busy with something else."""
