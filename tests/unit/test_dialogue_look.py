"""A turn as a person sees it while the rollout goes on."""

from aloe.dialogue.look import told_turn
from aloe.roles import Persona


def test_a_turn_is_told_with_both_replies_and_what_was_noted():
    persona = Persona("p", "Bakes bread.", "Is shy.")
    shared = {"turn": 1, "induced_profile": None, "induced_personality": None, "selected": None}
    shared["sample"] = 0
    rows = [
        shared
        | {"role": "user", "text": "I bake.", "preferred": None, "induced_profile": "Bakes."},
        shared | {"role": "guided", "text": "What\nbread?", "preferred": False},
        shared | {"role": "unguided", "text": "Fine.\x1b[2J", "preferred": True},
    ]
    assert told_turn(persona, rows).splitlines() == [
        "a tree, turn 1:",
        "  persona   Bakes bread. Is shy.",
        "  user      I bake.",
        "  noted     Bakes.",
        "  guided    What bread?",
        "  unguided  Fine. [2J  <- preferred",
    ]
    chosen = [row | {"selected": False, "on_spine": row["role"] == "guided"} for row in rows]
    assert "unguided" not in told_turn(persona, chosen)
    later = [row | {"turn": 2, "induced_profile": None} for row in rows]
    assert "persona" not in told_turn(persona, later)
    assert "noted     nothing" in told_turn(persona, later)
