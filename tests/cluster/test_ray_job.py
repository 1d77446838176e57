"""The scripts in jobs/ under ``ray job submit`` against a local ``ray start --head``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_cluster import free_port

from aloe.storage import Store, load_manifest

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Environment of a submitter; the head runs in the foreground so that it can be ended by id."""
    home = tmp_path_factory.mktemp("home")
    sockets = tempfile.mkdtemp(prefix="ray-")  # paths of sockets must be short
    gcs, dashboard = free_port(), free_port()
    # Ray 2.60 turns token authentication on for the head but not for the submitter by itself.
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "for-this-test-only-0123456789abcdef",
        "RAY_worker_niceness": "0",
    }
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
        *("--num-cpus=6", "--num-gpus=2", f"--port={gcs}", f"--temp-dir={sockets}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        f"--dashboard-agent-listen-port={free_port()}",  # jobs go to the agent; each Ray has one
        "--object-store-memory=536870912",
    ]
    log = (home / "head.log").open("w")
    head = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 300
    while not answers(address):
        assert head.poll() is None, (home / "head.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(1)
    environment["RAY_API_SERVER_ADDRESS"] = address
    while run_job(environment, "python", "-c", "pass").returncode:  # the node's agent comes last
        assert time.monotonic() < deadline + 60
        time.sleep(2)
    yield environment
    os.killpg(head.pid, signal.SIGTERM)
    try:
        head.wait(5)  # --block outlives its Ray
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
    shutil.rmtree(sockets, ignore_errors=True)


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def run_job(
    environment: dict[str, str], *entrypoint: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    address = environment["RAY_API_SERVER_ADDRESS"]
    command = [str(BIN / "ray"), "job", "submit", "--address", address, *options]
    return subprocess.run(
        [*command, "--", *entrypoint],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=600,
    )


def submit(cluster: dict[str, str], script: str, *arguments: str) -> subprocess.CompletedProcess:
    entrypoint = ("python", f"jobs/{script}.py", *arguments)
    return run_job(cluster, *entrypoint, options=("--working-dir", "."))


def test_stages_as_jobs_then_regenerate_runs_what_is_left(cluster, scripted_config, tmp_path):
    common = ("--config", str(scripted_config), "--run.dir", str(tmp_path / "run"))
    common += ("--ray.fork_server", "true")  # one machine
    for script in ("expand_personas", "rollout_dialogues", "build_preferences", "train_sft"):
        done = submit(cluster, script, *common)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    store = Store(str(tmp_path / "run"))
    for stage in ("personas", "dialogue", "preferences", "training/sft"):
        assert load_manifest(store, stage).complete
    assert load_manifest(store, "training/dpo") is None

    done = submit(cluster, "regenerate", *common)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert (tmp_path / "run" / "report" / "index.html").exists()


def test_bad_input_fails_the_job(cluster, scripted_config):
    common = ("--config", str(scripted_config))
    bad = submit(cluster, "regenerate", *common, "--dialogue.turn", "3")
    assert bad.returncode != 0
    assert "dialogue.turn: unknown key" in bad.stdout + bad.stderr


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "jobs").glob("*.py")))
def test_every_job_says_how_it_is_submitted(script):
    text = (ROOT / "jobs" / f"{script}.py").read_text()
    assert f"ray job submit --working-dir . -- python jobs/{script}.py --config" in text
