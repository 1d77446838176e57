"""What is refused before anything heavy starts, and how a checkpoint gets into its place."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from aloe.config import Config, DpoConfig, SftConfig
from aloe.config_file import load_config
from aloe.errors import UserError
from aloe.schema import SFT
from aloe.storage import Store, stage_manifest
from aloe.training import stage, train_dpo, train_sft
from aloe.training.accelerator import check_compiler
from aloe.training.checkpoint import new_checkpoint, refuse_remote_code
from aloe.training.options import check_batches


@pytest.fixture
def config(scripted_config: Path) -> Config:
    return load_config(str(scripted_config))


@pytest.fixture
def store(config: Config) -> Store:
    """A run whose preferences are complete: two training rows and one held out."""
    store = Store(config.run.dir)
    messages = [{"role": "user", "content": "hello"}]
    row = {"row_id": "r", "tree_id": "t", "persona_id": "p", "turn": 1, "prompt": messages}
    splits = ("train", "train", "validation")
    rows = [{**row, "split": split, "response": "hi"} for split in splits]
    store.write_table("preferences/sft.parquet", rows, SFT)
    stage_manifest(store, "preferences", {}).finish(store, time.monotonic())
    return store


def test_importing_the_stage_loads_nothing_heavy():
    code = "import sys, aloe.training; print({'torch', 'ray', 'transformers'} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"


def test_training_needs_preferences(config: Config, tmp_path: Path):
    with pytest.raises(UserError, match="preferences: not complete"):
        train_sft(config, Store(str(tmp_path / "empty")))


def test_dpo_from_sft_needs_the_sft_checkpoint(config: Config, store: Store):
    with pytest.raises(UserError, match="training/sft: not complete"):
        train_dpo(config, store)


def test_too_few_rows_are_named_before_ray_starts(config: Config, store: Store, monkeypatch):
    def started(*_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(stage, "connect", started)
    with pytest.raises(UserError, match=r"training.sft.batch_size: 4, .* only 2 training rows"):
        train_sft(config, store)


def test_a_complete_stage_is_left_alone(config: Config, store: Store):
    settings = {
        "base": config.training.base,
        "seed": config.run.seed,
        "sft": config.training.sft.model_dump(mode="json", exclude={"checkpoint_steps"}),
        "chat": {"template": None, "thinking": "off", "variables": {}},
    }
    done = stage_manifest(store, "training/sft", settings, after=["preferences"])
    done.finish(store, time.monotonic(), results={"loss_after": 1.0})
    assert train_sft(config, store).results == {"loss_after": 1.0}


def test_batch_size_must_split_evenly():
    options = DpoConfig(batch_size=10, micro_batch_size=2)
    with pytest.raises(
        UserError, match=r"training.dpo.batch_size: 10, expected a multiple of .* = 4"
    ):
        check_batches("training.dpo", options, 100, ranks=2)
    check_batches("training.dpo", options.model_copy(update={"batch_size": 12}), 12, ranks=2)
    check_batches("training.sft", SftConfig(batch_size=3), 3, ranks=1)


def test_a_missing_compiler_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("aloe.training.accelerator.has_gpu", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"g\+\+: not found.*apt-get install g\+\+"):
        check_compiler()


def test_a_checkpoint_appears_whole_or_not_at_all(tmp_path: Path):
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError), new_checkpoint(store, "training/sft/checkpoint") as folder:
        (folder / "model.safetensors").write_text("half")
        raise RuntimeError
    assert store.names("training/sft") == []


def test_a_checkpoint_replaces_what_a_killed_start_left(tmp_path: Path):
    store = Store(str(tmp_path))
    for name in ("checkpoint", "checkpoint.0123.partial"):
        store.write_text(f"training/sft/{name}/old", "")
    with new_checkpoint(store, "training/sft/checkpoint") as folder:
        (folder / "new").write_text("1")
        assert store.names("training/sft/checkpoint") == ["old"]
    assert store.names("training/sft") == ["checkpoint"]
    assert store.names("training/sft/checkpoint") == ["new"]


def test_a_checkpoint_is_uploaded_where_there_is_no_rename():
    store = Store(f"memory://{uuid.uuid4().hex}")
    store.write_text("training/sft/checkpoint/old", "")
    with new_checkpoint(store, "training/sft/checkpoint") as folder:
        (folder / "model.safetensors").write_text("weights")
    assert store.names("training/sft/checkpoint") == ["model.safetensors"]
    assert store.read_text("training/sft/checkpoint/model.safetensors") == "weights"


def test_a_checkpoint_with_its_own_code_is_refused_unless_trusted(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "m.M"}}')
    with pytest.raises(UserError, match="brings its own code"):
        refuse_remote_code(str(tmp_path), trusted=False)
    refuse_remote_code(str(tmp_path), trusted=True)


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="gone: cannot be read"):
        refuse_remote_code(str(tmp_path / "gone"), trusted=False)
