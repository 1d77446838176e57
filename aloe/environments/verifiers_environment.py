"""Taskset, environment and harness of verifiers 0.4, which finds them as ``aloe-twins``.

Its pins are not those of aloe: it is for a virtual environment of its own, in which aloe needs
PyYAML and regex, and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import verifiers.v1 as vf
from openai import AsyncOpenAI
from verifiers.v1.dialects.chat import message_to_wire

from aloe.environments.plain import TwinsEnvironment

Part = Literal["train", "heldout"]


class TwinsTasksetConfig(vf.TasksetConfig):
    """Who is talked with; the rest are arguments of `TwinsEnvironment`."""

    people: int = 200
    """Tasks; an even number keeps twins together."""
    first_seed: int = 0
    pairs: tuple[str, ...] = ("question", "tone", "self")
    count: int = 2
    turns: int = 6
    wordings: Part = "train"
    topics: Part = "train"


class TwinsData(vf.TaskData):
    """One person."""

    seed: int
    options: dict[str, Any]
    """Arguments of `TwinsEnvironment`."""


class TwinsTask(vf.Task[TwinsData, vf.State, vf.TaskConfig]):
    """Scored by `TwinsEnv`, which knows each reply's reward when the user has read it."""


class TwinsTaskset(vf.Taskset[TwinsTask, TwinsTasksetConfig]):
    """A task for each seed, two twins after each other."""

    def load(self) -> Iterator[TwinsTask]:
        """Yield the tasks.

        Raises:
            ValueError: an option is out of its range.
        """
        names = ("pairs", "count", "turns", "wordings", "topics")
        options = {name: getattr(self.config, name) for name in names}
        environment = TwinsEnvironment(**options)
        for seed in range(self.config.first_seed, self.config.first_seed + self.config.people):
            said = environment.reset(seed)
            data = TwinsData(name=f"twins-{seed}", prompt=said, seed=seed, options=options)
            yield TwinsTask(data, self.config.task)


class ChatHarness(vf.Harness[vf.HarnessConfig]):
    """Asks the model for one reply in this process: no program to install, no code to run."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Send the conversation so far; verifiers' own endpoint keeps the reply in the trace."""
        system, prompt = self.resolve_prompt(data)
        messages: list[Any] = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages.extend(message_to_wire(message) for message in prompt or [])
        async with AsyncOpenAI(base_url=endpoint, api_key=secret) as client:
            await client.chat.completions.create(model=ctx.model, messages=messages)
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


class TwinsEnvConfig(vf.EnvConfig):
    """One seat, under verifiers' name for it, in this process unless it is told otherwise."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class TwinsEnv(vf.Env[TwinsEnvConfig]):
    """The program plays the user, turn by turn; the reward is the mean share that was met."""

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Play one episode; ``trace.info["turns"]`` tells of each turn."""
        environment = TwinsEnvironment(**task.data.options)
        environment.reset(task.data.seed)  # its first message is the task's prompt
        turns: list[dict[str, Any]] = []
        async with agents.agent.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                said, reward, _, info = environment.step(segment.last_reply)
                turns.append({"reward": reward, **info})
                if said is None:
                    break
                segment = await interaction.turn(said)
        trace = interaction.trace
        # A turn that was not taken, because of a limit, is 0.
        trace.record_reward("share_met", sum(t["reward"] for t in turns) / environment.turns)
        if turns:
            last = turns[-1]
            trace.record_metrics({"last_share": last["reward"], "nats": last["nats"]})
        trace.info["turns"] = turns
