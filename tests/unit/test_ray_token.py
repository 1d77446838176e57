"""A Ray that is started here has a token, wherever it can or cannot be kept."""

import os
import stat

import pytest

from aloe.ray_token import ensure_token


@pytest.fixture
def home(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def token() -> str | None:
    return os.environ.get("RAY_AUTH_TOKEN")


@pytest.mark.parametrize("where", ["/proc/nohome", "/dev/null"])
def test_a_home_that_cannot_be_written_gets_a_token_of_this_run(home, monkeypatch, where):
    monkeypatch.setenv("HOME", where)
    ensure_token()
    first = token()
    assert first and len(first) >= 32
    ensure_token()
    assert token() == first


def test_two_runs_have_two_tokens(home, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nohome")
    ensure_token()
    first = token()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    ensure_token()
    assert token() != first


def test_a_full_home_gets_a_token_of_this_run(home, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("aloe.ray_token.tempfile.TemporaryFile", full)
    ensure_token()
    assert token()


def test_a_token_file_that_is_a_folder_is_none(home):
    (home / ".ray" / "auth_token").mkdir(parents=True)
    ensure_token()
    assert token()


def test_what_ray_can_do_itself_is_left_to_it(home):
    ensure_token()
    assert token() is None
    assert not list((home / ".ray").iterdir())
    (home / ".ray" / "auth_token").write_text("a" * 32)
    (home / ".ray").chmod(stat.S_IRUSR | stat.S_IXUSR)
    ensure_token()
    assert token() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN_PATH", "/some/file")],
)
def test_what_the_user_has_chosen_stays(home, monkeypatch, name, value):
    monkeypatch.setenv("HOME", "/proc/nohome")
    monkeypatch.setenv(name, value)
    ensure_token()
    assert token() is None
