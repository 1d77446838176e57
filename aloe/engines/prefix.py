"""The most that a prefix cache could serve: a trie over the token ids that were really sent."""

from __future__ import annotations

from collections.abc import Sequence

_ROOT = 0


class PrefixIndex:
    """Whole blocks of all sequences so far, each known by its path from the root of the trie.

    A path is a chain of hashes, so that a block counts only after everything before it was equal.
    Blocks that a single conversation used are dropped with it (`release`): memory follows the
    conversations that are open, not those that were held.
    """

    def __init__(self, block_size: int) -> None:
        """Start empty; ``block_size`` is the engine's, in tokens."""
        self._block_size = block_size
        self._owner: dict[int, str | None] = {}  # None: used by several conversations
        self._blocks: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._owner)

    def reusable(self, ids: Sequence[int]) -> int:
        """Tokens at the start of a prompt that could come from a cache that never forgets.

        The engine must compute at least a prompt's last token, so that one never counts.
        """
        path, known = _ROOT, 0
        for start in range(0, len(ids) - self._block_size, self._block_size):
            path = hash((path, *ids[start : start + self._block_size]))
            if path not in self._owner:
                break
            known += self._block_size
        return known

    def add(self, ids: Sequence[int], conversation: str = "") -> None:
        """Remember a sequence, prompt or prompt and answer, of a conversation."""
        path = _ROOT
        for start in range(0, len(ids) - self._block_size + 1, self._block_size):
            path = hash((path, *ids[start : start + self._block_size]))
            if path not in self._owner:
                self._owner[path] = conversation
                self._blocks.setdefault(conversation, []).append(path)
            elif self._owner[path] != conversation:
                self._owner[path] = None

    def release(self, conversation: str) -> None:
        """Forget what only this conversation used."""
        for path in self._blocks.pop(conversation, ()):
            if self._owner[path] is not None:
                del self._owner[path]

    def clear(self) -> None:
        """Forget everything, as an emptied cache does."""
        self._owner.clear()
        self._blocks.clear()
