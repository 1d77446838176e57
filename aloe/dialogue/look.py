"""A turn of a tree for a person who watches the rollout."""

from __future__ import annotations

from aloe.dialogue.rows import Row
from aloe.progress import excerpt
from aloe.roles import Persona


def told_turn(persona: Persona, rows: list[Row]) -> str:
    """The persona in the first turn, what was said, what was noted, and which reply was preferred.

    Args:
        rows: of `aloe.schema.NODES`, of one turn.
    """
    by_role = {row["role"]: row for row in reversed(rows)}  # of several samples the first
    user, guided, unguided = (by_role[role] for role in ("user", "guided", "unguided"))
    lines = [f"a tree, turn {user['turn']}:"]
    if user["turn"] == 1:
        lines.append(f"  persona   {excerpt(f'{persona.profile} {persona.personality}')}")
    lines.append(f"  user      {excerpt(user['text'])}")
    noted = user["induced_profile"], user["induced_personality"]
    lines.append(f"  noted     {excerpt(' '.join(filter(None, noted))) or 'nothing'}")
    for row in (guided, unguided):
        mark = "  <- preferred" if row["preferred"] else ""
        lines.append(f"  {row['role']:<9} {excerpt(row['text'])}{mark}")
    return "\n".join(lines)
