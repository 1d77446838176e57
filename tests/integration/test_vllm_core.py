"""Engines whose cores are started ahead: at once, by both ways, and when their caller is killed."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from processes import all_gone, children_titled, family

from aloe.config import VllmModel
from aloe.engines import Request, vllm_core
from aloe.engines.vllm import VllmEngine
from aloe.processes import NAME, OFF
from aloe.progress import on_phase

TINY = VllmModel(backend="vllm", path="embedded://tiny", max_model_len=512, max_num_seqs=8)
REQUEST = Request([{"role": "user", "content": "Hello, who are you?"}], max_tokens=8, seed=3)


def answer(engine: VllmEngine) -> str:
    return asyncio.run(engine.complete(REQUEST)).text


@pytest.fixture(scope="module")
def expected() -> str:
    before = cores()
    engine = VllmEngine("tiny", TINY)
    text = answer(engine)
    (core,) = cores() - before
    engine.close()
    assert all_gone([core])
    return text


def cores() -> set[int]:
    return {process.pid for process in children_titled("EngineCore")}


def test_two_engines_that_start_at_once_both_answer(expected):
    before = cores()
    with ThreadPoolExecutor() as threads:
        engines = list(threads.map(lambda name: VllmEngine(name, TINY, True), ("one", "other")))
    started = cores() - before
    assert len(started) == 2
    assert [answer(engine) for engine in engines] == [expected, expected]
    for engine in engines:
        engine.close()
    assert all_gone(list(started))


def test_a_core_that_is_a_new_interpreter_answers_the_same(expected, monkeypatch):
    monkeypatch.setenv(OFF, "1")
    before = cores()
    engine = VllmEngine("tiny", TINY)
    (core,) = cores() - before
    assert psutil.Process(core).ppid() == os.getpid()
    assert answer(engine) == expected
    engine.close()
    assert all_gone([core])


def test_threads_follow_how_many_engines_compute(expected):
    engine = VllmEngine("tiny", TINY, share_cores=False)

    async def change() -> str:
        await engine.share_cores(True)
        await engine.share_cores(False)
        return (await engine.complete(REQUEST)).text

    assert asyncio.run(change()) == expected
    engine.close()


def test_a_start_says_what_it_is_at(expected):
    heard: list[str] = []
    on_phase(heard.append)
    try:
        VllmEngine("tiny", TINY).close()
    finally:
        on_phase(lambda text: None)
    assert heard == ["importing vllm", "starting its core", "loading weights", "ready"]


def test_vllm_still_says_what_tells_the_phases():
    for name, signs in vllm_core._PHASES.items():
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        source = Path(spec.origin).read_text()  # importing a GPU runner is not for this process
        assert all(sign in source for sign in signs), name


CALLER = """
from aloe.config import VllmModel
from aloe.engines.vllm import VllmEngine
import time
print("begins", flush=True)
engine = VllmEngine("tiny", VllmModel.model_validate_json({model!r}))
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("way", ["copies", "interpreters"])
@pytest.mark.parametrize("moment", ["asked", "importing", "loading", "started"])
def test_a_caller_that_is_killed_leaves_nobody(way, moment, tmp_path):
    environment = os.environ | {NAME: tmp_path.name} | ({OFF: "1"} if way != "copies" else {})
    command = [sys.executable, "-c", CALLER.format(model=TINY.model_dump_json())]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None and caller.stdout.readline() == "begins\n"
        if moment == "asked":
            wait_for(lambda: len(family(caller.pid)) > 1)
        elif moment == "importing":
            time.sleep(4)
        elif moment == "loading":
            wait_for(lambda: titled(caller.pid, "EngineCore"))
        else:
            assert caller.stdout.readline() == "started\n"
        everyone = family(caller.pid)
        assert len(everyone) >= 2
        caller.kill()
    assert all_gone(everyone)


def titled(pid: int, title: str) -> bool:
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if title in " ".join(child.cmdline()):
                return True
        except psutil.NoSuchProcess:  # a zombie among them
            continue
    return False


def wait_for(condition) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
