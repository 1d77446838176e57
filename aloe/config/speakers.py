"""Who speaks: models, their samplers, their prices, their roles."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from aloe.config.section import Section

Scalar = bool | int | float | str


class Frozen(dict[str, Scalar]):
    """Settings are compared and hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


class Sampling(Section):
    temperature: float = Field(0.8, ge=0)
    """Softmax temperature; 0 is greedy."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus of the distribution that is sampled from."""
    max_tokens: int = Field(300, ge=1)
    """Longest completion, in tokens."""
    stop: tuple[str, ...] = ()
    """Texts at which a completion ends; what comes after is never made."""


class Price(Section):
    prompt: float = Field(0.0, ge=0)
    """US dollars per million prompt tokens that were not cached."""
    cached: float | None = Field(None, ge=0)
    """US dollars per million cached prompt tokens; null takes the price of the others."""
    completion: float = Field(0.0, ge=0)
    """US dollars per million completion tokens."""


class EnginePool(Section):
    replicas: int = Field(1, ge=1)
    """Engines, each in a named Ray actor of its own."""
    num_cpus: float = Field(1.0, ge=0)
    """CPUs that one engine reserves."""
    num_gpus: float | None = Field(None, ge=0)
    """GPUs (logical ones on a CPU) that one engine reserves; null is tensor_parallel_size."""


class VllmModel(Section):
    backend: Literal["vllm"]
    """A vLLM engine inside the actor that uses it."""
    path: str
    """Checkpoint: embedded://NAME, a local folder, an fsspec URL or a Hugging Face id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights' type; auto is float32 on a CPU and the checkpoint's own on a GPU."""
    max_model_len: int = Field(2048, ge=64)
    """Longest prompt plus completion, in tokens."""
    max_num_seqs: int = Field(64, ge=1)
    """Most sequences that the engine computes in one step."""
    block_size: int = Field(32, ge=8)
    """Tokens in one block of the KV cache."""
    kv_cache_gib: int = Field(1, ge=1)
    """KV cache on a CPU, in GiB; a GPU takes what gpu_memory_utilization leaves."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Share of a GPU's memory that the engine may take."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs over which one engine is split."""
    enable_prefix_caching: bool = True
    """Keep the KV blocks of shared prompt prefixes."""
    chat_template: str | None = None
    """Jinja file (or its text) in place of the checkpoint's own template; a base model has none."""
    chat_template_kwargs: Annotated[dict[str, Scalar], AfterValidator(Frozen)] = Frozen()
    """Further variables of the chat template."""
    thinking: Literal["off", "keep", "strip"] = "off"
    """off: the chat template is told that the model does not think; strip: it may, and what it
    thinks goes into the column reasoning; keep: the rows of its training learn that too."""
    thinking_tokens: int = Field(0, ge=0)
    """Tokens on top of max_tokens for another try, when a reply was all thinking."""
    pool: EnginePool | None = None
    """Engines of their own that all actors share. Null: in the actor that uses the model, or a pool
    of one engine where a stage uses several vLLM models."""
    stall_timeout_s: float = Field(300.0, gt=0)
    """Seconds without a step while calls wait, after which an engine is replaced."""
    price: Price | None = None
    """What tokens cost; null: not known, counted as nothing. What is free has a price of {}."""
    trust_remote_code: bool = False
    """Run code that the checkpoint brings along. Off unless you have read that code."""


