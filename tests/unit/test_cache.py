import os
from pathlib import Path

import pytest

from aloe import cache
from aloe.cache import cache_folder
from aloe.errors import UserError


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch, tmp_path):
    for name in ("ALOE_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))


def blocked(tmp_path: Path) -> Path:
    """A place where no folder can be made, for root too."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "below"


def test_the_users_choice_comes_first(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "home" / ".cache" / "aloe"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "shared" / "huggingface"))
    assert cache_folder() == tmp_path / "shared" / "aloe"
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"


def test_a_choice_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ALOE_CACHE", str(blocked(tmp_path)))
    with pytest.raises(UserError, match=r"ALOE_CACHE .*expected a folder that can be written"):
        cache_folder()


def test_a_read_only_home_works(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(blocked(tmp_path)))
    folder = cache_folder()
    assert folder == tmp_path / f"aloe-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0
    assert cache_folder() == folder


def test_a_folder_that_others_may_write_to_is_not_trusted(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(blocked(tmp_path)))
    folder = tmp_path / f"aloe-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match="belongs to somebody else; set ALOE_CACHE"):
        cache_folder()
