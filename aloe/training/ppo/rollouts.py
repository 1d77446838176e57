"""Which episodes are played, and by which engine."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from aloe.config import PpoConfig
from aloe.schema import derive_seed
from aloe.training.ppo.episode import Start

Row = dict[str, Any]

_PERSONA = ("persona_id", "profile", "personality", "preferences", "twin_id")


class Rollouts:
    """Episodes by seed and place alone: a run that goes on plays what it would have played."""

    def __init__(
        self,
        options: PpoConfig,
        seed: int,
        prompts: Mapping[str, Sequence[Row]],
        engines: Sequence[Any],
    ) -> None:
        """``prompts``: rows of `aloe.schema.PROMPTS` by split."""
        self._options, self._seed = options, seed
        self._prompts, self._engines = prompts, engines

    def of_update(self, step: int) -> list[Start]:
        """The episodes of an update; all prompts are played before one comes again."""
        rows, samples = self._prompts["train"], self._options.samples
        number = self._options.batch_size // samples
        starts = []
        for place in range(step * number, (step + 1) * number):
            pass_, index = divmod(place, len(rows))
            order = list(range(len(rows)))
            random.Random(derive_seed(self._seed, "order", pass_)).shuffle(order)
            row = rows[order[index]]
            starts += [
                self._start(row, derive_seed(self._seed, step, place, sample))
                for sample in range(samples)
            ]
        return starts

    def held_out(self, number: int) -> list[Start]:
        """Episodes with held-out personas, the same at every look."""
        rows = self._prompts["validation"]
        return [
            self._start(rows[i % len(rows)], derive_seed(self._seed, "look", i))
            for i in range(number)
        ]

    def ask(self, starts: Sequence[Start]) -> list[Any]:
        """References to the responses; the samples of a prompt go to one engine, for its cache."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=self._options.sampling.max_tokens)
        engine: dict[str, int] = {}
        return [
            self._engines[
                engine.setdefault(start.prompt_id, len(engine) % len(self._engines))
            ].generate_responses.remote(
                prompt=start.prompt_id,
                label=start.label(),
                sampling_params=params,
                max_length=self._options.max_len,
                hf_tokenizer=None,
            )
            for start in starts
        ]

    def _start(self, row: Row, seed: int) -> Start:
        persona = {key: row[key] for key in _PERSONA}
        persona["preferences"] = persona["preferences"] or []
        return Start(
            row["prompt_id"], row["prompt"], persona, seed, self._options.sampling.temperature
        )
