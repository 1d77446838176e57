"""A vLLM engine inside the calling process's event loop (its core runs in a child process)."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aloe.chat import ChatFormat, Message, options_of, repaired, split_thinking
from aloe.config import VllmModel
from aloe.engines.base import Completion, Load, Request
from aloe.engines.embedded import resolve_checkpoint
from aloe.engines.prefix import PrefixIndex
from aloe.engines.price import cost_usd
from aloe.engines.vllm_core import prepare_core, use_prepared_cores
from aloe.engines.vllm_sockets import shorten_sockets
from aloe.engines.vllm_stats import EngineStats
from aloe.errors import ContextExceeded, EngineDied, EngineError, MalformedAnswer, UserError
from aloe.machine import has_gpu, machine_has_gpu, reserved_threads, usable_cores
from aloe.progress import phase

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams
    from vllm.tokenizers import TokenizerLike
    from vllm.v1.engine.async_llm import AsyncLLM


_reserved_threads: int | None = None
"""Threads that this process had before an engine took all cores."""
_MAX_CHOICES = 32
_CPU_BATCHED_TOKENS = 4096
_CPU_CLOSE_S = 1.0
"""For a core to end in: all it still does is take its interpreter apart, for 5 s or more."""


class VllmEngine:
    """One `AsyncLLM`. vLLM batches whatever calls are in flight."""

    def __init__(
        self,
        name: str,
        model: VllmModel,
        share_cores: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the engine; takes 20 to 70 s on a CPU.

        Args:
            name: model name that completions carry.
            share_cores: other engines compute on this machine too: on a CPU this one has as many
                threads as Ray gave its process CPUs, instead of one on each core.
            more: arguments of vLLM's EngineArgs beside `engine_options`.
        """
        _prepare_process(share_cores)
        prepare_core()
        phase("importing vllm")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        use_prepared_cores()
        phase("starting its core")
        self._name, self._model, self._shared = name, model, share_cores
        self._stats = EngineStats()
        arguments = AsyncEngineArgs(**engine_options(model) | dict(more or {}))
        self._llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[self._stats.logger])
        self._tokenizer = self._llm.get_tokenizer()
        self.chat = ChatFormat(self._tokenizer, options_of(model), f"models.{name}")
        # Where a grammar holds the answer from its first token on, no thought can stand before it.
        self._unthinking = self.chat.without_thinking()
        self._ids = itertools.count()
        self._prefixes = PrefixIndex(model.block_size)
        self._reusable = self._cached = 0
        phase("ready")

    async def complete(self, request: Request) -> Completion:
        held = request.choices or request.json_schema is not None
        chat = self._unthinking if held else self.chat
        prompt = chat.prompt_ids(request.messages)
        room = self._model.max_model_len - len(prompt)
        if room < 1:
            raise ContextExceeded(
                f"{self._name}: prompt of {len(prompt)} tokens leaves no room in max_model_len "
                f"{self._model.max_model_len}"
            )
        choice_ids = single_tokens(self._name, chat, request.choices)
        most = request.max_tokens + (self._model.thinking_tokens if request.thinks else 0)
        params = sampling_params(request, min(most, room), choice_ids, chat.end_of_turn)
        start = time.monotonic()
        output, reusable = await self.generate_known(prompt, params, request.conversation)
        answer = completion_of(self._name, output, choice_ids, chat.leaves_thought_open)
        return replace(
            answer,
            reusable_tokens=reusable,
            seconds=time.monotonic() - start,
            cost_usd=cost_usd(
                self._model.price,
                answer.prompt_tokens,
                answer.cached_tokens,
                answer.completion_tokens,
            ),
        )

    async def generate(self, prompt: list[int], params: SamplingParams) -> RequestOutput:
        """Final output for a prompt of token ids, under sampling settings in vLLM's words.

        Raises:
            EngineError: this call failed.
            EngineDied: the engine's core is gone.
        """
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        output = None
        self._stats.submitted()
        try:
            async for output in self._llm.generate(  # noqa: B007  (the last one is wanted)
                {"prompt_token_ids": prompt}, params, f"{self._name}-{next(self._ids)}"
            ):
                pass
        except EngineDeadError as error:
            raise EngineDied(f"{self._name}: {error}") from error
        except (EngineGenerateError, VLLMClientError, ValueError) as error:
            raise EngineError(f"{self._name}: {type(error).__name__}: {error}") from error
        finally:
            self._stats.ended()
        if output is None:
            raise EngineError(f"{self._name}: the engine gave no output")
        return output

    async def generate_known(
        self, prompt: list[int], params: SamplingParams, conversation: str
    ) -> tuple[RequestOutput, int]:
        """`generate` within a conversation, counted for `load`.

        Returns:
            The output, and how many of the prompt's tokens open conversations had sent before.
        """
        # Without a cache nothing is lost that a smaller number of conversations would keep.
        cached = self._model.enable_prefix_caching
        reusable = self._prefixes.reusable(prompt) if cached else 0
        self._prefixes.add(prompt, conversation)
        output = await self.generate(prompt, params)
        self._prefixes.add([*prompt, *output.outputs[0].token_ids], conversation)
        self._reusable += reusable
        self._cached += output.num_cached_tokens or 0
        return output, reusable

    def token_ids(self, messages: list[Message]) -> list[int]:
        """The chat as the model reads it, up to where its answer begins."""
        return self.chat.prompt_ids(messages)

    async def forget_prefixes(self) -> None:
        """Empty the prefix cache, for measurements."""
        await self._llm.reset_prefix_cache()
        self._prefixes.clear()

    def load(self) -> Load:
        return Load(
            running=self._stats.running,
            waiting=self._stats.waiting,
            capacity=self._model.max_num_seqs,
            kv_usage=self._stats.kv_usage,
            preemptions=self._stats.preemptions,
            reusable_tokens=self._reusable,
            cached_tokens=self._cached,
        )

    def release(self, conversation: str) -> None:
        self._prefixes.release(conversation)

    def stalled_s(self) -> float:
        """Seconds since the engine last made a step or took its first call; infinite if its core is
        gone: vLLM forgets a call that was just being handed over when the core died."""
        return math.inf if self._llm.errored else self._stats.silent_s()

    async def share_cores(self, shared: bool) -> None:
        """On a CPU: compute with as many threads as CPUs are reserved, or on all cores."""
        if shared == self._shared or has_gpu():
            return
        self._shared = shared
        threads = _reserved_threads if shared else usable_cores()
        await self._llm.collective_rpc("use_threads", args=(threads,))

    @property
    def llm(self) -> AsyncLLM:
        """vLLM's engine, for what this class does not do."""
        return self._llm

    @property
    def tokenizer(self) -> TokenizerLike:
        """The checkpoint's."""
        return self._tokenizer

    @property
    def stats(self) -> EngineStats:
        """vLLM's own counters."""
        return self._stats

    def close(self) -> None:
        # Without this the core's death is reported as an error at the end of a good run.
        self._llm.shutdown(timeout=None if has_gpu() else _CPU_CLOSE_S)
        del self._llm  # its __del__ would run again, too late, at interpreter exit


