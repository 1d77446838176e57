"""Where a run lies, on which cluster, in which store."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aloe.config.section import Section

Resume = Literal["never", "always", "if-same"]


class RunConfig(Section):
    dir: str
    """Folder that holds everything the run writes; local path or fsspec URL."""
    seed: int = 0
    """The one seed from which every sampler's seed is derived."""
    max_error_rate: float = Field(0.1, ge=0, le=1)
    """Largest share of turns (of trees), or of cases, that may be lost to failed calls in a stage
    that still counts as complete."""
    patience_s: float = Field(600.0, ge=0)
    """Seconds that a stage waits for what may pass by itself (a server that is busy or down, a
    store that does not answer) before it stops in order, with exit code 75."""
    max_tokens: int | None = Field(None, ge=1)
    """Prompt and completion tokens that all stages of the run may spend, over all of its starts.
    When they are spent no new turn begins; those that are open are finished and kept, so that the
    run spends more by at most what they take: a turn of every open branch, of PPO an update, of the
    personas a round of each pool. The stage ends with exit code 75 and goes on with a higher limit.
    """
    max_cost_usd: float | None = Field(None, gt=0)
    """The same in US dollars, by the models' ``price``."""
    resume: Resume = "if-same"
    """Whether a run folder that has been begun may be gone on with: never, always (even though
    settings have changed), or if its settings are the same."""
    keep_engines: bool = True
    """Within `aloe run`, engines that a later stage needs stay, while there is room for them."""


class RayConfig(Section):
    address: str | None = None
    """Cluster to join ("auto", "host:port"); null takes RAY_ADDRESS, else starts Ray here."""
    num_cpus: int | None = Field(None, ge=1)
    """CPUs of a Ray started here; null takes the machine's, but at least four logical ones."""
    autoscaling: bool = False
    """The cluster grows on demand: what does not fit yet waits instead of being refused."""
    logical_gpus: int = Field(4, ge=0)
    """GPUs that a Ray started here pretends to have on a machine without any."""
    fork_server: bool | None = None
    """Without a GPU, workers and engine cores are copies of a process that has imported what they
    need; false: each imports for itself. Null: workers of a Ray that is started here only; true: of
    a cluster too, whose machines must have this interpreter at the same path."""
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
