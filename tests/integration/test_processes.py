"""The fork server and its copies: what they have, what they take over, and when they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import alive, all_gone, family

from aloe.processes import NAME, OFF, preload, start_process
from aloe.processes.server import NAME as SERVER

SLOW_MODULE = "import time; time.sleep(0.2)"


@pytest.fixture(autouse=True)
def own_server(monkeypatch, tmp_path):
    """A server that no other test asks; it is gone afterwards."""
    name = f"{tmp_path.name}-{os.getpid()}"
    _before.clear()
    _before.update(process.pid for process in servers())
    monkeypatch.setenv(NAME, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for process in servers():
        process.kill()


_before: set[int] = set()
"""Servers that other tests have started."""


def servers() -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    found = [process for process in mine if named(process, SERVER) and alive(process.pid)]
    return [process for process in found if process.pid not in _before]


def named(process: psutil.Process, name: str) -> bool:
    try:
        return process.name() == name
    except psutil.NoSuchProcess:
        return False


def script(folder: Path, body: str, name: str = "job.py") -> str:
    path = folder / name
    path.write_text(body)
    return str(path)


def told(folder: Path, modules: list[str], code: int = 0) -> dict:
    """What a copy that has imported ``modules`` says of itself."""
    path = script(
        folder,
        "import json, os, sys\n"
        "mine = {'argv': sys.argv, 'cwd': os.getcwd(), 'env': dict(os.environ), 'pid': os.getpid(),"
        " 'parent': os.getppid(), 'modules': list(sys.modules), 'name': __name__}\n"
        "open('told.json', 'w').write(json.dumps(mine))\n"
        "print('said')\n"
        f"sys.exit({code})\n",
        "telling.py",
    )
    waiting = start_process(modules)
    pid = waiting.begin("script", [path, "--option"], sys.path)
    assert waiting.code() == code
    found = json.loads((folder / "told.json").read_text())
    assert found["pid"] == pid
    return found


def test_a_copy_has_what_was_imported_and_takes_over_the_rest(tmp_path, monkeypatch, capfd):
    (tmp_path / "imported_once.py").write_text(SLOW_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A_WORD", "spoken")
    found = told(tmp_path, ["imported_once"])
    assert "imported_once" in found["modules"] and found["name"] == "__main__"
    assert found["argv"][1:] == ["--option"] and found["cwd"] == str(tmp_path)
    assert found["env"] == dict(os.environ)
    assert "said" in capfd.readouterr().out
    assert [process.pid for process in servers()] == [found["parent"]]


def test_its_exit_code_is_told_and_each_copy_is_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = told(tmp_path, [], 3), told(tmp_path, [], 4)
    assert first["pid"] != second["pid"] and first["parent"] == second["parent"]


def test_a_module_that_cannot_be_imported_is_left_to_whoever_needs_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    assert "broken" not in told(tmp_path, ["broken", "nothing_either"])["modules"]


@pytest.mark.parametrize(
    "hinders",
    [
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
        "import sys, types\n"
        "sys.modules['torch'] = types.SimpleNamespace("
        "cuda=types.SimpleNamespace(is_initialized=lambda: True))",
    ],
    ids=["thread", "cuda"],
)
def test_where_a_copy_could_not_work_there_is_a_new_interpreter(tmp_path, monkeypatch, hinders):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hindering.py").write_text(hinders)
    found = told(tmp_path, ["hindering"])
    assert "hindering" not in found["modules"] and servers()


def test_nothing_is_forked_where_it_is_switched_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(OFF, "1")
    (tmp_path / "imported_ahead.py").write_text(SLOW_MODULE)
    found = told(tmp_path, ["imported_ahead"])
    assert "imported_ahead" in found["modules"]  # while it waited for its job
    assert not servers()


def test_preload_returns_before_the_import_is_done(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.py").write_text("import time; time.sleep(1.5)")
    start_process([]).connection.close()  # the server is there
    start = time.monotonic()
    preload(["slow"])
    assert time.monotonic() - start < 1.0
    assert "slow" in told(tmp_path, [])["modules"]


CALLER = """
import sys, time
from aloe.processes import start_process
sys.path.insert(0, {folder!r})
waiting = start_process({modules!r})
print("asked", flush=True)
pid = waiting.begin("script", [{job!r}], sys.path)
print(pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def caller(tmp_path):
    """Starts a process that asks for one that sleeps, and then sleeps itself."""
    started = []

    def start(modules: list[str] = ()) -> subprocess.Popen:
        job = script(tmp_path, "import time; time.sleep(600)")
        code = CALLER.format(folder=str(tmp_path), modules=list(modules), job=job)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "asked\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_killed_caller_takes_its_process_and_its_server_along(caller):
    process = caller()
    pid = int(process.stdout.readline())
    everyone = {*family(process.pid), pid}
    assert len(everyone) == 3
    process.kill()
    process.wait()
    assert all_gone(list(everyone))


def test_so_does_one_that_is_killed_while_the_server_imports(caller, tmp_path):
    (tmp_path / "slow.py").write_text("import time; time.sleep(3)")
    process = caller(["slow"])
    time.sleep(0.5)
    everyone = family(process.pid)
    process.kill()
    process.wait()
    assert len(everyone) == 2 and all_gone(everyone)


def test_a_killed_server_ends_no_copy_and_the_next_start_finds_another(
    caller, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    process = caller()
    pid = int(process.stdout.readline())
    (first,) = [child for child in psutil.Process(process.pid).children() if child.pid != pid]
    first.send_signal(signal.SIGKILL)
    assert told(tmp_path, [])["parent"] != first.pid
    assert alive(pid)
    process.kill()
    process.wait()
    assert all_gone([pid])


def test_a_server_that_is_killed_while_it_imports_costs_nothing_but_time(
    caller, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.py").write_text("import time; time.sleep(2)")
    process = caller(["slow"])
    time.sleep(0.5)
    for child in psutil.Process(process.pid).children():
        child.kill()
    pid = int(process.stdout.readline())
    assert alive(pid)
    process.kill()
    process.wait()
    assert all_gone([pid])


def test_two_that_ask_at_once_share_a_server(tmp_path):
    (tmp_path / "imported_once.py").write_text(SLOW_MODULE)
    waiting = [start_process(["imported_once"]) for _ in range(2)]
    job = script(tmp_path, "import time; time.sleep(600)")
    pids = [each.begin("script", [job], sys.path) for each in waiting]
    (parent,) = {psutil.Process(pid).ppid() for pid in pids}
    assert parent in [server.pid for server in servers()]
    for each in waiting:
        each.connection.close()
    assert all_gone(pids)