def _prepare_process(share_cores: bool) -> None:
    """What vLLM reads from the environment when it is imported."""
    global _reserved_threads  # what Ray has set, before the environment is changed
    shorten_sockets()
    on_gpu = machine_has_gpu() and has_gpu()  # else torch need not be imported yet
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_OFFLINE", "0" if on_gpu else "1")
    if not on_gpu:
        # The core computes itself: vLLM would start a worker process for it, and each of the two
        # spins on a core while it waits for the other.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        # Threads that spin while they wait keep others from computing.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if _reserved_threads is None:
            _reserved_threads = reserved_threads()
        threads = _reserved_threads if share_cores else usable_cores()
        os.environ["OMP_NUM_THREADS"] = str(threads)


def engine_options(model: VllmModel) -> dict[str, Any]:
    """Arguments of vLLM's EngineArgs for a model, on the device that is there."""
    from vllm.config import StructuredOutputsConfig

    on_gpu = has_gpu()
    dtype = "float32" if model.dtype == "auto" and not on_gpu else model.dtype
    embedded_dtype = "bfloat16" if dtype == "bfloat16" else "float32"
    cpu_only: dict[str, Any] = {
        "kv_cache_memory_bytes": model.kv_cache_gib << 30,
        # A seeded request whose prefill is split kills vLLM 0.32 on a CPU: it rewinds the
        # request's generator, which CPU generators cannot.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(model.max_model_len, _CPU_BATCHED_TOKENS),
    }
    return {
        "model": resolve_checkpoint(model.path, embedded_dtype),
        "dtype": dtype,
        "max_model_len": model.max_model_len,
        "max_num_seqs": model.max_num_seqs,
        "block_size": model.block_size,
        "gpu_memory_utilization": model.gpu_memory_utilization,
        "tensor_parallel_size": model.tensor_parallel_size,
        "enable_prefix_caching": model.enable_prefix_caching,
        "trust_remote_code": model.trust_remote_code,
        "enforce_eager": not on_gpu,
        "disable_log_stats": False,
        "generation_config": "vllm",  # sampling is the request's, not the checkpoint's
        "max_logprobs": _MAX_CHOICES,
        "worker_extension_cls": "aloe.engines.vllm_worker.CountedThreads",
        # A small model fills free whitespace without end.
        "structured_outputs_config": StructuredOutputsConfig(
            backend="xgrammar", disable_any_whitespace=True
        ),
        **({} if on_gpu else cpu_only),
    }