class OpenAIModel(Section):
    backend: Literal["openai"]
    """Any server that speaks the OpenAI chat completions protocol."""
    model: str
    """Model name to send."""
    base_url: str = "https://api.openai.com/v1"
    """Root of the API."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never written down."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds after which one attempt at a call is given up."""
    deadline_s: float = Field(600.0, gt=0)
    """Seconds after which no further attempt at a call is made."""
    max_concurrency: int = Field(32, ge=1)
    """Most calls in flight from all actors of a run; fewer while the server says that it is
    busy."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Most calls that all actors of a run begin in a minute, evenly spaced; null: no limit."""
    tokens_per_minute: float | None = Field(None, gt=0)
    """Most tokens, of prompts and completions, in a minute of all actors of a run; null: no
    limit."""
    price: Price | None = None
    """What tokens cost; null: not known, counted as nothing. What is free has a price of {}."""
    native_schema: bool = True
    """Whether the server constrains output to a JSON schema; if not, the answer is only parsed."""
    chat_template_kwargs: Annotated[dict[str, Scalar], AfterValidator(Frozen)] = Frozen()
    """Variables of the chat template, sent with every call to a server that takes them."""
    thinking: Literal["off", "keep", "strip"] | None = None
    """off, keep, strip: sent as the variable enable_thinking of the chat template, false with off.
    Null: the server decides. Thoughts are set apart from what is said in any case; keep: where the
    model is roles.unguided, and no vllm model serves training.base, rows learn them."""
    thinking_tokens: int = Field(0, ge=0)
    """Tokens on top of max_tokens for another try, when a reply was all thinking."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameter -> value that every call sends, or omit: temperature, top_p, seed, stop, logprobs,
    response_format, max_tokens, max_completion_tokens and others of the server."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """What every call's body holds besides, as it is: the server's own parameters."""
    extra_headers: dict[str, str] = Field(default_factory=dict)
    """Headers of every call. A value $NAME is taken from the environment and never written down."""


class ScriptedModel(Section):
    backend: Literal["scripted"]
    """A deterministic speaker without a model: the same request always gets the same answer."""
    says: tuple[str, ...] = ()
    """What it says, one of them at a time; empty: a few English words."""
    latency_s: float = Field(0.0, ge=0)
    """Seconds that each call takes."""
    step_s: float = Field(0.0, ge=0)
    """Seconds of one step, in which every running call makes one word, as on a GPU."""
    step_s_per_sequence: float = Field(0.0, ge=0)
    """Seconds that each running call adds to a step."""
    max_num_seqs: int = Field(64, ge=1)
    """Most calls that run at once."""
    price: Price | None = None
    """What words cost; null: nothing."""


class VerifiableModel(Section):
    backend: Literal["verifiable"]
    """A program: as judge it checks which of a persona's preferences a reply meets; where
    personas.twins are planned it also plays the user, and the inducer."""


ModelConfig = Annotated[
    VllmModel | OpenAIModel | ScriptedModel | VerifiableModel, Field(discriminator="backend")
]


class Roles(Section):
    user: str
    """Model that plays the person."""
    inducer: str
    """Model that notes what the person has revealed so far."""
    guided: str
    """Model that answers with the induced persona as a hint."""
    unguided: str
    """Model that answers from the conversation alone; also the policy that is trained."""
    judge: str
    """Model that prefers one of two replies and scores replies from 1 to 5."""


class JudgeConfig(Section):
    by: Literal["auto", "logprobs", "votes"] = "auto"
    """How a judge's choice gets probabilities; auto: by log-probs, where there are none by
    votes."""
    votes: int = Field(8, ge=2)
    """Answers at temperature 1 of which a vote is the share, for each order of two replies."""
    max_tokens: int = Field(256, ge=1)
    """Longest answer of a vote, in tokens; one that thinks needs more."""

    def settings(self) -> dict[str, Any]:
        """What of it decides a stage's output: nothing as long as it is the default."""
        return {} if self == JudgeConfig() else {"judge": self.model_dump(mode="json")}


def speaker_settings(model: ModelConfig) -> dict[str, Any]:
    """What of a model's configuration decides what it says, not how fast it says it."""
    decisive = {"backend", "path", "dtype", "max_model_len", "model", "base_url", "chat_template"}
    talk = ("chat_template_kwargs", "thinking", "thinking_tokens")
    if isinstance(model, OpenAIModel):
        # Only what is set: what was made before there were such keys can be gone on with.
        decisive |= {name for name in (*talk, "params", "extra_body") if getattr(model, name)}
    else:
        decisive |= set(talk)
    if isinstance(model, ScriptedModel) and model.says:
        decisive.add("says")
    return model.model_dump(mode="json", include=decisive)
