"""What a command ends with: the one line, the exit code, and errors that travel through Ray."""

import pickle

import pytest
from ray.exceptions import RayTaskError

from aloe import cli
from aloe.errors import (
    CallFailed,
    EngineDied,
    StageFailed,
    StageStopped,
    UserError,
    WorldFault,
    exit_code,
)

TABLE = [
    (UserError("models.m: unknown key"), 2),
    (StageFailed("9 of 9 trees failed"), 1),
    (EngineDied("tiny: 5 engines in a row died"), 1),
    (StageStopped("dialogue: quota spent"), 75),
    (WorldFault("m: quota spent", passes=False), 75),
    (WorldFault("m: nobody answers", passes=True), 75),
]


@pytest.mark.parametrize(("error", "code"), TABLE)
def test_each_kind_of_fault_has_its_exit_code_also_through_ray(error, code, monkeypatch, capsys):
    sent = RayTaskError("f", "a traceback\nof many lines", error)
    remote = pickle.loads(pickle.dumps(sent)).as_instanceof_cause()
    for raised in (error, remote):

        def fail(arguments, raised=raised):
            raise RuntimeError("a stage") from raised

        monkeypatch.setattr(cli, "app", fail)
        with pytest.raises(SystemExit) as ended:
            cli.main([])
        assert ended.value.code == code == exit_code(error)
        more = "; the same command goes on from here" if code == 75 else ""
        assert capsys.readouterr().err == f"aloe: {error}{more}\n"


@pytest.mark.parametrize("error", [error for error, _ in TABLE])
def test_errors_keep_their_type_and_text_when_they_are_pickled(error):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert getattr(back, "passes", None) == getattr(error, "passes", None)


def test_a_failed_call_can_be_pickled():
    back = pickle.loads(pickle.dumps(CallFailed("judge", "MalformedAnswer", "no", {"tries": 3})))
    assert (back.role, back.kind, str(back), back.call) == (
        "judge",
        "MalformedAnswer",
        "no",
        {"tries": 3},
    )


def test_a_bug_shows_its_traceback(monkeypatch):
    def fail(arguments):
        raise KeyError("x")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(KeyError):
        cli.main([])
