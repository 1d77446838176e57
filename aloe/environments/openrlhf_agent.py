"""An agent function file of OpenRLHF 0.11: ``--train.agent_func_path`` of its train_ppo_ray.

A prompt's label is JSON: ``seed``, arguments of `TwinsEnvironment`, and how the chat template goes
on after a reply. `write_prompts` makes such prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from openrlhf.utils.agent import AgentInstanceBase, MultiTurnAgentExecutor

from aloe.environments.plain import TwinsEnvironment

_MESSAGE = "{message}"
_CHATML = {
    "ends": ["<|im_end|>"],
    "next": f"\n<|im_start|>user\n{_MESSAGE}<|im_end|>\n<|im_start|>assistant\n",
}
_ASKED, _SAID, _TOLD = (f"{word}\u241e" for word in ("asked", "said", "told"))


class AgentInstance(AgentInstanceBase):
    """One episode; its reward is the mean share of the preferences that was met, in [0, 1]."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._rewards: list[float] = []

    async def reset(self, states: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Begin the conversation of ``states["label"]``; the prompt holds the first message.

        Raises:
            ValueError: the label is no JSON, or one of its options is out of its range.
            KeyError: it has no seed.
        """
        options = _CHATML | json.loads(states["label"])
        self._ends: list[str] = options.pop("ends")
        self._next: str = options.pop("next")
        seed = options.pop("seed")
        self._environment = TwinsEnvironment(**options)
        self._environment.reset(seed)
        return {"observation": states["observation"]}

    async def step(self, state_dict: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Answer the user with ``state_dict["action_text"]``.

        Returns:
            OpenRLHF's keys. ``rewards`` is this turn's part of the mean: OpenRLHF adds them up, and
            turns that an episode has no room for give nothing.
        """
        text = state_dict["action_text"]
        ended = next((end for end in self._ends if end and text.endswith(end)), "")
        said, reward, done, info = self._environment.step(text.removesuffix(ended))
        self._rewards.append(reward)
        feedback = ""
        if said is not None:
            feedback = ("" if ended else self._ends[0]) + self._next.replace(_MESSAGE, said)
        return {
            "rewards": torch.tensor(reward / self._environment.turns, dtype=torch.float64),
            "scores": sum(self._rewards) / self._environment.turns,
            "environment_feedback": feedback,
            "done": done,
            "extra_logs": {
                "first_share": self._rewards[0],
                "last_share": reward,
                "last_best_share": info["best_share"],
                "nats": info["nats"],
            },
        }


class AgentExecutor(MultiTurnAgentExecutor):
    """What OpenRLHF looks for in the file."""

    def __init__(self) -> None:
        super().__init__(AgentInstance)

    async def execute(
        self, prompt: str, label: str, sampling_params: Any, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Play one episode."""
        # vLLM leaves an end of turn out of the text, though not out of the tokens: only with this
        # can `step` tell whether the reply has one.
        sampling_params = deepcopy(sampling_params)
        sampling_params.include_stop_str_in_output = True
        return await super().execute(prompt, label, sampling_params, *args, **kwargs)


def write_prompts(
    path: Path, people: int, tokenizer: Any, first_seed: int = 0, **options: Any
) -> None:
    """Write prompts for OpenRLHF as JSON lines, ``prompt`` and ``label``.

    Args:
        people: one prompt each, with seeds from ``first_seed`` on; two even numbers keep twins
            together.
        tokenizer: of transformers, with a chat template.
        options: arguments of `TwinsEnvironment`.

    Raises:
        ValueError: an option is out of its range, or the template loses a message.
    """
    environment = TwinsEnvironment(**options)
    after = after_a_reply(tokenizer)
    with path.open("w", encoding="utf-8") as file:
        for seed in range(first_seed, first_seed + people):
            prompt = _written(tokenizer, [environment.reset(seed)])
            label = json.dumps({"seed": seed, **options, **after})
            file.write(json.dumps({"prompt": prompt, "label": label}, ensure_ascii=False) + "\n")


def after_a_reply(tokenizer: Any) -> dict[str, Any]:
    """How a chat template goes on after a reply.

    Returns:
        ``ends``: texts of tokens that end a reply, the template's own first; ``next``: what follows
        up to where the next reply begins, with ``{message}`` for the user's message.

    Raises:
        ValueError: the template loses a message.
    """
    written = _written(tokenizer, [_ASKED, _SAID, _TOLD])
    _, said, rest = written.partition(_SAID)
    between, told, after = rest.partition(_TOLD)
    if not (said and told):
        raise ValueError("the chat template loses a message of three")
    added = tokenizer.added_tokens_decoder.values()
    special = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
    end = min((between.index(t) + len(t) for t in special if t in between), default=0)
    ends = dict.fromkeys((between[:end], tokenizer.eos_token or ""))
    return {"ends": list(ends), "next": f"{between[end:]}{_MESSAGE}{after}"}


def _written(tokenizer: Any, messages: list[str]) -> str:
    """A conversation that the user opens, up to where the next reply begins."""
    roles = ("user", "assistant")
    chat = [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
    text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return text
