import pytest

from aloe.config_file import load_config
from aloe.errors import NotResumable
from aloe.pipeline import run_one
from aloe.storage import Manifest, Store


def test_a_refused_run_leaves_the_record_of_the_one_that_is_there(tmp_path):
    store = Store(str(tmp_path))
    Manifest("personas", {"seed": 5}, "fingerprint").save(store)
    store.write_text("config.yaml", "of the first run\n")
    config = load_config("configs/demo.yaml", ["--run.dir", str(tmp_path), "--run.seed", "6"])
    with pytest.raises(NotResumable, match="seed: 5 there, 6 now"):
        run_one(config, "personas")
    assert store.read_text("config.yaml") == "of the first run\n"
