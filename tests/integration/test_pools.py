"""Several vLLM models: pools of named Ray actors on logical GPUs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import ray
from processes import children_titled
from scripted_runs import persona_rows, scripted_values

from aloe.config import ActorPool, Config, StorageConfig, VllmModel
from aloe.dialogue import rollout_dialogues
from aloe.engines import Request
from aloe.engines.lease import LEASE_S
from aloe.engines.pool import NAMESPACE, PooledEngine, open_pools, pooled_models
from aloe.errors import CallFailed
from aloe.roles import asking
from aloe.runtime import connect
from aloe.schema import NODES, PERSONAS
from aloe.storage import Manifest, Store

pytestmark = pytest.mark.usefixtures("local_ray")

TINY = {"backend": "vllm", "path": "embedded://tiny", "max_model_len": 1024, "max_num_seqs": 8}
SMOL = {**TINY, "path": "embedded://smollm2-135m"}


def pools_of_the_cluster() -> list[str]:
    every = ray.util.list_named_actors(all_namespaces=True)
    return [entry["name"] for entry in every if entry["namespace"] == NAMESPACE]


def configuration(folder, **models) -> Config:
    values = scripted_values(folder)
    values["models"] |= models
    return Config.model_validate(values)


def test_who_gets_engines_of_its_own(tmp_path):
    models = configuration(tmp_path, a=TINY, b=TINY, c=SMOL, d=TINY | {"pool": {"replicas": 2}})
    script, a, b, c, d = models.models.values()
    actors = ActorPool()
    assert not pooled_models({"script": script, "a": a, "b": b}, actors)  # one model, two names
    assert set(pooled_models({"a": a, "c": c}, actors)) == {"a", "c"}
    assert set(pooled_models({"script": script, "d": d}, actors)) == {"d"}
    assert pooled_models({"d": d}, actors)["d"].pool.replicas == 2


def test_two_models_roll_out_trees_in_pools_of_their_own(tmp_path):
    config = configuration(tmp_path, smol=SMOL, tiny=TINY)
    roles = {"user": "smol", "inducer": "script", "judge": "smol"}
    config = config.model_copy(
        update={
            "roles": config.roles.model_copy(update=roles | {"guided": "tiny", "unguided": "tiny"}),
            "dialogue": config.dialogue.model_copy(
                update={
                    "turns": 2,
                    "tries": 8,
                    "sampling": config.dialogue.sampling.model_copy(update={"max_tokens": 24}),
                }
            ),
        }
    )
    store = Store(config.run.dir)
    store.write_table("personas/personas.parquet", persona_rows(["train"] * 4), PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)
    manifest = rollout_dialogues(config, store)
    assert manifest.counts["trees"] == 4
    calls = [
        call
        for row in store.read_table("dialogue/nodes", NODES).to_pylist()
        for call in row["calls"]
    ]
    spoke = {(call["role"], call["model"]) for call in calls}
    assert spoke == {
        ("user", "smol"),
        ("judge", "smol"),
        ("inducer", "script"),
        ("guided", "tiny"),
        ("unguided", "tiny"),
    }
    later = [call for call in calls if call["model"] == "smol"]
    assert sum(call["cached_tokens"] for call in later) > 0
    assert not pools_of_the_cluster()


def test_conversations_stay_with_an_engine_and_outlive_it(tmp_path):
    connect(configuration(tmp_path).ray)
    model = VllmModel.model_validate(TINY | {"pool": {"replicas": 2, "num_gpus": 0.5}})
    system = {"role": "system", "content": "A system prompt that fills some blocks. " * 8}

    def request(conversation: int, turn: int) -> Request:
        said = [{"role": "user", "content": f"{conversation} says {turn}"}]
        return Request([system, *said], max_tokens=8, seed=turn, conversation=str(conversation))

    async def talk(engine: PooledEngine, turn: int) -> list[str]:
        answers = await asyncio.gather(*(engine.complete(request(c, turn)) for c in range(6)))
        return [answer.text for answer in answers]

    async def look(replicas) -> None:
        engine = PooledEngine("tiny", replicas)
        first = await talk(engine, 1)
        homes = dict(engine._homes)
        assert sorted(Counter(homes.values()).values()) == [3, 3]  # least loaded first
        await talk(engine, 2)
        assert engine._homes == homes  # and it stays there
        children_titled("ray::EngineReplica")[0].kill()
        assert await talk(engine, 1) == first
        engine.release("0")
        assert "0" not in engine._homes
        assert engine.load().capacity >= 8

    with open_pools({"tiny": model, "also": model}, StorageConfig()) as pools:
        assert pools["tiny"] == pools["also"]  # equal settings, one pool
        assert len(pools_of_the_cluster()) == 2
        with open_pools({"again": model}, StorageConfig()) as joined:
            assert joined["again"] == pools["tiny"]
        asyncio.run(look(pools["tiny"]))
    # The one that is being started again cannot be told; it ends as nobody holds it.
    assert gone_within(LEASE_S + 30)


def test_calls_wait_for_an_only_engine_that_ray_starts_again(tmp_path):
    connect(configuration(tmp_path).ray)
    model = VllmModel.model_validate(TINY | {"pool": {"num_gpus": 0.5}})

    async def look(replicas) -> list[str]:
        engine = PooledEngine("tiny", replicas)
        requests = [
            Request(
                [{"role": "user", "content": f"{n}"}], max_tokens=300, seed=n, conversation=f"{n}"
            )
            for n in range(20)
        ]
        await engine.complete(requests[0])
        calls = [asyncio.create_task(engine.complete(request)) for request in requests]
        await asyncio.sleep(0.2)
        children_titled("ray::EngineReplica")[0].kill()
        return [answer.text for answer in await asyncio.gather(*calls)]

    with open_pools({"tiny": model}, StorageConfig()) as pools:
        assert len(asyncio.run(look(pools["tiny"]))) == 20
    assert gone_within(10)


OTHER_RUN = """
import asyncio, sys
from aloe.config import RayConfig, StorageConfig, VllmModel
from aloe.engines import Request
from aloe.engines.pool import PooledEngine, open_pools
from aloe.errors import CallFailed
from aloe.roles import asking
from aloe.runtime import connect