def single_tokens(name: str, chat: ChatFormat, choices: tuple[str, ...]) -> dict[str, int]:
    """`ChatFormat.choice_ids` of the model ``name``.

    Raises:
        UserError: a choice is not one token.
    """
    try:
        return chat.choice_ids(choices) if choices else {}
    except ValueError as error:
        raise UserError(f"model {name}: {error}") from error


def completion_of(
    name: str, output: RequestOutput, choice_ids: Mapping[str, int], opened: bool = False
) -> Completion:
    """A vLLM output as a completion, without what only the engine knows: time, price, trie.

    Args:
        choice_ids: token id of each of the request's choices.
        opened: whether the chat template opens a thought.
    """
    answer = output.outputs[0]
    said, replaced = repaired(answer.text)
    reasoning, text = split_thinking(said, opened)
    logprobs = answer.logprobs[0] if choice_ids and answer.logprobs else {}
    return Completion(
        text=text,
        model=name,
        finish_reason="stop_text"
        if isinstance(answer.stop_reason, str)
        else answer.finish_reason or "",
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens or 0,
        completion_tokens=len(answer.token_ids),
        seconds=0.0,
        choice_logprobs=_normalised(logprobs, choice_ids) if choice_ids else {},
        reasoning=reasoning,
        replaced=replaced,
    )


def sampling_params(
    request: Request, max_tokens: int, choice_ids: Mapping[str, int], end_of_turn: int | None = None
) -> SamplingParams:
    """The request in vLLM's words.

    Args:
        max_tokens: of the request, or what the prompt leaves room for.
        choice_ids: token id of each of the request's choices.
        end_of_turn: ends generation, beside what the checkpoint names.
    """
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    if request.choices:
        # logprob_token_ids gives masked log-probs; plain `logprobs` would give unmasked ones.
        return SamplingParams(
            max_tokens=1,
            temperature=0,
            logprob_token_ids=list(choice_ids.values()),
            structured_outputs=StructuredOutputsParams(choice=list(choice_ids)),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
    schema = request.json_schema
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop=list(request.stop),
        stop_token_ids=None if end_of_turn is None else [end_of_turn],
        structured_outputs=StructuredOutputsParams(json=dict(schema)) if schema else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _normalised(logprobs: Mapping[int, Any], choice_ids: Mapping[str, int]) -> dict[str, float]:
    found = {c: logprobs[i].logprob for c, i in choice_ids.items() if i in logprobs}
    if len(found) != len(choice_ids):
        raise MalformedAnswer(f"log-probs of {sorted(set(choice_ids) - set(found))} are missing")
    total = math.log(sum(math.exp(value) for value in found.values()))
    return {choice: value - total for choice, value in found.items()}
