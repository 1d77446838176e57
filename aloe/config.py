"""The configuration of a run: what every YAML file in configs/ may say.

Unknown keys are refused. Every path may be local or an fsspec URL such as ``s3://bucket/key``.
Files and command-line overrides are read by `aloe.config_file`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A frozen block of configuration that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Resume = Literal["never", "always", "if-same"]


class RunConfig(Section):
    dir: str
    """Folder that holds everything the run writes; local path or fsspec URL."""
    seed: int = 0
    """The one seed from which every sampler's seed is derived."""
    max_error_rate: float = Field(0.1, ge=0, le=1)
    """Largest share of failed trees (or cases) with which a stage still counts as complete."""
    resume: Resume = "if-same"
    """Whether a run folder that has been begun may be gone on with: never, always (even though
    settings have changed), or if its settings are the same."""


class RayConfig(Section):
    address: str | None = None
    """Cluster to join ("auto", "host:port"); null takes RAY_ADDRESS, else starts Ray here."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of a Ray started here; null takes the machine's, but at least four logical ones."""
    autoscaling: bool = False
    """The cluster grows on demand: what does not fit yet waits instead of being refused."""
    logical_gpus: int = Field(4, ge=0)
    """GPUs that a Ray started here pretends to have on a machine without any."""
    object_store_mib: int = Field(512, ge=100)
    """Object store of a Ray started here, in MiB."""


class StorageConfig(Section):
    endpoint_url: str | None = Field(None, pattern="^https?://")
    """Server of s3:// paths; null takes AWS_ENDPOINT_URL or the profile's, else it is AWS."""
    region: str | None = None
    """Region of the buckets; null takes AWS_DEFAULT_REGION or the profile's."""
    profile: str | None = None
    """Profile in ~/.aws of every machine; null takes AWS_PROFILE. Keys come from it or from the
    environment, never from here."""
    path_style: bool = False
    """Put buckets into the path (server/bucket), as many servers other than AWS want; false leaves
    it to the profile."""
    timeout_s: float = Field(30.0, gt=0)
    """Seconds without a connection or a byte after which a request is given up."""
    attempts: int = Field(5, ge=1)
    """Tries per request, with growing pauses, before the stage ends with an error."""


class Sampling(Section):
    temperature: float = Field(0.8, ge=0)
    """Softmax temperature; 0 is greedy."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus of the distribution that is sampled from."""
    max_tokens: int = Field(300, ge=1)
    """Longest completion, in tokens."""


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
    pool: EnginePool | None = None
    """Engines of their own that all actors share. Null: in the actor that uses the model, or a pool
    of one engine where a stage uses several vLLM models."""
    stall_timeout_s: float = Field(300.0, gt=0)
    """Seconds without a step while calls wait, after which an engine is replaced."""
    price: Price = Price()
    """What tokens cost."""
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
    """Most calls in flight from one actor; fewer while the server says that it is busy."""
    price: Price = Price()
    """What tokens cost."""
    native_schema: bool = True
    """Whether the server constrains output to a JSON schema; if not, the answer is only parsed."""


class ScriptedModel(Section):
    backend: Literal["scripted"]
    """A deterministic speaker without a model: the same request always gets the same answer."""
    latency_s: float = Field(0.0, ge=0)
    """Seconds that each call takes."""
    step_s: float = Field(0.0, ge=0)
    """Seconds of one step, in which every running call makes one word, as on a GPU."""
    step_s_per_sequence: float = Field(0.0, ge=0)
    """Seconds that each running call adds to a step."""
    max_num_seqs: int = Field(64, ge=1)
    """Most calls that run at once."""


ModelConfig = Annotated[VllmModel | OpenAIModel | ScriptedModel, Field(discriminator="backend")]


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


class ActorPool(Section):
    min: int = Field(1, ge=1)
    """Fewest actors that Ray Data keeps."""
    max: int = Field(1, ge=1)
    """Most actors that Ray Data starts."""
    num_cpus: float = Field(1.0, ge=0)
    """CPUs that one actor reserves."""
    num_gpus: float | None = Field(None, ge=0)
    """GPUs that one actor reserves; null counts its vLLM engines' tensor_parallel_size."""
    in_flight: int | None = Field(None, ge=1)
    """Trees, cases or requests that one actor has open at once; null: as many as the load of its
    engines allows."""