connect(RayConfig(address=sys.argv[1]))
model = VllmModel.model_validate_json(sys.argv[2])
with open_pools({"mine": model}, StorageConfig()) as pools:
    print("joined", flush=True)
    for line in sys.stdin:
        request = Request([{"role": "user", "content": line}], max_tokens=200)
        asyncio.run(PooledEngine("mine", pools["mine"]).complete(request))
        print("answered", flush=True)
"""
SHARED = VllmModel.model_validate(TINY | {"pool": {"num_gpus": 0.5}})


class OtherRun:
    """Another driver on this cluster, with the same model."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.hears("joined")

    def hears(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def asks(self) -> None:
        assert self.process.stdin is not None
        print("Hello?", file=self.process.stdin, flush=True)


@contextmanager
def other_run() -> Iterator[OtherRun]:
    address = ray.get_runtime_context().gcs_address
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_RUN, address, SHARED.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield OtherRun(process)
        finally:
            process.kill()


def ask(pools) -> str:
    request = Request([{"role": "user", "content": "Hello?"}], max_tokens=8)
    return asyncio.run(PooledEngine("tiny", pools["tiny"]).complete(request)).text


def gone_within(seconds: float) -> bool:
    end = time.monotonic() + seconds
    while pools_of_the_cluster() and time.monotonic() < end:
        time.sleep(0.5)
    return not pools_of_the_cluster()


def test_a_run_that_ends_leaves_a_shared_pool_to_the_other(tmp_path):
    connect(configuration(tmp_path).ray)
    with ExitStack() as mine:
        pools = mine.enter_context(open_pools({"tiny": SHARED}, StorageConfig()))
        ask(pools)
        with other_run() as other:
            assert len(pools_of_the_cluster()) == 1
            other.asks()  # its call is in the engine when who has started that ends
            mine.close()
            other.hears("answered")
            other.asks()
            other.hears("answered")
            assert len(pools_of_the_cluster()) == 1
            other.process.stdin.close()
            assert other.process.wait(timeout=60) == 0
    assert gone_within(10)


def test_who_started_a_shared_pool_may_end_first_or_be_killed(tmp_path):
    connect(configuration(tmp_path).ray)
    with other_run() as killed, open_pools({"tiny": SHARED}, StorageConfig()) as pools:
        expected = ask(pools)
        killed.asks()
        killed.process.kill()
        assert ask(pools) == expected
        assert len(pools_of_the_cluster()) == 1
        with other_run() as second:
            second.asks()
            second.hears("answered")
            assert ask(pools) == expected
            second.process.kill()
    # Whoever was killed could not say so: leases run out.
    assert gone_within(LEASE_S + 20)


def test_a_prompt_that_is_too_long_is_so_for_a_pool_too(tmp_path):
    connect(configuration(tmp_path).ray)
    with open_pools({"tiny": SHARED}, StorageConfig()) as pools:
        engine = PooledEngine("tiny", pools["tiny"])
        request = Request([{"role": "user", "content": "word " * 2000}], max_tokens=8)
        with pytest.raises(CallFailed) as failed:
            asyncio.run(asking.ask(engine, "judge", request, lambda answer: answer.text, 3, 0))
    assert failed.value.kind == "ContextExceeded"
    assert failed.value.call["tries"] == 1
    assert "\n" not in str(failed.value)
