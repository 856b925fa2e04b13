"""Bounds of the numbers of specs and records: beyond them nothing fits into any machine, and listing the parts takes too long."""

LARGEST = 2**53
"""Largest integer of any option: a number of 64 bits holds it exactly, and so does JSON."""
MAX_WORKERS = 65_536
"""Largest number of workers of a run, and along an axis."""
MAX_PARTS = 10_000
"""Largest number of parts of a model, such as layers and experts, which a plan lists one by one."""
