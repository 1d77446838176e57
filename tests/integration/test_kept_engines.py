"""Engines that stay from stage to stage: one engine for several, and none when all is over."""

import pytest
import ray
from scripted_runs import persona_rows, scripted_values

from aloe.config import ActorPool, Config, StorageConfig, VllmModel
from aloe.dialogue import rollout_dialogues
from aloe.engines.kept import kept, kept_engines
from aloe.engines.pool import NAMESPACE, open_pools, pooled_models
from aloe.evaluation import evaluate_policies
from aloe.schema import NODES, PERSONAS
from aloe.storage import Manifest, Store

pytestmark = pytest.mark.usefixtures("local_ray")

TINY = {"backend": "vllm", "path": "embedded://tiny", "max_model_len": 1024, "max_num_seqs": 8}
MODEL = VllmModel.model_validate(TINY)
OTHER = MODEL.model_copy(update={"max_model_len": 512})


def engines() -> dict[str, str]:
    """Name and actor id of every engine in the cluster."""
    named = ray.util.list_named_actors(all_namespaces=True)
    names = [entry["name"] for entry in named if entry["namespace"] == NAMESPACE]
    return {name: ray.get_actor(name, namespace=NAMESPACE)._actor_id.hex() for name in names}


@pytest.fixture
def run(tmp_path) -> tuple[Config, Store]:
    """A run whose user and policy are one small model; personas are there."""
    values = scripted_values(tmp_path)
    values["models"]["tiny"] = TINY
    values["roles"] |= {"user": "tiny", "unguided": "tiny"}
    values["dialogue"] |= {"turns": 2, "tries": 8, "sampling": {"max_tokens": 16}}
    values["evaluation"] |= {
        "policies": {"base": "model:tiny"},
        "turns": 2,
        "tries": 8,
        "sampling": {"max_tokens": 16},
    }
    config = Config.model_validate(values)
    store = Store(config.run.dir)
    rows = persona_rows(["train"] * 3 + ["benchmark"] * 2)
    store.write_table("personas/personas.parquet", rows, PERSONAS)
    Manifest("personas", {}, "fixed", complete=True).save(store)
    return config, store


def test_one_engine_serves_the_stages_that_need_its_model(run):
    config, store = run
    uses = {"dialogue": [MODEL], "preferences": [], "evaluation": [MODEL], "report": []}
    with kept_engines(uses) as keeping:
        keeping.begin("dialogue")
        rollout_dialogues(config, store)
        started = engines()
        assert len(started) == 1
        keeping.begin("preferences")
        assert engines() == started
        keeping.begin("evaluation")
        evaluate_policies(config, store)
        assert engines() == started
        keeping.begin("report")
        assert not engines()
    assert kept() is None
    rows = store.read_table("dialogue/nodes", NODES).to_pylist()
    assert len(rows) == 3 * 2 * 3


def test_what_it_makes_is_what_an_engine_in_the_actors_makes(run, tmp_path):
    config, store = run
    with kept_engines({"dialogue": [MODEL], "evaluation": [MODEL]}) as keeping:
        keeping.begin("dialogue")
        rollout_dialogues(config, store)
    assert not engines()  # the run is over
    alone = Store(str(tmp_path / "alone"))
    alone.write_table(
        "personas/personas.parquet",
        store.read_table("personas/personas.parquet", PERSONAS).to_pylist(),
        PERSONAS,
    )
    Manifest("personas", {}, "fixed", complete=True).save(alone)
    rollout_dialogues(config, alone)

    def said(of: Store) -> list[tuple[str, str]]:
        return [
            (row["node_id"], row["text"])
            for row in of.read_table("dialogue/nodes", NODES).to_pylist()
        ]

    assert said(store) == said(alone)


def test_engines_make_room_for_who_needs_it():
    uses = {"personas": [MODEL], "dialogue": [OTHER], "evaluation": [MODEL, OTHER]}
    with kept_engines(uses) as keeping:
        keeping.begin("personas")
        pooled = pooled_models({"a": MODEL}, ActorPool())
        assert pooled["a"].pool.replicas == 1
        with open_pools(pooled, StorageConfig()):
            pass
        assert keeping.models() == [MODEL] and keeping.idle([OTHER]) == (1.0, 1.0)
        assert keeping.idle([MODEL]) == (0, 0)
        keeping.begin("dialogue")
        assert len(engines()) == 1  # evaluation needs it again
        keeping.make_room([MODEL], "its own")
        assert len(engines()) == 1
        keeping.make_room([OTHER], "for the other")
        assert not engines() and not keeping.models()


@pytest.mark.parametrize(
    "actors",
    [ActorPool(min=1, max=2), ActorPool(num_cpus=3)],
    ids=["a number that changes", "no CPUs for both"],
)
def test_an_engine_stays_in_its_actors_where_a_pool_would_not_do(actors):
    with kept_engines({"personas": [MODEL], "dialogue": [MODEL]}) as keeping:
        keeping.begin("personas")
        assert pooled_models({"a": MODEL}, actors) == {}


def test_only_what_is_needed_again_is_kept():
    with kept_engines({"personas": [MODEL], "dialogue": [OTHER]}) as keeping:
        keeping.begin("personas")
        assert pooled_models({"a": MODEL}, ActorPool()) == {}
        own = MODEL.model_copy(update={"pool": {"replicas": 1}})
        with open_pools(
            pooled_models({"a": VllmModel.model_validate(own.model_dump())}, ActorPool()),
            StorageConfig(),
        ):
            assert len(engines()) == 1
        assert not engines()
