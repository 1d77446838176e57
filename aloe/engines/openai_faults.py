"""What a server's refusal is: worth another try, a parameter, the item's fault or the world's.

Servers agree on few codes, so words count too. The order matters: a prompt that is too long is told
with the name of a parameter, an exhausted quota with the status of a rate limit. docs/servers.md
has the same as a table.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from aloe.chat import repaired


class Verdict(Enum):
    """What to do about a refusal."""

    AGAIN = "again"
    """The same call may be answered later: the server is busy, broken or restarting."""
    PARAMETER = "parameter"
    """It may be answered without, or with another form of, one of its parameters."""
    TOO_LONG = "too long"
    """The prompt leaves no room in the model's context."""
    ITEM = "item"
    """This call cannot be answered; others can."""
    KEY = "key"
    """No call can be answered: the key is refused."""
    WORLD = "world"
    """No call can be answered: quota, model, address."""


@dataclass(frozen=True)
class Complaint:
    """A refusal as the server worded it."""

    status: int | None
    """Of the answer, or that which an error in a body of status 200 claims."""
    code: str = ""
    """Its code and type, in lower case."""
    message: str = ""
    param: str = ""
    """The parameter that it names, if it does so apart from the message."""
    told: str = ""
    """All of it as JSON, in lower case: some name a parameter in other places."""


_TOO_LONG = re.compile(
    r"context[ _]length|context[ _]window|maximum context|too many (?:input )?tokens|prompt is too"
    r"|input is too long|reduce the length|exceeds? the (?:available )?context|max_model_len"
)
_FILTERED = re.compile(
    r"content[ _](?:filter|policy|management)|moderation|flagged|safety|responsible ?ai|harmful"
)
_SPENT = re.compile(
    r"insufficient[ _](?:quota|balance|funds|credit)|credit balance|payment required"
    r"|billing[ _](?:hard|limit|not)|out of credits"
    r"|account.{0,30}(?:deactivated|suspended|disabled)"
)
_QUOTA = re.compile(r"exceeded your (?:current )?quota|insufficient_quota|quota (?:is )?exhausted")
_KEY = re.compile(r"api[ _-]?key|invalid[ _]authentication|authentication[ _]error|unauthori[sz]ed")
_NO_MODEL = re.compile(
    r"model[ _]not[ _](?:found|exist|available)|no such model|unknown model|invalid model"
    r"|models? .{0,120}(?:does not exist|do not exist|not exist|not found|isn't available"
    r"|is not available|no longer|decommissioned)|not a valid model"
)
_REFUSED = re.compile(
    r"unsupported|not[ _](?:be )?support|n't support|unknown|unrecogni[sz]ed|unexpected|forbidden"
    r"|not[ _](?:be )?permitted|not[ _](?:be )?allowed|extra (?:inputs|fields)|invalid|only|must"
    r"|should be|less than|greater than|at most|deprecated|not available|unavailable|not enabled"
    r"|out of range|in range|expected|not implemented|cannot"
)
_AGAIN_STATUS = (408, 409, 425, 429)
_AGAIN_CODE = re.compile(r"rate[ _]limit|overloaded|timeout|server[ _]error|unavailable|internal")


def verdict(complaint: Complaint, sent: frozenset[str]) -> Verdict:
    """What a refusal is.

    Args:
        sent: names of the parameters that the call sent and could do without.
    """
    status, words = complaint.status, f"{complaint.code} {complaint.message.lower()}"
    if status == 402 or _SPENT.search(words):
        return Verdict.WORLD
    if _QUOTA.search(words) and "retry" not in words:
        return Verdict.WORLD  # a rate limit that words itself so says when to come back
    if status in _AGAIN_STATUS or (status is not None and status >= 500):
        return Verdict.AGAIN
    if status in (401, 403):
        return Verdict.ITEM if _FILTERED.search(words) else Verdict.KEY
    if _TOO_LONG.search(words):
        return Verdict.TOO_LONG
    if "not_found" not in complaint.code and refused_parameter(complaint, sent):
        return Verdict.PARAMETER
    if status == 404 or _NO_MODEL.search(words):
        return Verdict.WORLD
    if status is None:
        return _unnumbered(words)
    if status == 400 and _KEY.search(words):
        return Verdict.KEY
    return Verdict.ITEM


def is_spent(message: str) -> bool:
    """Whether a refusal is about money or a quota: it ends when somebody pays, or with the day."""
    return bool(_SPENT.search(message.lower()) or _QUOTA.search(message.lower()))


def _unnumbered(words: str) -> Verdict:
    """An error without a status, in a body of status 200: mostly a gateway's on its provider."""
    if _FILTERED.search(words):
        return Verdict.ITEM
    if _KEY.search(words) and not _AGAIN_CODE.search(words):
        return Verdict.KEY
    return Verdict.AGAIN


def refused_parameter(complaint: Complaint, sent: frozenset[str]) -> str | None:
    """The parameter that a refusal is about, of those that were sent.

    What the server names apart counts first, then the one that its words name first.
    """
    if complaint.status not in (400, 422):
        return None
    named = complaint.param.partition(".")[0].partition("[")[0]
    if named in sent:
        return named
    text = complaint.told
    if not _REFUSED.search(text):
        return None
    places = {
        name: place.start()
        for name in sent
        if (place := re.search(rf"(?<![a-z_]){re.escape(name)}(?![a-z_])", text))
    }
    if places:
        return min(places, key=lambda name: places[name])
    if "response_format" in sent and re.search(
        r"json[ _]?(?:schema|object|mode)|structured output", text
    ):
        return "response_format"
    if "system" in sent and _NO_SYSTEM.search(text):
        return "system"
    return None


_NO_SYSTEM = re.compile(
    r"system (?:role|message|prompt|instruction)|roles? must alternate|developer instruction"
    r"|only user and assistant"
)


def complaint_in(status: int | None, body: Any) -> Complaint:
    """A refusal from its status and its body, in the forms that servers use.

    Its texts are `repaired`: they go into a row of ``errors``.

    Args:
        status: None where the body came with status 200: then its own code counts.
    """
    told = json.dumps(body, ensure_ascii=False, default=str)
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        error = {"message": error if isinstance(error, str) else told}
    message = error.get("message") or error.get("detail") or error.get("msg") or told
    codes = [error.get(key) for key in ("code", "type", "status")]
    if status is None:
        status = next((n for c in codes if 400 <= (n := _number(c)) < 600), None)
    if not isinstance(message, str):
        message = json.dumps(message, ensure_ascii=False)
    return Complaint(
        status=status,
        code=repaired(" ".join(str(code) for code in codes if code).lower())[0],
        message=repaired(message)[0],
        param=repaired(str(error.get("param") or ""))[0],
        told=repaired(told.lower())[0],
    )


def _number(code: Any) -> int:
    text = str(code)
    return int(text) if text.isascii() and text.isdigit() and len(text) == 3 else 0
