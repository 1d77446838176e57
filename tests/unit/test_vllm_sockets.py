"""Sockets of vLLM find a folder with a short name, or it is said before anything starts."""

import os
import tempfile

import pytest

from aloe.config import VllmModel
from aloe.engines import check_models
from aloe.engines.vllm_sockets import shorten_sockets
from aloe.errors import UserError

UUID = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Make one with a name of so many bytes that for temporary files."""
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "")  # so that what is set below is taken back
    monkeypatch.delenv("VLLM_RPC_BASE_PATH")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)

    def make(size: int) -> str:
        name = "/x" + "y" * (size - 2)
        monkeypatch.setattr(tempfile, "tempdir", name)
        return name

    return make


def test_a_long_folder_is_replaced_by_a_short_one(folder):
    folder(71)
    check_models([VllmModel(backend="vllm", path="embedded://tiny")])
    found = os.environ["VLLM_RPC_BASE_PATH"]
    assert len(f"{found}/{UUID}") <= 107
    assert os.access(found, os.W_OK)


def test_one_that_fits_stays(folder):
    assert len(f"{folder(70)}/{UUID}") == 107
    shorten_sockets()
    assert "VLLM_RPC_BASE_PATH" not in os.environ


def test_rays_short_folder_is_taken_first(folder, monkeypatch, tmp_path):
    folder(1200)
    monkeypatch.setattr("aloe.engines.vllm_sockets._LONGEST", 1000)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    shorten_sockets()
    assert os.environ["VLLM_RPC_BASE_PATH"] == str(tmp_path)


def test_where_there_is_none_it_is_one_line(folder, monkeypatch):
    folder(71)
    monkeypatch.setattr("aloe.engines.vllm_sockets._SHORT", ("/proc/none",))
    with pytest.raises(UserError, match=r"too long for vLLM's sockets, .*set VLLM_RPC_BASE_PATH"):
        check_models([VllmModel(backend="vllm", path="embedded://tiny")])
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "/" + "x" * 80)
    with pytest.raises(UserError, match=r"VLLM_RPC_BASE_PATH /x+: too long for vLLM's sockets"):
        shorten_sockets()
