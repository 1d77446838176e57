"""A whole rollout where the home cannot be written, and what becomes of its token."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from scripted_runs import persona_rows, scripted_values

from aloe.schema import NODES, PERSONAS
from aloe.storage import Manifest, Store

PROGRAM = (
    "import atexit, os, sys\nfrom aloe.cli import main\n"
    "atexit.register(lambda: print(os.environ.get('RAY_AUTH_TOKEN', '')))\nmain(sys.argv[1:])"
)
RAYS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_TMPDIR")


def test_a_rollout_needs_no_home_and_its_token_is_written_nowhere(tmp_path):
    values = scripted_values(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    store = Store(values["run"]["dir"])
    store.write_table("personas/personas.parquet", persona_rows(["train"] * 4), PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)
    environment = {key: value for key, value in os.environ.items() if key not in RAYS}
    environment |= {"HOME": "/proc/nohome", "TMPDIR": str(tmp_path)}
    environment |= {"RAY_TMPDIR": f"/tmp/aloe-{os.getpid()}"}
    command = [sys.executable, "-c", PROGRAM, "dialogue", "rollout", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(set(store.read_table("dialogue/nodes", NODES)["tree_id"].to_pylist())) == 4
    token = done.stdout.split()[-1]
    assert len(token) >= 32
    assert token not in done.stderr
    assert any(name.suffix == ".log" for name in Path(environment["RAY_TMPDIR"]).rglob("*"))
    written = [*tmp_path.rglob("*"), *Path(environment["RAY_TMPDIR"]).rglob("*")]
    holding = [file for file in written if file.is_file() and token.encode() in file.read_bytes()]
    assert holding == []
    shutil.rmtree(environment["RAY_TMPDIR"])