class PoolGrowth(Section):
    size: int = Field(ge=1)
    """Members at which growth stops, seeds included."""
    files: tuple[str, ...] = ()
    """Persona files (JSON string per line) that join the pool after the seeds."""


class PersonasConfig(Section):
    writer: str
    """Model that writes new personas."""
    encoder: str = "embedded://minilm"
    """Encoder of the similarity filter: embedded://minilm or a sentence-transformers path."""
    profiles: PoolGrowth
    """Growth of the pool of everyday facts."""
    personalities: PoolGrowth
    """Growth of the pool of traits."""
    threshold: float = Field(0.6, ge=-1, le=1)
    """Highest cosine similarity to any member with which a candidate still joins the pool."""
    shown: int = Field(5, ge=1)
    """Random members that one request shows as examples."""
    asked: int = Field(20, ge=1)
    """New personas that one request asks for."""
    openings: bool = False
    """Fix the first words of each fact and trait by grammar: for writers too small for more."""
    tries: int = Field(3, ge=1)
    """Tries per request before it counts as failed."""
    requests_per_round: int = Field(1, ge=1)
    """Requests that see the same pool; their candidates are filtered together, in order."""
    max_rounds: int = Field(3000, ge=1)
    """Rounds after which growth stops in any case."""
    saturation_rounds: int = Field(10, ge=1)
    """Rounds over which saturation is looked at."""
    saturation_rate: float = Field(0.02, ge=0, le=1)
    """Growth is saturated when a smaller share of candidates was accepted over those rounds."""
    sampling: Sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=2048)
    """How the writer samples."""
    personalities_per_profile: int = Field(10, ge=1)
    """Personalities paired with each profile that is not held out."""
    max_personas: int | None = Field(None, ge=1)
    """Most personas kept for dialogue, drawn by seed; null keeps every pair."""
    heldout_profiles: int = Field(20, ge=1)
    """Profiles kept apart for the benchmark."""
    heldout_personalities: int = Field(5, ge=1)
    """Personalities kept apart for the benchmark; cases are all pairs of held-out ones."""
    actors: ActorPool = ActorPool()
    """Ray actors that hold the writer."""

    @model_validator(mode="after")
    def _openings_need_one(self) -> PersonasConfig:
        if self.openings and self.asked != 1:
            raise ValueError("openings: needs asked: 1, as they are drawn for one persona")
        return self


class DialogueConfig(Section):
    turns: int = Field(10, ge=1, le=63)
    """Turns in one tree."""
    tries: int = Field(3, ge=1)
    """Tries per call before the tree is given up and becomes a row in errors."""
    branching: Literal["spine", "both"] = "spine"
    """Which replies a conversation goes on with: one at random (the paper), or one of each role."""
    samples: int = Field(1, ge=1)
    """Replies per reply role and turn; guided reply i is judged against unguided reply i."""
    max_nodes: int = Field(4096, ge=3)
    """Most nodes in one tree; what would be beyond it is cut, later turns first. Ten turns of both
    are 3,069 nodes."""
    part_size: int = Field(64, ge=1)
    """Most trees in one file of the rollout; few trees are spread over more, smaller files."""
    sampling: Sampling = Sampling()
    """How user and assistant replies are sampled."""
    induction_max_tokens: int = Field(300, ge=16)
    """Longest note of the inducer, in tokens."""
    actors: ActorPool = ActorPool()
    """Ray actors that roll out trees."""


class PreferencesConfig(Section):
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of the personas whose rows are held out from training."""
    drop_disagreements: bool = False
    """Drop pairs on which the judge changed its mind when the replies changed places."""
    min_margin: float = Field(0.0, ge=0, le=1)
    """Smallest |P(guided preferred) - P(unguided preferred)| with which a pair is kept."""


class TrainingStage(Section):
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate (Adam, cosine decay with minimum)."""
    epochs: int = Field(1, ge=1)
    """Passes over the training rows."""
    batch_size: int = Field(48, ge=1)
    """Rows per optimizer step, over all ranks."""
    micro_batch_size: int = Field(1, ge=1)
    """Rows per forward pass on one rank."""
    max_len: int = Field(8192, ge=64)
    """Longest prompt plus reply, in tokens; longer prompts lose their oldest turns."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    max_norm: float = Field(1.0, gt=0)
    """Gradient clipping norm."""
    zero_stage: int = Field(2, ge=0, le=3)
    """DeepSpeed ZeRO stage."""
    ranks: int = Field(1, ge=1)
    """Ray actors that train together, one (logical) GPU each."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass to save memory."""


