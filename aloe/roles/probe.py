"""One tiny call per role and model before a run: what works, and what is done instead.

The calls are those of the roles themselves, on a conversation of one message. Servers are asked;
of a checkpoint only its files are looked at, no engine starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.table import Table

from aloe.config import DialogueConfig, JudgeConfig, ModelConfig, OpenAIModel, VllmModel
from aloe.engines import Completion, Engine, Request
from aloe.engines.judging import Judge, votes_of
from aloe.engines.openai import OpenAIEngine, list_models
from aloe.engines.openai_faults import is_spent
from aloe.engines.openai_parameters import not_honoured, remember
from aloe.engines.tokenizer import chat_of
from aloe.engines.vllm import single_tokens
from aloe.engines.wrapper import Wrapper
from aloe.errors import CallFailed, StageStopped, UserError, WorldFault
from aloe.progress import console, say, telling_json
from aloe.roles.asking import Answer
from aloe.roles.prompts import BUILT_IN, Prompts
from aloe.roles.speak import CHOICES, Persona, induce, prefer, reply, say_user

_MOST_REQUESTS = 30
"""Requests after which what has not worked is given up; a model gets a few whatever came before."""
_FEWEST_REQUESTS = 10
_DEADLINE_S = 20.0
_TRIES = 3
_VOTES = 2
_STOP = "~~~~~~~~"
"""A text to stop at that nobody writes."""
_FOLDED = "in the first user message"
_NOTING = {"inducer", "writer"}
_SOMEBODY = Persona("probe", "Keeps bees.", "Dry-humoured.")
_HEARD: list[Any] = [{"role": "user", "content": "Hello! I just came in from my beehives."}]


@dataclass(frozen=True)
class Probed:
    """What works with one model, in words; a dash where no role needs it."""

    model: str
    roles: list[str]
    system: str = "-"
    schema: str = "-"
    choices: str = "-"
    seed: str = "-"
    stop: str = "-"
    not_honoured: list[str] = field(default_factory=list)
    """Parameters of the samplers that the server decides by itself."""
    requests: int = 0


class _Stopping(Wrapper[Engine]):
    """An engine that is told where to stop, so that it is known whether it can be."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.ends = list[str]()

    async def complete(self, request: Request) -> Completion:
        stop = () if request.choices or request.json_schema else (_STOP,)
        completion = await self._engine.complete(replace(request, stop=request.stop or stop))
        self.ends.append(completion.finish_reason)
        return completion


def probe(
    models: Mapping[str, ModelConfig],
    roles: Mapping[str, Sequence[str]],
    dialogue: DialogueConfig,
    judge: JudgeConfig,
    prompts: Prompts = BUILT_IN,
) -> list[Probed]:
    """Find out what works.

    Args:
        models: by name; scripts and programs are left out.
        roles: names of the roles that each model has: user, inducer, guided, unguided, judge,
            writer or policy.
        dialogue: samplers and limits of the calls.
        prompts: of the run; what the calls talk about is English.

    Raises:
        UserError: something cannot work: the key, the name of the model, no chat template, or a
            role whose answers are of no use.
        StageStopped: it may work later.
    """
    found, spent = [], 0
    asked = sum(isinstance(model, OpenAIModel) for model in models.values())
    for name, model in models.items():
        if isinstance(model, VllmModel):
            found.append(_look(name, model, roles[name]))
        elif isinstance(model, OpenAIModel):
            asked -= 1  # those that come after keep theirs
            most = max(_FEWEST_REQUESTS, _MOST_REQUESTS - spent - asked * _FEWEST_REQUESTS)
            probed = asyncio.run(
                _probe_server(name, model, roles[name], dialogue, judge, most, prompts)
            )
            spent += probed.requests
            found.append(probed)
    return found


def _look(name: str, model: VllmModel, roles: Sequence[str]) -> Probed:
    chat = chat_of(name, model)
    system = "own role" if chat is None or chat.takes_system else _FOLDED
    if system == _FOLDED:
        say(f"models.{name}: its template has no system role: the system text stands {_FOLDED}")
    if "judge" in roles and chat is not None:
        for choices in CHOICES:
            single_tokens(name, chat.without_thinking(), choices)
    return Probed(
        name,
        list(roles),
        system=system,
        schema="native" if _NOTING & set(roles) else "-",
        choices="log-probs" if "judge" in roles else "-",
        seed="sent",
        stop="sent",
    )


