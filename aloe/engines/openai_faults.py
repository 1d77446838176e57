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
from aloe.engines.openai_bodies import told_in


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
    """Its words, and those of whoever it speaks for, in lower case; nothing of what it was sent."""


_TOO_LONG = re.compile(
    r"context[ _]length|(?<!less than the `)context[ _](?:window|limit|size)|context the overflows"
    r"|maximum context|max_model_len|max(?:imum)?[ _]model[ _]len|reduce the length"
    r"|too many (?:input |prompt )?tokens(?! per)|prompt (?:is )?too (?:long|large|big)"
    r"|(?:prompt|input|messages?|text|string)(?: is| are|:)? too long|string_above_max_length"
    r"|exceeds? the (?:available )?context|exceed(?:s|ed)? the (?:model's )?max(?:imum)?"
    r" (?:allowed |input |prompt )?(?:length|size|number of (?:input |prompt )?tokens)"
    r"|(?:input|prompt) (?:token count|tokens?|length)\b.{0,60}"
    r"(?:exceed|longer than|greater than|larger than|more than|must be less)"
    r"|range of input length|input tokens exceeded"
    r"|`inputs`.{0,40}(?:must be <=|must have less than)"
)
_FILTERED = re.compile(
    r"content[ _](?:filter|policy|management)|moderation|flagged|safety|responsible ?ai|harmful"
    r"|inappropriate|sensitive|data_inspection|exists risk|prohibited|violat\w+.{0,30}polic"
)
_UNFINISHED = re.compile(
    r"could not finish the message|failed to (?:validate|generate) json|json_validate_failed"
)
"""What it made was of no use: it may be with another seed."""
_SPENT = re.compile(
    r"insufficient[ _](?:quota|balance|funds|credit)|credit balance|payment required"
    r"|balance.{0,20}(?:insufficient|too low|not enough|exhausted)"
    r"|(?:out of|no|more|any|enough|purchase|add|buy|lack of) credits?\b"
    r"|credits? (?:are |is |has been )?(?:exhausted|depleted|used up)"
    r"|billing[ _](?:hard|limit|not)"
    r"|budget.{0,20}exceed|exceed\w*[ _]?(?:\w+ )?budget|over[ _]budget"
    r"|(?:usage|spend|spending|budget|credit|key)[ _](?:limit|cap)s?\b|call volume quota"
    r"|arrear|overdue|good standing|past invoices|unpaid"
    r"|free (?:trial|tier).{0,20}(?:ended|expired)"
    r"|organi[sz]ation[ _](?:restricted|disabled)|blocked_api_access|api access is blocked"
    r"|(?:account|organi[sz]ation|workspace|project|team|subscription)\b.{0,30}(?:deactivated"
    r"|suspended|disabled|restricted|terminated|flagged|banned|frozen|locked|closed|expired"
    r"|not active|inactive)|access.{0,20}terminated"
    r"|余额不足|欠费"
)
"""Money, and accounts that somebody closed."""
_QUOTA = re.compile(r"exceeded your (?:current )?quota|insufficient_quota|quota (?:is )?exhausted")
_KEY = re.compile(
    r"api[ _-]?key|invalid[ _]authentication|authentication[ _](?:error|fail)|unauthori[sz]ed"
    r"|auth credentials|login fail|expired[ _](?:key|token)|(?:secret|access|subscription) key"
)
_NAMES_KEY = re.compile(r"\bkeys?\b|api_?key|credential|authenticat")
_NO_MODEL = re.compile(
    r"model[ _]not[ _](?:found|exist|available|supported|loaded)|no such model|unknown model"
    r"|invalid[ _]model|models? .{0,120}(?:does not exist|do not exist|not exist|not found"
    r"|isn't available|is not available|no longer|decommissioned|end of (?:its )?life|retired"
    r"|identifier is invalid|is deprecated|not supported by any|not deployed)|not a valid model"
    r"|no models? (?:is |are )?loaded|no 'model_name' with|deployment ?not ?found"
    r"|access to (?:the |this )?model|unable to access (?:\S+ )?model|model access"
    r"|on-demand throughput"
)
_BARRED = re.compile(
    r"(?:location|country|region|territory)\b.{0,40}(?:not (?:be )?supported|not available)"
    r"|unsupported_country"
)
_AWAY = re.compile(
    r"model (?:was |is |has )?(?:been )?(?:unloaded|crashed|loading|being loaded)|loading model"
)
"""The model is not there now; who asks again may have it loaded."""
_REFUSED = re.compile(
    r"unsupported|not[ _](?:be )?support|n't support|does not|unknown|unrecogni[sz]ed|unexpected"
    r"|forbidden|not[ _](?:be )?permitted|not[ _](?:be )?allowed|extra (?:inputs|fields)|invalid"
    r"|only|must|should be|less than|greater than|at most|deprecated|not available|unavailable"
    r"|not enabled|disabled|out of range|in range|expected|not implemented|cannot|ensure|failed"
    r"|too (?:large|small|high|low|many|long|big)|minimum|maximum|positive"
)
_AGAIN_STATUS = (408, 409, 421, 425, 429, 499)
_AGAIN_CODE = re.compile(r"rate[ _]limit|overloaded|timeout|server[ _]error|unavailable|internal")
_ASKED_WRONG = re.compile(
    r"invalid[ _]?(?:request|param|argument|value|input)|bad[ _]?request|unsupported|validation"
    r"|not supported"
)
_WORLDS_STATUS = (404, 405, 407, 410)
_PARAMETER_STATUS = (None, 400, 403, 422, 501)


