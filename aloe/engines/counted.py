"""An engine whose every completion is told to the board, whatever becomes of it."""

from __future__ import annotations

from aloe.engines.base import Completion, Engine, Request
from aloe.engines.board import Teller
from aloe.engines.wrapper import Wrapper
from aloe.storage import Usage


class CountedEngine(Wrapper[Engine]):
    """The same engine. Answers that cannot be read, and turns that fail, are paid for as well."""

    def __init__(self, engine: Engine, teller: Teller) -> None:
        super().__init__(engine)
        self._teller = teller

    async def complete(self, request: Request) -> Completion:
        completion = await self._engine.complete(request)
        self._teller.spend(
            Usage(
                1,
                completion.prompt_tokens,
                completion.cached_tokens,
                completion.reusable_tokens,
                completion.completion_tokens,
                completion.seconds,
                completion.cost_usd,
            )
        )
        return completion
