"""One episode: the policy talks with a simulated user and is rewarded after each of its replies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from openrlhf.utils.agent import AgentExecutorBase

from aloe.chat import repaired, split_thinking
from aloe.config import PpoConfig, Sampling
from aloe.engines import Engine, Message
from aloe.engines.vllm import VllmEngine
from aloe.errors import CallFailed, EngineError
from aloe.roles import (
    BUILT_IN,
    Persona,
    Prompts,
    expected_score,
    persona_of,
    say_user,
    score,
    unanswered,
    within,
)
from aloe.schema import derive_seed

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput


@dataclass(frozen=True)
class Start:
    """Where an episode begins; goes through OpenRLHF as the prompt's label, as JSON."""

    prompt_id: str
    prompt: list[Message]
    """System prompt and the user's first message."""
    persona: Mapping[str, Any]
    """persona_id, profile, personality, preferences, twin_id."""
    seed: int
    """Of all samplers of this episode."""
    temperature: float

    def label(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class Exchange:
    """One turn as the people in it saw it."""

    user: str
    reply: str
    parts: dict[str, float] = field(default_factory=dict)
    """What each kind of reward gave, in [0, 1]."""


class Conversation(AgentExecutorBase):  # type: ignore[misc]
    """OpenRLHF's agent: called once for each episode."""

    def __init__(
        self,
        engine: VllmEngine,
        others: Mapping[str, Engine],
        options: PpoConfig,
        user_sampling: Sampling,
        prompts: Prompts = BUILT_IN,
        planned: bool = False,
    ) -> None:
        """Hold no conversation yet.

        Args:
            others: the engines of user and, if it rewards, judge.
            planned: a program plans what users hint at.
        """
        self._planned = planned
        self._engine, self._others = engine, others
        self._options, self._user_sampling = options, user_sampling
        self._prompts = prompts

    async def execute(
        self,
        prompt: str,
        label: str,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: Any = None,
    ) -> dict[str, Any]:
        """Hold the conversation of ``label``, a `Start`.

        A call that fails for good ends the episode before the turn that it would have made; its
        row for the errors table is returned with the turns before.

        Returns:
            What OpenRLHF's `SamplesGenerator` reads: token ids of all that was said, the ranges of
            the policy's own, the log-probs with which they were sampled; and ``exchanges``.
        """
        start = Start(**json.loads(label))
        persona = persona_of(start.persona, self._planned)
        name = f"ppo-{start.seed}"
        others = within(self._others, name)
        history: list[Message] = list(start.prompt[1:])
        ids = self._engine.token_ids(start.prompt)
        ranges: list[tuple[int, int]] = []
        log_probs = [0.0] * len(ids)
        exchanges: list[Exchange] = []
        calls: list[dict[str, Any]] = []
        error, cut = None, False
        for turn in range(1, self._options.turns + 1):
            room = max_length - len(ids)
            if room < 1:
                cut = True
                break
            seed = derive_seed(start.seed, turn)
            try:
                output = await self._speak(ids, min(room, sampling_params.max_tokens), start, turn)
                said = output.outputs[0]
                token_ids = self._spoken(said)
                exchange = Exchange(history[-1]["content"], self._readable(said.text))
                exchange.parts = await self._reward(persona, history, exchange, others, calls, seed)
            except CallFailed as failure:
                error = self._error(start, turn, failure, calls)
                break
            exchanges.append(exchange)
            ranges.append((len(ids), len(ids) + len(token_ids)))
            ids += token_ids
            log_probs += _sampled(said)[: len(token_ids)]
            cut = said.finish_reason == "length"
            if turn == self._options.turns or not exchange.reply:
                break
            history.append({"role": "assistant", "content": exchange.reply})
            try:
                user = await say_user(
                    others["user"],
                    persona,
                    history,
                    self._user_sampling,
                    self._options.tries,
                    derive_seed(seed, "user"),
                    self._prompts,
                )
            except CallFailed as failure:
                error = self._error(start, turn + 1, failure, calls)
                break
            calls.append(user.call)
            ended = said.finish_reason == "stop" and not isinstance(said.stop_reason, str)
            heard = self._engine.chat.between(token_ids[-1], user.value, ended)
            if len(ids) + len(heard) >= max_length:  # no room to answer: not part of the episode
                cut = True
                break
            history.append({"role": "user", "content": user.value})
            ids += heard
            log_probs += [0.0] * len(heard)
        for engine in (self._engine, *others.values()):
            engine.release(name)
        return {
            "prompt": start.prompt_id,
            "label": label,
            "reward": sum(sum(exchange.parts.values()) for exchange in exchanges),
            "scores": 0.0,
            "observation_tokens": ids,
            "action_ranges": ranges,
            "rollout_log_probs": log_probs,
            "truncated": cut,
            "extra_logs": {},
            "exchanges": [asdict(exchange) for exchange in exchanges],
            "calls": calls,
            "error": error,
        }

    async def _speak(self, ids: list[int], most: int, start: Start, turn: int) -> RequestOutput:
        """The policy's reply; not tried again: what it cannot answer once, it never can."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            temperature=start.temperature,
            max_tokens=most,
            seed=derive_seed(start.seed, "policy", turn),
            stop=list(self._options.sampling.stop),
            stop_token_ids=[self._engine.chat.end_of_turn],
            logprobs=0,  # of the sampled token alone
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            output, _ = await self._engine.generate_known(list(ids), params, f"ppo-{start.seed}")
        except EngineError as error:
            call = unanswered("policy", tries=1)
            raise CallFailed("policy", type(error).__name__, str(error), call) from error
        return output

    def _readable(self, text: str) -> str:
        """What the user reads: the reply as it was said; empty if there is nothing to read."""
        said = split_thinking(repaired(text)[0], self._engine.chat.leaves_thought_open)[1]
        return said if said.strip() else ""

    def _spoken(self, said: Any) -> list[int]:
        """The reply's tokens, up to where a text of ``sampling.stop`` ended it."""
        ids = list(said.token_ids)
        if not isinstance(said.stop_reason, str):
            return ids
        most = len(said.text)
        while len(ids) > 1 and len(self._engine.tokenizer.decode(ids[:-1])) >= most:
            ids.pop()
        return ids

    async def _reward(
        self,
        persona: Persona,
        history: list[Message],
        exchange: Exchange,
        others: Mapping[str, Engine],
        calls: list[dict[str, Any]],
        seed: int,
    ) -> dict[str, float]:
        weights, parts = self._options.rewards, {}
        if weights.verifiable:
            parts["verifiable"] = sum(persona.met(exchange.reply)) if exchange.reply else 0.0
        if weights.judge and exchange.reply:
            rating = await score(
                others["judge"],
                persona,
                history,
                exchange.reply,
                self._options.tries,
                seed,
                self._prompts,
            )
            calls.append(rating.call)
            parts["judge"] = (expected_score(rating.value) - 1) / 4
        elif weights.judge:
            parts["judge"] = 0.0
        return parts

    def _error(
        self, start: Start, turn: int, failure: CallFailed, calls: list[dict[str, Any]]
    ) -> dict[str, Any]:
        return {
            "stage": "training/ppo",
            "item_id": f"{start.prompt_id}-{start.seed}",
            "persona_id": start.persona["persona_id"],
            "turn": turn,
            "role": failure.role,
            "kind": failure.kind,
            "message": str(failure),
            "calls": [*calls, failure.call],
        }


def _sampled(said: Any) -> list[float]:
    """Log-prob of each token of a completion when it was sampled."""
    found = [said.logprobs[i][token].logprob for i, token in enumerate(said.token_ids)]
    assert all(map(math.isfinite, found)), "a sampled token has probability 0"
    return found
