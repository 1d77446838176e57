"""Whether engines and trainings have room beside each other, in numbers."""

from types import SimpleNamespace

import psutil
import pytest
from scripted_runs import scripted_values

from aloe.config import Config, EnginePool, VllmModel
from aloe.placement import engines_fit, room
from aloe.placement.layout import Node
from aloe.placement.memory import GIB

TINY = VllmModel(backend="vllm", path="embedded://tiny", kv_cache_gib=2)


@pytest.fixture
def config(tmp_path) -> Config:
    return Config.model_validate(scripted_values(tmp_path))


def free(monkeypatch, gib: float, devices: int = 4) -> None:
    memory = SimpleNamespace(available=gib * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(room, "free_nodes", lambda: [Node("here", devices, devices)])
    monkeypatch.setattr(room, "machine_has_gpu", lambda: False)


def test_an_engine_takes_its_cache_its_weights_and_two_processes():
    parameters = room._shape(TINY.path, False).parameters
    assert room.engine_bytes(TINY) == 4 * parameters + 2 * GIB + GIB
    two = TINY.model_copy(update={"pool": EnginePool(replicas=2)})
    assert room.engine_bytes(two) == 2 * room.engine_bytes(TINY)


def test_engines_fit_into_what_is_free(monkeypatch):
    free(monkeypatch, 8)
    assert engines_fit([TINY, TINY]) and not engines_fit([TINY, TINY, TINY])


@pytest.mark.parametrize(("gib", "fits"), [(20, True), (0.5, False)])
def test_a_training_fits_by_its_memory(monkeypatch, config, gib, fits):
    free(monkeypatch, gib)
    assert room.training_fits(config, "sft") == fits


def test_a_training_does_not_fit_where_devices_are_taken(monkeypatch, config):
    free(monkeypatch, 20, devices=0)
    assert not room.training_fits(config, "sft")


def test_on_gpus_devices_alone_decide(monkeypatch, config):
    free(monkeypatch, 0)
    monkeypatch.setattr(room, "machine_has_gpu", lambda: True)
    assert room.training_fits(config, "sft") and engines_fit([TINY])