def verdict(complaint: Complaint, sent: frozenset[str]) -> Verdict:
    """What a refusal is; it may be `doubtful`.

    Args:
        sent: names of the parameters that the call sent and could do without.
    """
    status, words = complaint.status, _words(complaint)
    if status == 402 or _SPENT.search(words):
        return Verdict.WORLD
    if _QUOTA.search(words) and "retry" not in words:
        return Verdict.WORLD  # a rate limit that words itself so says when to come back
    if status in _AGAIN_STATUS:
        return Verdict.AGAIN
    if status == 401:
        return Verdict.ITEM if _FILTERED.search(words) else Verdict.KEY
    if status in _WORLDS_STATUS or _BARRED.search(words):
        return Verdict.WORLD
    if _TOO_LONG.search(words):
        return Verdict.TOO_LONG
    broken = status is not None and status >= 500
    if not broken and (_FILTERED.search(words) or _UNFINISHED.search(words)):
        return Verdict.ITEM
    about_model = complaint.param == "model" or re.search(r"not_found|model_not", complaint.code)
    if not about_model and refused_parameter(complaint, sent):
        return Verdict.PARAMETER
    if broken:
        return Verdict.ITEM if _NO_SYSTEM.search(words) else Verdict.AGAIN
    if about_model or _NO_MODEL.search(words):
        return Verdict.WORLD
    if status is None:
        return _unnumbered(words)
    if status == 403 or (status == 400 and _KEY.search(words)):
        return Verdict.KEY
    return Verdict.AGAIN if _AWAY.search(words) else Verdict.ITEM


def doubtful(complaint: Complaint, judged: Verdict) -> bool:
    """Whether a verdict has only a status to go by, so that it takes a second call to be sure.

    What nobody has words for is this call's fault only where others are answered: a budget or a
    model that is gone may be told with 400, one text that a firewall blocks with 403.
    """
    words = _words(complaint)
    match judged:
        case Verdict.ITEM:
            return not (_FILTERED.search(words) or _UNFINISHED.search(words))
        case Verdict.KEY:
            return complaint.status == 403 and not _NAMES_KEY.search(words)
        case Verdict.WORLD:
            return complaint.status == 405
    return False


def is_spent(message: str) -> bool:
    """Whether a refusal is about money or a quota: it ends when somebody pays, or with the day."""
    return bool(_SPENT.search(message.lower()) or _QUOTA.search(message.lower()))


def _words(complaint: Complaint) -> str:
    return f"{complaint.code} {complaint.told}"


def _unnumbered(words: str) -> Verdict:
    """An error without a status, in a body of status 200: mostly a gateway's on its provider."""
    if _AGAIN_CODE.search(words):
        return Verdict.AGAIN
    if _KEY.search(words):
        return Verdict.KEY
    return Verdict.ITEM if _ASKED_WRONG.search(words) else Verdict.AGAIN


