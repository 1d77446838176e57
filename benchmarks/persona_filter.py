"""Seconds and memory of the persona similarity filter, beside the published loop and one product.

    python benchmarks/persona_filter.py --repeats 3 --json FILE

On texts, with encoding (embedded://minilm on the CPU):
  published  the published loop's way: for each candidate the whole pool is embedded again
  filter     this project's: each candidate is embedded once and compared by blocks
On vectors, without encoding:
  matrix     all candidates against all in one product, then a greedy scan
  filter     this project's, candidates drawn chunk by chunk

Texts are recombined from the shipped seeds: two facts and two traits, drawn without repeat.
Vectors are drawn around the 24 seed profiles: a random seed's embedding plus Gaussian noise that
has the covariance of the seeds' facts embedded one by one, scaled to length 1. So the pool grows
for ever, but ever more slowly, like one that a model fills.

The published loop is timed until --limit-s, and its seconds are fitted as a * texts embedded +
b * candidates. How many texts it would embed for 10^4 candidates is counted, not guessed: the
accept set is known from the filter. A plain quadratic in the candidates is shown beside it. It
takes the pool to grow in proportion and so promises more; no ratio uses it.

Every run has a process of its own. Memory is its peak above what it held before the first
candidate. Accept sets that differ end the benchmark.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from measuring import write_json
from rich.console import Console
from rich.table import Table

from aloe.personas.encode import EMBEDDED, SentenceEncoder
from aloe.personas.filter import SimilarityFilter
from aloe.personas.lexicon import Kind
from aloe.personas.seeds import built_in_seeds

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Result = TypeVar("Result")

THRESHOLD = 0.6
TARGET = 10_000
"""Candidates to which the published loop is extrapolated."""
ROUND = 1024
"""Texts encoded together, vectors drawn together."""
WARM_UP = 64
MIB = 2**20


@dataclass
class Run:
    """One variant at one size."""

    variant: str
    candidates: int
    kept: Mask
    seconds: float
    peak_mib: float
    elapsed: list[float] = field(default_factory=list)
    """Seconds after each candidate, of the published loop."""


@dataclass(frozen=True)
class Cloud:
    """Where vectors are drawn: (seeds, width) centres, (facts, width) noise directions."""

    centres: Floats
    directions: Floats

    def chunks(self, count: int) -> Iterator[Floats]:
        """``count`` unit vectors, `ROUND` at a time, the same ones at every size."""
        draw = np.random.default_rng(0)
        for start in range(0, count, ROUND):
            picks = draw.integers(len(self.centres), size=ROUND)
            noise = draw.standard_normal((ROUND, len(self.directions)), np.float32)
            rows = self.centres[picks] + noise @ self.directions
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            yield rows[: count - start]


class Peak:
    """Peak memory of this process above what it holds now, in MiB."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
        self._before = self._read("VmRSS")

    def mib(self) -> float:
        return (self._read("VmHWM") - self._before) / 1024

    def _read(self, key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def sentences(kind: Kind) -> list[str]:
    return [part for text in built_in_seeds(kind) for part in re.split(r"(?<=[.!?]) ", text)]


def persona_texts(count: int) -> list[str]:
    draw = random.Random(0)
    facts, traits = sentences("profile"), sentences("personality")

    def texts() -> Iterator[str]:
        seen = set()
        while True:
            text = " ".join(draw.sample(facts, 2) + draw.sample(traits, 2))
            if text not in seen:
                seen.add(text)
                yield text

    return list(islice(texts(), count))


def embed_seeds() -> Cloud:
    encoder = SentenceEncoder(EMBEDDED)
    facts = encoder.encode(sentences("profile"))
    directions = (facts - facts.mean(axis=0)) / np.float32(np.sqrt(len(facts)))
    return Cloud(encoder.encode(built_in_seeds("profile")), directions)


def published(count: int | None, limit_s: float) -> Run:
    """Go on for ``count`` candidates, or as many as are done within the limit."""
    encoder, texts = SentenceEncoder(EMBEDDED), persona_texts(count or TARGET)
    encoder.encode(texts[:WARM_UP])
    pool: list[str] = []
    kept, elapsed = [], []
    peak, start = Peak(), time.perf_counter()
    for text in texts:
        vectors = encoder.encode([*pool, text])
        keep = bool(np.all(vectors[:-1] @ vectors[-1] <= THRESHOLD))
        passed = time.perf_counter() - start
        if count is None and passed > limit_s:
            break
        kept.append(keep)
        elapsed.append(passed)
        if keep:
            pool.append(text)
    return Run("published", len(kept), np.array(kept), elapsed[-1], peak.mib(), elapsed)


def filter_texts(count: int) -> Run:
    encoder, texts = SentenceEncoder(EMBEDDED), persona_texts(count)
    encoder.encode(texts[:WARM_UP])
    similarity_filter = SimilarityFilter(THRESHOLD, encoder.width)
    peak, start = Peak(), time.perf_counter()
    kept = [
        similarity_filter.accept(encoder.encode(texts[place : place + ROUND]))[0]
        for place in range(0, count, ROUND)
    ]
    seconds = time.perf_counter() - start
    return Run("filter, texts", count, np.concatenate(kept), seconds, peak.mib())


def matrix(cloud: Cloud, count: int) -> Run:
    peak = Peak()
    candidates = np.concatenate(list(cloud.chunks(count)))
    start = time.perf_counter()
    similarities = candidates @ candidates.T
    kept, refused = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    for place in range(count):
        if not refused[place]:
            kept[place] = True
            refused |= similarities[place] > np.float32(THRESHOLD)
    return Run("matrix", count, kept, time.perf_counter() - start, peak.mib())


def filter_vectors(cloud: Cloud, count: int) -> Run:
    similarity_filter = SimilarityFilter(THRESHOLD, cloud.centres.shape[1])
    kept, seconds, peak = [], 0.0, Peak()
    for chunk in cloud.chunks(count):
        start = time.perf_counter()
        kept.append(similarity_filter.accept(chunk)[0])
        seconds += time.perf_counter() - start
    return Run("filter, vectors", count, np.concatenate(kept), seconds, peak.mib())


def apart(work: Callable[..., Result], *arguments: Any) -> Result:
    """Run in a fresh process, so that no variant inherits another's memory or threads."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def measure(arguments: argparse.Namespace, console: Console) -> list[Run]:
    cloud = apart(embed_seeds)
    done: list[Run] = []

    def add(work: Callable[..., Run], *rest: Any) -> Run:
        run = apart(work, *rest)
        console.print(f"{run.variant}, {run.candidates:,} candidates: {run.seconds:.2f} s")
        done.append(run)
        return run

    finished = add(published, None, arguments.limit_s).candidates
    jobs: list[tuple[Any, ...]] = [
        *((matrix, cloud, size) for size in arguments.matrix_sizes),
        *((filter_vectors, cloud, size) for size in arguments.sizes),
        (filter_texts, finished),
        (filter_texts, TARGET),
        (published, finished, arguments.limit_s),
    ]
    for job in jobs[:-1]:
        add(*job)
    for repeat in range(1, arguments.repeats):
        turn = repeat * len(jobs) // arguments.repeats
        for job in jobs[turn:] + jobs[:turn]:
            add(*job)
    return done


def check_accept_sets(runs: list[Run]) -> None:
    """Each run must keep the same first candidates as the longest one on its kind of input."""
    for on_texts in (True, False):
        group = [run for run in runs if (run.variant in ("published", "filter, texts")) == on_texts]
        longest = max(group, key=lambda run: run.candidates)
        for run in group:
            if not np.array_equal(run.kept, longest.kept[: run.candidates]):
                raise SystemExit(f"{run.variant}, {run.candidates}: another accept set")


def embedded_texts(kept: Mask) -> npt.NDArray[np.int64]:
    """Texts that the published loop has embedded after each candidate: pool and candidate."""
    members = np.cumsum(kept, dtype=np.int64) - kept
    return np.cumsum(members + 1)


def fit(columns: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Least squares without a constant: no candidate takes no time."""
    coefficients = np.linalg.lstsq(columns, seconds)[0]
    rest = seconds - columns @ coefficients
    r2 = 1 - (rest**2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    return {"coefficients": coefficients.tolist(), "r2": float(r2)}


def extrapolate(runs: list[Run]) -> dict[str, Any]:
    """Seconds of the published loop at `TARGET` candidates, from its runs and the accept set."""
    loops = [run for run in runs if run.variant == "published"]
    finished, kept = loops[0].candidates, loops[0].kept
    places = np.unique(np.geomspace(min(10, finished), finished, 12).astype(int))
    seconds = np.median([run.elapsed for run in loops], axis=0)[places - 1]
    texts = embedded_texts(kept)[places - 1]
    by_work = fit(np.stack([texts, places], axis=1).astype(np.float64), seconds)
    by_size = fit(np.stack([places**2, places], axis=1).astype(np.float64), seconds)
    target = next(
        run.kept for run in runs if run.variant == "filter, texts" and len(run.kept) == TARGET
    )
    work = np.array([embedded_texts(target)[-1], TARGET])
    by_work["seconds"] = float(work @ by_work["coefficients"])
    by_size["seconds"] = float(np.array([TARGET**2, TARGET]) @ by_size["coefficients"])
    return {
        "points": [
            {"candidates": int(n), "texts": int(t), "seconds": float(s)}
            for n, t, s in zip(places, texts, seconds, strict=True)
        ],
        "texts": int(work[0]),
        "mean_pool": float(work[0] / TARGET - 1),
        "by_texts_embedded": by_work,
        "by_candidates": by_size,
    }


def summarise(runs: list[Run]) -> list[dict[str, Any]]:
    """Medians of each variant at each size."""
    rows = []
    for variant, size in dict.fromkeys((run.variant, run.candidates) for run in runs):
        same = [run for run in runs if (run.variant, run.candidates) == (variant, size)]
        rows.append(
            {
                "variant": variant,
                "candidates": size,
                "pool": int(same[0].kept.sum()),
                "seconds": statistics.median(run.seconds for run in same),
                "peak_mib": statistics.median(run.peak_mib for run in same),
            }
        )
    return sorted(rows, key=lambda row: (row["variant"], row["candidates"]))


def print_fit(line: dict[str, Any], console: Console) -> None:
    points = Table("candidates", "texts embedded", "seconds", title="published, points of the fit")
    for point in line["points"]:
        points.add_row(f"{point['candidates']:,}", f"{point['texts']:,}", f"{point['seconds']:.2f}")
    console.print(points)
    for name, terms in (
        ("by_texts_embedded", ("texts", "candidates")),
        ("by_candidates", ("candidates^2", "candidates")),
    ):
        first, second = line[name]["coefficients"]
        console.print(
            f"seconds = {first:.3g} {terms[0]} + {second:.3g} {terms[1]}, "
            f"R2 {line[name]['r2']:.5f}; at {TARGET:,} candidates: {line[name]['seconds']:,.0f} s"
        )
    console.print(f"texts embedded for {TARGET:,} candidates, counted: {line['texts']:,}")


def sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit-s", type=float, default=120, help="time of the published loop")
    parser.add_argument("--sizes", type=sizes, default=[10_000, 30_000, 100_000, 1_000_000])
    parser.add_argument("--matrix-sizes", type=sizes, default=[10_000, 30_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    if missing := set(arguments.matrix_sizes) - set(arguments.sizes):
        parser.error(f"--matrix-sizes {sorted(missing)}: not among --sizes, nothing to compare")

    console = Console()
    runs = measure(arguments, console)
    check_accept_sets(runs)
    line, rows = extrapolate(runs), summarise(runs)
    seconds = {(row["variant"], row["candidates"]): row["seconds"] for row in rows}
    finished, largest = runs[0].candidates, max(arguments.matrix_sizes)
    ours = seconds["filter, texts", TARGET]
    ratios = {
        "published": line["by_texts_embedded"]["seconds"] / ours,
        "published_side_by_side": seconds["published", finished]
        / seconds["filter, texts", finished],
        "matrix": seconds["matrix", largest] / seconds["filter, vectors", largest],
    }

    table = Table("variant", "candidates", "pool", "seconds", "peak MiB")
    for row in rows:
        counts = (f"{row['candidates']:,}", f"{row['pool']:,}")
        measured = (f"{row['seconds']:.2f}", f"{row['peak_mib']:.0f}")
        table.add_row(row["variant"], *counts, *measured)
    console.print(table)
    print_fit(line, console)
    console.print(", ".join(f"{name} / filter {ratio:.1f}" for name, ratio in ratios.items()))
    every = [asdict(run) | {"kept": int(run.kept.sum()), "elapsed": []} for run in runs]
    write_json(arguments, ratios, {"medians": rows, "fit": line, "every": every})


if __name__ == "__main__":
    main()