class SftConfig(TrainingStage):
    packing: bool = True
    """Pack short rows into one sequence; only where flash attention is there."""


class DpoConfig(TrainingStage):
    beta: float = Field(0.9, gt=0)
    """Strength of the tie to the reference (paper 0.9, RLPA 0.01)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Assumed share of wrong preference labels."""
    start_from: Literal["sft", "base"] = "sft"
    """Checkpoint from which policy and reference start."""


class TrainingConfig(Section):
    base: str
    """Checkpoint that is trained: embedded://NAME, folder, URL or Hugging Face id."""
    trust_remote_code: bool = False
    """Run code that the checkpoint brings along. Off unless you have read that code."""
    sft: SftConfig = SftConfig()
    """Supervised fine-tuning on preferred replies."""
    dpo: DpoConfig = DpoConfig()
    """Direct preference optimisation on pairs."""


class EvaluationConfig(Section):
    policies: dict[str, str] = {"base": "base", "sft": "sft", "dpo": "dpo"}
    """Name in tables -> checkpoint: base, sft or dpo of this run, a path, or model:NAME."""
    baseline: str = "base"
    """Policy with which the others are compared, case by case."""
    turns: int = Field(10, ge=2)
    """Turns of each case."""
    max_cases: int | None = Field(None, ge=2)
    """Most held-out personas used, drawn by seed; null uses all."""
    tries: int = Field(3, ge=1)
    """Tries per call before the case is given up and becomes a row in errors."""
    sampling: Sampling = Sampling()
    """How user and policy are sampled."""
    bootstrap_samples: int = Field(2000, ge=100)
    """Resamples of the cases behind each confidence interval."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Coverage of the intervals."""
    actors: ActorPool = ActorPool()
    """Ray actors that hold policy, simulator and judge."""


class ReportConfig(Section):
    trees: int = Field(12, ge=10)
    """Dialogue trees shown."""
    title: str = "ALOE run"
    """Heading of the page."""


class Config(Section):
    """All of a run."""

    run: RunConfig
    """Where the run lies and what seeds it."""
    ray: RayConfig = RayConfig()
    """The cluster."""
    storage: StorageConfig = StorageConfig()
    """The server of s3:// paths."""
    models: dict[str, ModelConfig]
    """Named backends."""
    roles: Roles
    """Who speaks with which model."""
    personas: PersonasConfig
    """Persona pools and pairs."""
    dialogue: DialogueConfig = DialogueConfig()
    """Tree rollout."""
    preferences: PreferencesConfig = PreferencesConfig()
    """From trees to training rows."""
    training: TrainingConfig
    """SFT and DPO."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The ALOE benchmark."""
    report: ReportConfig = ReportConfig()
    """The HTML page."""

    @model_validator(mode="after")
    def _names_exist(self) -> Config:
        used = {f"roles.{k}": v for k, v in self.roles.model_dump().items()}
        used["personas.writer"] = self.personas.writer
        for name, target in self.evaluation.policies.items():
            if target.startswith("model:"):
                used[f"evaluation.policies.{name}"] = target.removeprefix("model:")
        for key, name in used.items():
            if name not in self.models:
                raise ValueError(
                    f"{key} names {name!r}, expected one of models: {', '.join(self.models)}"
                )
        if self.evaluation.baseline not in self.evaluation.policies:
            raise ValueError("evaluation.baseline must be one of evaluation.policies")
        return self


def speakers_of(config: Config, names: list[str]) -> dict[str, ModelConfig]:
    """The models of these names, each once."""
    return {name: config.models[name] for name in dict.fromkeys(names)}


def speaker_settings(model: ModelConfig) -> dict[str, Any]:
    """What of a model's configuration decides what it says, not how fast it says it."""
    decisive = {"backend", "path", "dtype", "max_model_len", "model", "base_url"}
    return model.model_dump(mode="json", include=decisive)
