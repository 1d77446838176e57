"""Processes that the tests' own process has started, by what they call themselves."""

import time

import psutil

WITHIN_S = 10.0
"""Within which nobody may be left when a caller, a driver or a fork server has been killed."""


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


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: list[int]) -> bool:
    """Whether none of these processes is left within ten seconds."""
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        if not any(map(alive, pids)):
            return True
        time.sleep(0.05)
    return False
