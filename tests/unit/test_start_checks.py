"""What is wrong with a machine or a run folder is one line, before anything starts."""

import errno
import json

import pytest

from aloe.cli import main
from aloe.errors import UserError
from aloe.runtime import check_temporary
from aloe.storage import Manifest, Store, load_manifest
from aloe.storage import files as storage_files


def test_a_folder_too_long_for_rays_sockets_is_named(monkeypatch, tmp_path):
    folder = tmp_path / ("x" * 60)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    with pytest.raises(UserError, match=r"RAY_TMPDIR .*too long for Ray's sockets, expected at"):
        check_temporary()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/r")
    check_temporary()


def test_a_folder_that_cannot_be_made_is_named(monkeypatch, tmp_path):
    (tmp_path / "f").write_text("")
    monkeypatch.setattr("aloe.runtime._SOCKET_BYTES", 1000)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "f" / "below"))
    with pytest.raises(UserError, match=r"RAY_TMPDIR .*cannot be written"):
        check_temporary()


def test_a_full_disk_is_named(monkeypatch, tmp_path):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage_files.os, "fsync", full)
    with pytest.raises(UserError, match=r"run\.dir .*No space left on device"):
        Store(str(tmp_path)).check_writable()


@pytest.mark.parametrize("change", [{"extra": 1}, {"usage": {"other": 1}}, {"usage": None}])
def test_a_run_folder_of_another_version_is_named(tmp_path, change):
    store = Store(str(tmp_path))
    Manifest("personas", {}, "fixed", complete=True).save(store)
    name = "personas/manifest.json"
    store.write_text(name, json.dumps(json.loads(store.read_text(name)) | change))
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest of this version"):
        load_manifest(store, "personas")


def test_it_is_one_line_and_exit_code_2(scripted_config, tmp_path, capsys):
    folder = tmp_path / "occupied"
    (folder / "personas").mkdir(parents=True)
    (folder / "personas" / "manifest.json").write_text("[]")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(scripted_config), "--run.dir", str(folder)])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "not a manifest of this version" in said[0]
