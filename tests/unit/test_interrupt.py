import os
import signal
import subprocess
import sys

import pytest

from aloe import interrupt

LOST = """
import os, signal
from aloe.interrupt import interruptible, raise_if_interrupted

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        [None for _ in range(1000)]

try:
    with interruptible():
        victim = Swallows()
        del victim
        print("went on", flush=True)
        raise_if_interrupted()
        print("lost", flush=True)
except KeyboardInterrupt:
    print("noticed", flush=True)
"""


def test_an_interrupt_inside_a_destructor_is_noticed_later():
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["went", "on", "noticed"], done.stderr


def test_an_interrupt_is_raised_at_once_and_the_handler_is_given_back(monkeypatch):
    monkeypatch.setattr(interrupt, "_seen", False)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupt.interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_without_an_interrupt_nothing_is_raised(monkeypatch):
    monkeypatch.setattr(interrupt, "_seen", False)
    interrupt.raise_if_interrupted()
