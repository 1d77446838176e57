"""A run folder on S3, against moto's HTTP server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from chat_templates import SHAPES
from s3_server import bucket_of_the_environment
from scripted_runs import persona_rows, scripted_file

from aloe.config import Config, VllmModel
from aloe.config_file import load_config
from aloe.dialogue import rollout_dialogues
from aloe.engines.embedded import check_checkpoint, resolve_checkpoint
from aloe.engines.tokenizer import chat_of
from aloe.errors import UserError
from aloe.personas.encode import check_encoder
from aloe.pipeline import run_one
from aloe.preferences import build_preferences, export_run
from aloe.schema import NODES, PERSONAS
from aloe.storage import Manifest, Store, localize
from aloe.storage.traffic import traffic

pytestmark = pytest.mark.usefixtures("own_ray")


Made = tuple[Config, pa.Table, list[bytes]]
"""A configuration, its nodes, and the files of its training rows."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with bucket_of_the_environment() as url:
        yield url


def prepare(config, store) -> None:
    rows = persona_rows(["validation", *["train"] * 5])
    store.write_table("personas/personas.parquet", rows, PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)


def made(config_file: Path, root: str) -> Made:
    """Trees and training rows of a run in this folder."""
    config = load_config(str(config_file), ["--run.dir", root])
    store = Store(root)
    store.check_reachable()
    store.check_writable()
    prepare(config, store)
    rollout_dialogues(config, store)
    build_preferences(config, store)
    nodes = store.read_table("dialogue/nodes", NODES)
    files = ("preferences/pairs.parquet", "preferences/sft.parquet")
    in_order = nodes.sort_by([("tree_id", "ascending"), ("node_id", "ascending")])
    return config, in_order, [store.read_bytes(name) for name in files]


@pytest.fixture(scope="module")
def on_s3(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(scripted_file(tmp_path_factory.mktemp("s3")), f"{bucket}/run")


def test_a_run_on_s3_equals_a_run_on_disk(on_s3, scripted_config, tmp_path):
    on_disk = made(scripted_config, str(tmp_path / "disk"))
    assert len(set(on_s3[1]["tree_id"].to_pylist())) == 6
    assert on_s3[1:] == on_disk[1:]


def test_a_second_call_on_s3_finds_everything_done(on_s3):
    assert run_one(on_s3[0], "dialogue").complete


def test_exports_go_to_s3_and_folders_come_back(bucket, on_s3):
    target = Store(f"{bucket}/export")
    names = export_run(Store(on_s3[0].run.dir), "trl", target)
    local = localize(target.root)
    assert sorted(names) == sorted(Store(local).names())
    assert localize(target.root) == local


def test_nothing_there_is_said(bucket):
    with pytest.raises(UserError, match="no files there"):
        localize(f"{bucket}/nothing")


def test_a_checkpoint_that_is_not_there_is_named_before_anything_is_loaded(bucket):
    store = Store(f"{bucket}/checkpoint")
    with pytest.raises(UserError, match=r"/checkpoint: no checkpoint there \(config\.json is"):
        check_checkpoint(store.root)
    with pytest.raises(UserError, match=r"personas\.encoder .*/checkpoint: no model there"):
        check_encoder(store.root)
    store.write_text("config.json", "{}")
    check_checkpoint(store.root)
    check_encoder(store.root)


def test_a_tokenizer_is_looked_at_without_the_weights_beside_it(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))  # what is there is not fetched
    folder = resolve_checkpoint("embedded://tiny")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{folder}/{name}", checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"0" * 10_000_000)
    store = Store(bucket)
    store.upload(checkpoint, "model")
    model = VllmModel(backend="vllm", path=f"{bucket}/model", chat_template=SHAPES["gemma"])
    before = traffic().read
    chat = chat_of("m", model)
    assert not chat.takes_system
    assert 0 < traffic().read - before < 9_000_000
