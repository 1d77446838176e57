import json
import os
import subprocess
import sys
import time

import pytest

from aloe.config_file import load_config
from aloe.schema import stable_id
from aloe.stages import stages_of
from aloe.storage import Manifest, Store

NOBODY = "http://127.0.0.1:9/v1"
BAD = [
    (["run", "configs/none.yaml"], "configs/none.yaml: cannot be read"),
    (["run", "configs/demo.yaml", "--dialogue.turn", "4"], "dialogue.turn: unknown key"),
    (["run", "configs/demo.yaml", "--dialogue.turns", "x"], "dialogue.turns"),
    (["run", "configs/demo.yaml", "--run.dir", "/proc/none"], "run.dir /proc/none"),
    (
        ["run", "configs/paper.yaml", "--run.dir", "runs/x", "--models.gpt.base_url", NOBODY],
        f"{NOBODY}: cannot be reached",
    ),
    (["run", "configs/demo.yaml", "--run.dir", "s3://nobody/run"], "s3://nobody/run: cannot"),
    (
        ["run", "configs/demo.yaml", "--run.dir", "runs/x", "--ray.address", "127.0.0.1:9"],
        "ray.address 127.0.0.1:9: nobody listens",
    ),
    (["export", "configs", "--format", "csv"], "--format csv: expected one of"),
    (["report", "no/such/run"], "no/such/run/config.yaml: cannot be read"),
    (["personas", "import", "no.jsonl", "--kind", "profile", "--out", "x"], "no.jsonl"),
]


NO_KEYS = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


def aloe(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "aloe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(("arguments", "named"), BAD)
def test_bad_input_is_one_line_and_code_2_at_once(arguments, named):
    start = time.monotonic()
    done = aloe(*arguments, env=NO_KEYS)
    seconds = time.monotonic() - start
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert seconds < 20  # no model, no Ray: a second on a quiet machine


def test_config_prints_what_is_read_back(tmp_path):
    done = aloe("config", "configs/demo.yaml", "--dialogue.turns", "4")
    assert done.returncode == 0
    (tmp_path / "c.yaml").write_text(done.stdout)
    assert aloe("config", str(tmp_path / "c.yaml")).stdout == done.stdout
    assert "  turns: 4\n" in done.stdout


def test_doctor_speaks_json_and_names_remedies():
    done = aloe("doctor", "--address", "127.0.0.1:9", "--json")
    findings = json.loads(done.stdout)
    assert done.returncode == 1
    failed = [finding for finding in findings if not finding["ok"]]
    assert all(finding["remedy"] for finding in failed)
    assert any("ray.address 127.0.0.1:9" in finding["what"] for finding in failed)
    assert any(finding["what"].startswith("torch ") for finding in findings)


def test_help_names_every_command():
    text = aloe("--help").stdout
    for command in ("run", "personas", "dialogue", "preferences", "train", "evaluate", "report"):
        assert command in text
    for command in ("export", "config", "doctor"):
        assert command in text


LOADED = (
    "import sys\nfrom aloe.cli import main\n"
    "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
    "print(*sorted({'ray', 'torch', 'transformers', 'vllm', 'deepspeed'} & set(sys.modules)))"
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["config", "configs/demo.yaml"],
        ["run", "configs/demo.yaml", "--dialogue.turn", "4"],
        ["placement", "show", "configs/paper.yaml"],
    ],
    ids=" ".join,
)
def test_what_needs_no_model_imports_none(arguments):
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == ""


def test_a_run_that_is_finished_imports_none(scripted_config):
    config = load_config(str(scripted_config))
    store = Store(config.run.dir)
    page = config.report.model_dump(mode="json") | {"seed": config.run.seed}
    for stage in stages_of(config):
        fingerprint = stable_id("report", page, ["fixed"]) if stage == "report" else "fixed"
        Manifest(stage, page, fingerprint, complete=True).save(store)
    command = [sys.executable, "-c", LOADED, "run", str(scripted_config), "--resume", "always"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "all stages are complete, nothing to do" in done.stderr
    assert done.stdout.splitlines()[-1] == ""
