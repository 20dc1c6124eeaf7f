"""How often Python looks for objects that only hold each other."""

import gc

SELDOM = (10_000, 20, 100)


def look_seldom() -> None:
    """Said before a process imports networks. Python's own 700 new objects send it again and again through all that is being
    imported: one of the six processor seconds until a network can be built."""
    gc.set_threshold(*SELDOM)
