"""Persona growth on real Ray Data and the real sentence encoder, with the scripted writer."""

import json
import shutil

import numpy as np
import pytest

from aloe.config import Config
from aloe.errors import StageStopped
from aloe.personas import expand_personas
from aloe.personas.encode import EMBEDDED, SentenceEncoder
from aloe.personas.lexicon import KINDS
from aloe.personas.stage import starting_texts
from aloe.schema import PERSONAS, POOL, ROUNDS
from aloe.storage import Store

TABLES = (
    "personas/profiles.parquet",
    "personas/personalities.parquet",
    "personas/personas.parquet",
)


def configuration(folder, in_flight=2, actors=1, latency=0.0, writer=None, **personas):
    model = writer or {"backend": "scripted", "latency_s": latency}
    return Config.model_validate(
        {
            "run": {"dir": str(folder), "seed": 5},
            "models": {"writer": model, "quiet": {"backend": "scripted"}},
            "roles": dict.fromkeys(["user", "inducer", "guided", "unguided", "judge"], "quiet"),
            "personas": {
                "writer": "writer",
                "profiles": {"size": 30},
                "personalities": {"size": 33},
                # The script knows few words: what it writes is alike.
                "threshold": 0.8,
                "asked": 3,
                "requests_per_round": 3,
                "max_rounds": 4,
                "heldout_profiles": 3,
                "heldout_personalities": 2,
                "max_personas": 12,
                "actors": {"min": actors, "max": actors, "num_gpus": 0, "in_flight": in_flight},
            }
            | personas,
            "training": {"base": "embedded://tiny"},
        }
    )


def expand(config):
    store = Store(config.run.dir)
    return expand_personas(config, store), store


def contents(store):
    names = [f"personas/rounds/{name}" for name in store.names("personas/rounds")]
    return {name: store.fs.cat_file(store.path(name)) for name in (*TABLES, *names)}


pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder(EMBEDDED)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return expand(configuration(tmp_path_factory.mktemp("personas") / "run"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seeds_are_a_valid_pool(encoder, kind, tmp_path):
    outcomes = starting_texts(configuration(tmp_path))[kind]
    vectors = encoder.encode([candidate["text"] for candidate in outcomes[0]["candidates"]])
    cosines = vectors @ vectors.T - 2 * np.eye(len(vectors))
    assert cosines.max() <= 0.6


def test_the_encoder_gives_the_same_unit_vectors_again(encoder):
    texts = ["Keeps bees.", "Drives a tram.", ""]
    vectors = encoder.encode(texts)
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, 384))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(vectors, encoder.encode(texts))
    assert encoder.encode([]).shape == (0, 384)


def test_pools_grow_and_stay_different(grown):
    manifest, store = grown
    for name, size in (("profiles", 30), ("personalities", 33)):
        rows = store.read_table(f"personas/{name}.parquet", POOL).to_pylist()
        assert len({row["entry_id"] for row in rows}) == len(rows) <= size
        assert manifest.counts[f"grown_{name}"] == sum(r["source"] == "model" for r in rows) > 0
        vectors = np.array([row["embedding"] for row in rows], np.float32)
        assert (vectors @ vectors.T - 2 * np.eye(len(rows))).max() <= 0.8 + 1e-6


def test_every_candidate_and_call_is_accounted_for(grown):
    manifest, store = grown
    rows = store.read_table("personas/rounds", ROUNDS).to_pylist()
    asked = [row for row in rows if row["round"] >= 0]
    assert manifest.usage.calls == len(asked)
    counts = manifest.counts
    rejected = sum(count for name, count in counts.items() if name.startswith("rejected_"))
    grew = counts["grown_profiles"] + counts["grown_personalities"]
    assert counts["candidates"] == rejected + grew == 3 * len(asked)


def test_heldout_members_are_marked_and_only_in_the_benchmark(grown):
    _, store = grown
    personas = store.read_table("personas/personas.parquet", PERSONAS).to_pylist()
    marked = {
        row["entry_id"]
        for table in TABLES[:2]
        for row in store.read_table(table, POOL).to_pylist()
        if row["heldout"]
    }
    assert len(marked) == 5
    for persona in personas:
        parts = {persona["profile_id"], persona["personality_id"]}
        assert parts <= marked if persona["split"] == "benchmark" else not parts & marked


def test_who_is_faster_decides_nothing(grown, tmp_path):
    _, store = grown
    _, other = expand(configuration(tmp_path / "run", in_flight=7, actors=2, latency=0.01))
    first, second = contents(store), contents(other)
    assert first.keys() == second.keys()
    for table in TABLES:
        assert first[table] == second[table]


def test_an_interrupted_growth_goes_on_to_the_same_bytes(grown, tmp_path):
    _, store = grown
    config = configuration(tmp_path / "run")
    names = store.names("personas/rounds")
    decided = [name for name in names if name.endswith(("--00001.parquet", "-000000.parquet"))]
    assert len(decided) == 4 < len(names)
    folder = tmp_path / "run" / "personas" / "rounds"
    folder.mkdir(parents=True)
    for name in decided:
        shutil.copy(store.path("personas/rounds", name), folder / name)
    manifest, resumed = expand(config)
    assert contents(resumed) == contents(store)
    assert manifest.complete


def test_a_complete_stage_is_left_alone(grown):
    manifest, store = grown
    again = expand_personas(configuration(store.root), store)
    assert again == manifest


def test_growth_stops_when_few_new_ones_come(tmp_path):
    manifest, store = expand(
        configuration(tmp_path / "run", threshold=0.6, saturation_rounds=2, saturation_rate=0.9)
    )
    assert manifest.results["stopped"] == {"profile": "saturation", "personality": "saturation"}
    rounds = store.read_table("personas/rounds", ROUNDS).to_pylist()
    assert max(row["round"] for row in rounds) == 1


def test_no_model_is_started_when_files_fill_the_pools(tmp_path):
    too_long = {"path": "embedded://tiny", "max_model_len": 1 << 20}
    extra = tmp_path / "extra.jsonl"
    extra.write_text(json.dumps("Paints boats in a fjord. " * 2) + "\n")
    manifest, store = expand(
        configuration(
            tmp_path / "run",
            writer={"backend": "vllm", "pool": {}, **too_long},
            profiles={"size": 25, "files": [str(extra)]},
            personalities={"size": 20},
        )
    )
    assert (manifest.usage.calls, manifest.counts["candidates"]) == (0, 0)
    sources = store.read_table(TABLES[0], POOL, ["source"])["source"].to_pylist()
    assert sources == ["seed"] * 24 + ["file"]


def test_a_writer_that_cannot_be_reached_is_no_requests_fault(tmp_path):
    config = configuration(
        tmp_path / "run",
        writer={
            "backend": "openai",
            "model": "none",
            "base_url": "http://127.0.0.1:9/v1",
            "deadline_s": 1,
        },
        tries=1,
        requests_per_round=1,
        max_rounds=1,
    )
    run = config.run.model_copy(update={"patience_s": 1})
    config = config.model_copy(update={"run": run})
    for _ in range(2):
        with pytest.raises(StageStopped, match="personas: writer"):
            expand(config)
    assert not Store(config.run.dir).exists("personas/errors")
