"""A judge whose choices have probabilities, whatever its server tells: by log-probs or by votes.

Log-probs are exact and cost one token. Where there are none, the same question is answered several
times at temperature 1: the share of the answers is an estimate of the same probability.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from unicodedata import normalize

from aloe.chat import Message
from aloe.config import JudgeConfig
from aloe.engines.base import Completion, Engine, Request
from aloe.engines.wrapper import Wrapper
from aloe.errors import EngineError
from aloe.schema import derive_seed

_VOTES = "votes:"
_READABLE = 0.5
"""Share of the votes that must be one of the choices."""


class Judge(Wrapper[Engine]):
    """An engine that judges; what is no question with choices goes through as it is.

    With ``by: auto`` an answer that begins with no choice is asked for again with the choices
    stated, and then voted on; where a server has no log-probs at all, every answer is.
    """

    def __init__(self, engine: Engine, config: JudgeConfig) -> None:
        super().__init__(engine)
        self._config = config
        self._votes = config.by == "votes"

    async def complete(self, request: Request) -> Completion:
        """See `aloe.engines.Engine`; ``finish_reason`` tells votes, see `votes_of`."""
        if not request.choices:
            return await self._engine.complete(request)
        spent: list[Completion] = []
        if not self._votes:
            for asked in (request, _stated(request)):
                completion = await self._engine.complete(asked)
                spent.append(completion)
                if completion.choice_logprobs or self._config.by == "logprobs":
                    return _in_all(spent)
                if not completion.with_logprobs:
                    self._votes = True
                    break
        return await self._vote(_stated(request), spent)

    async def _vote(self, request: Request, spent: list[Completion]) -> Completion:
        asked = [
            replace(
                request,
                choices=(),
                max_tokens=self._config.max_tokens,
                temperature=1.0,
                top_p=1.0,
                seed=derive_seed(request.seed, "vote", number),
            )
            for number in range(self._config.votes)
        ]
        answers = await asyncio.gather(*map(self._engine.complete, asked), return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        for error in failed:
            if not isinstance(error, EngineError):
                raise error
        given = [answer for answer in answers if isinstance(answer, Completion)]
        if not given:
            raise failed[0]
        votes = Counter(read_vote(answer.text, request.choices) for answer in given)
        votes.pop(None, None)
        counted = self._config.votes
        if votes.total() < _READABLE * counted:
            # One that thinks for longer than a vote may be has said its choice before.
            first = [vote for c in spent if (vote := read_vote(c.text, request.choices))]
            votes.update(first[-1:])
            if not first:
                unread = replace(_in_all([*spent, *given]), choice_logprobs={})
                return replace(unread, finish_reason=f"{_VOTES}{votes.total()}/{counted}")
        told = replace(_in_all([*spent, *given]), finish_reason=f"{_VOTES}{votes.total()}")
        shares = {choice: votes[choice] / votes.total() for choice in request.choices}
        logprobs = {c: math.log(share) if share else -math.inf for c, share in shares.items()}
        return replace(told, text=max(shares, key=shares.__getitem__), choice_logprobs=logprobs)


def why_undecided(completion: Completion) -> str:
    """What a judge's answer without probabilities lacks, in a line."""
    if completion.finish_reason.startswith(_VOTES):
        named, _, votes = completion.finish_reason.removeprefix(_VOTES).partition("/")
        return f"{named} of {votes} votes name a choice"
    if completion.with_logprobs:
        return "the judge's answer begins with no choice"
    return "the judge's answer has no log-probs"


def votes_of(finish_reason: str) -> int:
    """How many votes a judge's answer is a share of; 0 where it comes from log-probs."""
    told = finish_reason.removeprefix(_VOTES).partition("/")[0]
    return int(told) if finish_reason.startswith(_VOTES) else 0


def share_variance(share: float, votes: int) -> float:
    """Variance of a share of so many votes, estimated from them; 0 without votes."""
    return share * (1 - share) / max(votes - 1, 1) if votes else 0.0


def read_vote(text: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer in words makes; None if it names none, or several."""
    highest = re.escape(choices[-1])
    text = normalize("NFKC", text)  # digits as wide as a Chinese character
    plain = re.sub(rf"\s*(?:/|out of)\s*{highest}(?!\w)", " ", text)
    # \w of ASCII alone: where no spaces are written, letters stand beside a digit.
    named = re.findall(rf"(?a:(?<!\w)(?:{'|'.join(map(re.escape, choices))})(?!\w))", plain)
    begun = [choice for choice in choices if re.match(rf"\W*(?a:{re.escape(choice)}(?!\w))", plain)]
    found = begun or list(dict.fromkeys(named))
    return found[0] if len(found) == 1 else None


def _stated(request: Request) -> Request:
    """The question with the choices at its end."""
    *before, last = request.messages
    options = f"Answer with one of {', '.join(request.choices)} and nothing else."
    told = f"{last['content']}\n\n{request.options or options}"
    stated: Message = {"role": last["role"], "content": told}
    return replace(request, messages=[*before, stated])


def _in_all(completions: list[Completion]) -> Completion:
    """The last completion, with what all of them cost; their time adds up too."""
    return replace(
        completions[-1],
        prompt_tokens=sum(c.prompt_tokens for c in completions),
        cached_tokens=sum(c.cached_tokens for c in completions),
        completion_tokens=sum(c.completion_tokens for c in completions),
        seconds=sum(c.seconds for c in completions),
        reusable_tokens=sum(c.reusable_tokens for c in completions),
        cost_usd=sum(c.cost_usd for c in completions),
        replaced=sum(c.replaced for c in completions),
    )
