import os
import signal
import subprocess
import sys
from types import SimpleNamespace

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
    monkeypatch.setattr(interrupt, "_seen", None)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupt.interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_without_an_interrupt_nothing_is_raised(monkeypatch):
    monkeypatch.setattr(interrupt, "_seen", None)
    interrupt.raise_if_interrupted()


def test_sigterm_is_told_from_ctrl_c_also_after_others_have_set_handlers(monkeypatch):
    monkeypatch.setattr(interrupt, "_seen", None)
    monkeypatch.setattr(interrupt.threading, "Timer", lambda *_: SimpleNamespace(start=bool))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(interrupt.Terminated), interrupt.interruptible():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray's own would
        interrupt.rearm()
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(interrupt.Terminated):
        interrupt.raise_if_interrupted()


HANGS = """
import os, signal, sys, time
from aloe import interrupt

interrupt._END_WITHIN_S = 0.3
with interrupt.interruptible():
    try:
        {sigterm}
    finally:
        time.sleep(60)
"""
LIBRARY = """
        with interrupt.beside_other_handlers():
            sys.exit(signal.SIGTERM)  # as Ray's handler does
"""


@pytest.mark.parametrize("sigterm", ["os.kill(os.getpid(), signal.SIGTERM)", LIBRARY])
def test_a_run_that_hangs_while_it_ends_is_ended_with_the_same_code(sigterm):
    code = HANGS.format(sigterm=sigterm)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    assert done.returncode == 75, done.stderr


def test_a_library_that_exits_on_sigterm_meanwhile_is_sigterm(monkeypatch):
    monkeypatch.setattr(interrupt, "_seen", None)
    monkeypatch.setattr(interrupt.threading, "Timer", lambda *_: SimpleNamespace(start=bool))
    with pytest.raises(interrupt.Terminated), interrupt.beside_other_handlers():
        sys.exit(signal.SIGTERM)
    with pytest.raises(interrupt.Terminated):
        interrupt.raise_if_interrupted()
    with pytest.raises(SystemExit), interrupt.beside_other_handlers():
        sys.exit(2)
