"""Dialogues of reinforcement learning on the page: look by look, and never as markup."""

from __future__ import annotations

from pathlib import Path

from report_run import report_config

from aloe.report import write_report
from aloe.report.curves import training_curves
from aloe.report.episodes import read_looks
from aloe.schema import DIALOGUES
from aloe.storage import Store


def write_dialogues(store: Store, step: int, number: int, reply: str) -> None:
    rows = [
        {
            "step": step,
            "dialogue": dialogue,
            "persona_id": f"p{dialogue}",
            "profile": "Runs a bakery.",
            "personality": "Calm.",
            "preferences": ["asks"],
            "turn": turn,
            "user": "hello",
            "reply": reply,
            "reward": turn / 2,
            "reward_verifiable": turn / 2,
            "reward_judge": None,
            "reward_model": None,
        }
        for dialogue in range(number)
        for turn in (1, 2)
    ]
    store.write_table(f"training/ppo/dialogues/{step:06d}.parquet", rows, DIALOGUES)


def test_looks_are_in_order_and_hold_ten_dialogues(tmp_path):
    store = Store(str(tmp_path))
    for step, number in ((0, 12), (10, 3)):
        write_dialogues(store, step, number, "hi")
    looks = read_looks(store)
    assert [(look.step, len(look.episodes)) for look in looks] == [(0, 10), (10, 3)]
    assert looks[0].episodes[0].reward == 0.75
    assert [turn["turn"] for turn in looks[0].episodes[0].turns] == [1, 2]


def test_the_page_shows_what_was_said_as_text(tmp_path):
    store = Store(str(tmp_path / "run"))
    write_dialogues(store, 4, 10, "<script>alert(1)</script>")
    write_report(report_config(store.root), store)
    page = Path(store.path("report", "index.html")).read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 20
    assert "<script>alert" not in page
    assert "After 4 updates" in page
    assert "verifiable 0.50" in page


def test_updates_have_charts_of_their_own():
    rows = [
        {"stage": "ppo", "split": split, "step": step, "name": name, "value": 0.5}
        for step in (1, 2)
        for split, names in (
            ("train", ("reward", "kl", "seconds_rollout", "seconds_update", "seconds_sync")),
            ("validation", ("reward", "reward_turn_1", "reward_turn_2")),
        )
        for name in names
    ]
    titles = {figure.title for figure in training_curves(rows)}
    assert {"PPO reward of a reply", "PPO seconds of an update", "PPO reward by turn"} <= titles
    assert "PPO seconds of a step" not in titles
