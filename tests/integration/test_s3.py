"""A run folder on S3, against moto's HTTP server."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import fsspec
import pytest
from scripted_runs import persona_rows

from aloe.config_file import load_config
from aloe.dialogue import rollout_dialogues
from aloe.errors import UserError
from aloe.pipeline import run_one
from aloe.preferences import build_preferences, export_run
from aloe.schema import PERSONAS
from aloe.storage import Manifest, Store, localize

pytestmark = pytest.mark.usefixtures("local_ray")

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(key, value)
        fsspec.filesystem("s3").clear_instance_cache()
        put = urllib.request.Request(f"{endpoint}/aloe", method="PUT")
        urllib.request.urlopen(put).close()
        yield "s3://aloe"
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def prepare(config, store) -> None:
    rows = persona_rows(["validation", *["train"] * 5])
    store.write_table("personas/personas.parquet", rows, PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)


def test_a_run_on_s3_equals_a_run_on_disk(bucket, scripted_config, tmp_path):
    made = {}
    for root in (f"{bucket}/run", str(tmp_path / "disk")):
        config = load_config(str(scripted_config), ["--run.dir", root])
        store = Store(root)
        store.check_reachable()
        store.check_writable()
        prepare(config, store)
        rollout_dialogues(config, store)
        build_preferences(config, store)
        files = [f"dialogue/nodes/{name}" for name in store.names("dialogue", "nodes")]
        made[root] = {
            name: store.fs.cat_file(store.path(name))
            for name in [*files, "preferences/pairs.parquet", "preferences/sft.parquet"]
        }
    on_s3, on_disk = made.values()
    assert len(on_s3) == 6 + 2
    assert on_s3 == on_disk


def test_a_second_call_on_s3_finds_everything_done(bucket, scripted_config):
    config = load_config(str(scripted_config), ["--run.dir", f"{bucket}/run"])
    assert run_one(config, "dialogue").complete


def test_exports_go_to_s3_and_folders_come_back(bucket):
    target = Store(f"{bucket}/export")
    names = export_run(Store(f"{bucket}/run"), "trl", target)
    local = localize(target.root)
    assert sorted(names) == sorted(Store(local).names())
    assert localize(target.root) == local


def test_nothing_there_is_said(bucket):
    with pytest.raises(UserError, match="no files there"):
        localize(f"{bucket}/nothing")
