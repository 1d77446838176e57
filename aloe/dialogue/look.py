"""A turn of a tree for a person who watches the rollout."""

from __future__ import annotations

from aloe.dialogue.rows import Row
from aloe.progress import excerpt
from aloe.roles import Persona


def _first_sample_last(row: Row) -> tuple[str, int]:
    return row["role"], -(row["sample"] or 0)


def told_turn(persona: Persona, rows: list[Row]) -> str:
    """The persona in the first turn, what was said, what was noted, and which reply was preferred.

    Args:
        rows: of `aloe.schema.NODES`, of one turn.
    """
    user, *replies = rows
    if replies[0]["selected"] is not None:
        replies = [row for row in replies if row["on_spine"]]
    shown = {row["role"]: row for row in sorted(replies, key=_first_sample_last)}
    lines = [f"a tree, turn {user['turn']}:"]
    if user["turn"] == 1:
        lines.append(f"  persona   {excerpt(f'{persona.profile} {persona.personality}')}")
    lines.append(f"  user      {excerpt(user['text'])}")
    noted = user["induced_profile"], user["induced_personality"]
    lines.append(f"  noted     {excerpt(' '.join(filter(None, noted))) or 'nothing'}")
    for row in shown.values():
        mark = "  <- preferred" if row["preferred"] else ""
        lines.append(f"  {row['role']:<9} {excerpt(row['text'])}{mark}")
    return "\n".join(lines)
