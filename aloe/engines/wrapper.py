"""What engines that stand before another one have in common."""

from __future__ import annotations

from typing import Generic, TypeVar

from aloe.engines.base import Engine, Load

E = TypeVar("E", bound=Engine)


class Wrapper(Generic[E]):
    """Before an engine: only ``complete`` is another one."""

    def __init__(self, engine: E) -> None:
        self._engine = engine

    def load(self) -> Load:
        return self._engine.load()

    def release(self, conversation: str) -> None:
        self._engine.release(conversation)

    def close(self) -> None:
        self._engine.close()
