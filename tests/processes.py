"""Processes that the tests' own process has started, by what they call themselves."""

import psutil


def children_titled(part: str) -> list[psutil.Process]:
    """Those whose command line holds ``part``; one that has just ended is none."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if part in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:  # a zombie among them
            continue
    return found