def refused_parameter(complaint: Complaint, sent: frozenset[str]) -> str | None:
    """The parameter that a refusal is about, of those that were sent.

    What the server names apart counts first, then the one that its words name first.
    """
    status, text = complaint.status, complaint.told
    template = status in (None, 400, 422) or status >= 500  # one that fails is an error inside
    if template and "system" in sent and _NO_SYSTEM.search(text) and _REFUSED.search(text):
        return "system"
    if status not in _PARAMETER_STATUS:
        return None
    for place in complaint.param.split():
        named = place.partition(".")[0].partition("[")[0]
        if named in sent:
            return named
        if named in ("messages", "prompt", "input"):
            return None  # the text's, whatever words it is told with
    if not _REFUSED.search(text):
        return None
    places = {name: at for name in sent - {"system"} if (at := _named_at(name, text)) >= 0}
    if places.keys() >= {"temperature", "top_p"} and "both" in text:
        return "top_p"  # either may be sent
    if places:
        return min(places, key=lambda name: places[name])
    return "response_format" if "response_format" in sent and _FORMAT.search(text) else None


def _named_at(name: str, text: str) -> int:
    """Where a text names a parameter; -1 if it does not.

    Words that stand in any text count only in quotes, or beside what makes them a name.
    """
    word = rf"(?<![a-z_]){re.escape(name)}(?![a-z_])"
    if name.isalpha() and name != "logprobs":
        word = (
            rf"(?:['\"`]{name}['\"`]|(?:{_BEFORE}):?\s+{name}(?![a-z_])"
            rf"|(?<![a-z_]){name}(?:\s*[:=]|\s+(?:{_AFTER})\b|$))"
        )
    found = re.search(word, text, re.MULTILINE)
    return found.start() if found else -1


_BEFORE = (
    r"parameters?|arguments?|fields?|names?|options?|params?|property|values?|type|supports?"
    r"|supported|unsupported|unknown|invalid|unrecogni[sz]ed|unexpected|forbidden|allowed|custom"
)
_AFTER = (
    r"is|are|must|should|cannot|may not|can only|does|not|parameters?|values?|sequences?|has to"
    r"|exceeds|out of|array"
)
_FORMAT = re.compile(
    r"json[ _]?(?:schema|object|mode)|structured output|response[ _]?format|parse grammar"
)
_NO_SYSTEM = re.compile(
    r"system (?:role|message|prompt|instruction)s?\b|roles? must alternate|developer instruction"
    r"|only user and assistant|role:? ['\"`]?system\b|['\"`]system['\"`].{0,40}(?:not |unsupported"
    r"|invalid|unexpected)|(?:not |unsupported|invalid|unexpected|unknown).{0,40}['\"`]system['\"`]"
)


def complaint_in(status: int | None, body: Any) -> Complaint:
    """A refusal from its status and its body, in the forms that servers use.

    Its texts are `repaired`: they go into a row of ``errors``.

    Args:
        status: None where the body came with status 200: then its own code counts.
    """
    error = _error_in(body)
    message, told = error["message"], error["told"]
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


def _error_in(body: Any) -> dict[str, str]:
    """What a body tells, under the protocol's own names."""
    whole = told_in(body)
    message = ": ".join(dict.fromkeys(whole.messages))
    if not message and not whole.codes:
        message = json.dumps(body, ensure_ascii=False, default=str)
    numbers = [code for code in whole.codes if 400 <= _number(code) < 600]
    page = message.lower().startswith(("<!doctype", "<html"))  # its words are no server's of ours
    return {
        "code": next(iter(numbers), ""),
        "type": " ".join(dict.fromkeys(code for code in whole.codes if code not in numbers)),
        "param": " ".join(dict.fromkeys("_".join(place.split()) for place in whole.places)),
        "message": message,
        "told": "" if page else " ".join([message, *whole.places]),
    }


def _number(code: Any) -> int:
    text = str(code)
    return int(text) if text.isascii() and text.isdigit() and len(text) == 3 else 0