async def _probe_server(
    name: str,
    model: OpenAIModel,
    roles: Sequence[str],
    dialogue: DialogueConfig,
    judge: JudgeConfig,
    most: int,
    prompts: Prompts,
) -> Probed:
    patience = min(model.deadline_s, _DEADLINE_S)
    engine = OpenAIEngine(name, model.model_copy(update={"deadline_s": patience}), most)
    speaking = _Stopping(engine)
    judging = _Stopping(Judge(engine, judge.model_copy(update={"votes": _VOTES})))
    for role in roles:
        try:
            await _call(role, judging if role == "judge" else speaking, dialogue, prompts)
        except CallFailed as failed:
            raise UserError(
                f"models.{name} as {role}: no answer that can be used ({failed})"
            ) from (failed)
        except WorldFault as fault:
            raise await asyncio.to_thread(_told, name, model, fault) from fault
    habits = engine.habits
    remember({model: habits})
    noted = _NOTING & set(roles)
    voted = any(votes_of(end) for end in judging.ends)
    talked = set(roles) - noted - {"judge"}
    return Probed(
        name,
        list(roles),
        system="own role" if habits.system else _FOLDED,
        schema=(_SCHEMA[habits.schema] if noted else "-"),
        choices=("votes" if voted else "log-probs") if "judge" in roles else "-",
        seed="left out" if "seed" in habits.without else "sent",
        stop=("cut here" if "stop" in habits.without else "sent") if talked else "-",
        not_honoured=not_honoured(habits),
        requests=engine.requests,
    )


_SCHEMA = {"json_schema": "native", "json_object": "json_object", "": "parsed text"}


async def _call(
    role: str, engine: Engine, dialogue: DialogueConfig, prompts: Prompts
) -> Answer[Any]:
    person, sampling = _SOMEBODY, dialogue.sampling
    most = dialogue.induction_max_tokens
    calls: dict[str, Callable[[], Coroutine[Any, Any, Answer[Any]]]] = {
        "user": lambda: say_user(engine, person, [], sampling, _TRIES, 0, prompts),
        "inducer": lambda: induce(engine, person, _HEARD, most, _TRIES, 0, prompts),
        "writer": lambda: induce(engine, person, _HEARD, most, _TRIES, 1, prompts),
        "judge": lambda: prefer(engine, person, _HEARD, "Hi.", "Oh, how many?", _TRIES, 0, prompts),
    }
    talk = calls.get(role, lambda: reply(engine, role, _HEARD, None, sampling, _TRIES, 0, prompts))
    return await talk()


def _told(name: str, model: OpenAIModel, fault: WorldFault) -> Exception:
    """The end of a run that cannot begin: bad input, or something that may pass."""
    if fault.passes or is_spent(str(fault)):
        return StageStopped(str(fault))
    names: list[str] = []
    if "refuses the key" not in str(fault):
        with suppress(WorldFault):
            names = list_models(model)
    if names and model.model not in names:
        there = f"expected one of: {', '.join(names[:20])}"
        return UserError(f"models.{name}.model: {model.base_url} has no {model.model!r}, {there}")
    return UserError(str(fault))


def show_probe(found: Sequence[Probed]) -> None:
    """Print what works, a model per line; with ``--json`` one line."""
    if telling_json():
        say("what the models can do", probe=[asdict(probed) for probed in found])
        return
    table = Table(title="what the models can do", title_justify="left")
    for column in ("model", "roles", "system", "JSON", "choices", "seed", "stop", "not honoured"):
        table.add_column(column)
    for probed in found:
        table.add_row(
            probed.model,
            ", ".join(probed.roles),
            probed.system,
            probed.schema,
            probed.choices,
            probed.seed,
            probed.stop,
            ", ".join(probed.not_honoured) or "-",
        )
    console.print(table)
