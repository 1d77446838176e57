"""The command line: parse, call a stage, turn errors into one line and an exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated

import typer

from aloe.config import Config
from aloe.config_file import dump_config, load_config
from aloe.errors import KNOWN, TRY_AGAIN, UserError, exit_code
from aloe.interrupt import Terminated, interruptible
from aloe.machine import machine_has_gpu, prefer_own_programs
from aloe.progress import console, say, silently, use_json

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Interact to align: personas, dialogue trees, preference data, training, benchmark.",
)
personas_app = typer.Typer(no_args_is_help=True, help="Persona pools.")
dialogue_app = typer.Typer(no_args_is_help=True, help="Dialogue trees.")
preferences_app = typer.Typer(no_args_is_help=True, help="Training rows.")
train_app = typer.Typer(no_args_is_help=True, help="Training.")
placement_app = typer.Typer(no_args_is_help=True, help="Which model lies on which devices.")
app.add_typer(personas_app, name="personas")
app.add_typer(dialogue_app, name="dialogue")
app.add_typer(preferences_app, name="preferences")
app.add_typer(train_app, name="train")
app.add_typer(placement_app, name="placement")

ConfigPath = Annotated[
    str,
    typer.Argument(help="YAML file; keys can be overridden: --dialogue.turns 4", metavar="CONFIG"),
]
Retry = Annotated[
    bool,
    typer.Option("--retry-failed", help="Try what has failed again; otherwise it stays failed."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]


Trees = Annotated[
    int, typer.Option(min=1, max=16, help="Trees (cases, requests) to hold for an estimate.")
]


@app.command(context_settings=_PASS_ON)
def run(
    context: typer.Context,
    config: ConfigPath,
    estimated: Annotated[
        bool, typer.Option("--estimate", help="Only tell what it will take; see aloe estimate.")
    ] = False,
    trees: Trees = 3,
    retry: Retry = False,
    as_json: Json = False,
) -> None:
    """Run all stages of a configuration; what is finished is not done again."""
    if estimated:
        estimate(context, config, trees, as_json)
        return
    from aloe.pipeline import run_all

    use_json(as_json)
    with _resumable():
        run_all(load_config(config, context.args), retry)


@app.command(context_settings=_PASS_ON)
def estimate(
    context: typer.Context, config: ConfigPath, trees: Trees = 3, as_json: Json = False
) -> None:
    """Tell what is left of a run in calls, tokens, dollars and hours, from a few probe trees."""
    from aloe import estimate as estimating

    with _resumable(), silently() if as_json else nullcontext():
        found = estimating.estimate_run(load_config(config, context.args), trees)
    if as_json:
        print(json.dumps(estimating.as_json(found)))
        return
    console.print(estimating.estimate_table(found))
    for line in estimating.notes(found):
        say(line)


def _stage(
    context: typer.Context, config: str, name: str, as_json: bool, retry: bool = False
) -> None:
    from aloe.pipeline import run_one

    use_json(as_json)
    with _resumable():
        run_one(load_config(config, context.args), name, retry)


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        with interruptible():
            yield
    except Terminated:
        say("aloe: terminated; the same command goes on from here")
        raise typer.Exit(TRY_AGAIN) from None
    except KeyboardInterrupt:
        say("aloe: interrupted; the same command goes on from here")
        raise typer.Exit(130) from None


@personas_app.command("expand", context_settings=_PASS_ON)
def personas_expand(context: typer.Context, config: ConfigPath, as_json: Json = False) -> None:
    """Grow both persona pools, filter them and pair them."""
    _stage(context, config, "personas", as_json)


Names = Annotated[str, typer.Option(help="Columns, comma-separated, joined into one text.")]


@personas_app.command("import")
def personas_import(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Pool files (one JSON string per line); with --columns JSON, JSONL, CSV, TSV, "
            "Parquet or a Hugging Face folder."
        ),
    ],
    kind: Annotated[str, typer.Option(help="profile, personality, pools (both) or persona")],
    out: Annotated[
        str,
        typer.Option(
            help="File for personas.profiles.files, personas.personalities.files or personas.given "
            "in a config; of both pools a folder."
        ),
    ],
    columns: Names = "",
    personality: Names = "",
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column whose value is kept as the id.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check persona files, report what they hold and write clean ones."""
    from aloe.personas import Columns, import_personas, import_pool, import_pools

    use_json(as_json)
    told, traits = _names(columns), _names(personality)
    if traits and kind not in ("pools", "persona"):
        raise UserError(f"--personality: expected --kind pools or persona, got {kind}")
    match kind:
        case "profile" | "personality":
            import_pool(files, kind, out, told, id_column)
        case "pools" if told and traits:
            import_pools(files, out, Columns(told, traits, id_column))
        case "pools":
            raise UserError("--kind pools: expected --columns (profile) and --personality")
        case "persona" if told:
            import_personas(files, out, Columns(told, traits, id_column))
        case "persona":
            raise UserError("--kind persona: expected --columns")
        case _:
            raise UserError(f"--kind {kind}: expected profile, personality, pools or persona")


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


@dialogue_app.command("rollout", context_settings=_PASS_ON)
def dialogue_rollout(
    context: typer.Context, config: ConfigPath, retry: Retry = False, as_json: Json = False
) -> None:
    """Roll out one dialogue tree per persona."""
    _stage(context, config, "dialogue", as_json, retry)


@preferences_app.command("build", context_settings=_PASS_ON)
def preferences_build(context: typer.Context, config: ConfigPath, as_json: Json = False) -> None:
    """Build SFT rows, DPO pairs and RL prompts from the trees."""
    _stage(context, config, "preferences", as_json)


@train_app.command("sft", context_settings=_PASS_ON)
def train_sft(context: typer.Context, config: ConfigPath, as_json: Json = False) -> None:
    """Fine-tune on the preferred replies."""
    _stage(context, config, "training/sft", as_json)


@train_app.command("rounds", context_settings=_PASS_ON)
def train_rounds(context: typer.Context, config: ConfigPath, as_json: Json = False) -> None:
    """Let a policy train itself on its own best replies, round by round (training.rounds)."""
    _stage(context, config, "training/rounds", as_json)


@train_app.command("reward", context_settings=_PASS_ON)
def train_reward(context: typer.Context, config: ConfigPath, as_json: Json = False) -> None:
    """Train a reward model on preference pairs."""
    _stage(context, config, "training/reward", as_json)


@train_app.command("ppo", context_settings=_PASS_ON)
def train_ppo(context: typer.Context, config: ConfigPath, as_json: Json = False) -> None:
    """Let a policy talk with simulated users and learn from their liking (training.ppo)."""
    _stage(context, config, "training/ppo", as_json)


@train_app.command("dpo", context_settings=_PASS_ON)
def train_dpo(context: typer.Context, config: ConfigPath, as_json: Json = False) -> None:
    """Train on preference pairs."""
    _stage(context, config, "training/dpo", as_json)


@placement_app.command("show", context_settings=_PASS_ON)
def placement_show(context: typer.Context, config: ConfigPath, as_json: Json = False) -> None:
    """Print which devices each training's models get; asks no cluster."""
    from aloe.placement import groups_of, kinds_of, phases_of, show

    use_json(as_json)
    found = load_config(config, context.args)
    for kind in kinds_of(found):
        phases = [groups_of(found.placements, phase) for phase in phases_of(found, kind)]
        show(f"training.{kind}", phases, None)


@placement_app.command("plan", context_settings=_PASS_ON)
def placement_plan(
    context: typer.Context,
    config: ConfigPath,
    gpus: Annotated[int, typer.Option(min=1, help="Devices in all.")],
    gpu_memory: Annotated[float, typer.Option(min=1, help="GiB of each device.")],
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Devices of a machine.")] = 8,
    ppo: Annotated[
        bool, typer.Option("--ppo", help="Plan for the five roles of PPO at once as well.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Estimate memory per device and propose a placements section."""
    from aloe.placement import GIB, Devices, advise

    use_json(as_json)
    devices = Devices(gpus, min(gpus, gpus_per_node), gpu_memory * GIB)
    advise(load_config(config, context.args), devices, ppo)


@app.command(context_settings=_PASS_ON)
def evaluate(
    context: typer.Context, config: ConfigPath, retry: Retry = False, as_json: Json = False
) -> None:
    """Measure how well checkpoints align with held-out personas, turn by turn."""
    _stage(context, config, "evaluation", as_json, retry)


@app.command(context_settings=_PASS_ON)
def judge(
    context: typer.Context,
    config: ConfigPath,
    conversations: Annotated[
        str,
        typer.Argument(
            help="File or folder of conversations (ShareGPT, messages), each with its persona.",
            metavar="CONVERSATIONS",
        ),
    ],
    turns: Annotated[
        int | None, typer.Option(min=1, help="Replies of each conversation that count.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score the replies of given conversations by how well they suit their user, turn by turn."""
    from aloe.pipeline import judge_file

    use_json(as_json)
    with _resumable():
        judge_file(load_config(config, context.args), conversations, turns)


RunFolder = Annotated[str, typer.Argument(help="Folder of a run, local or URL.", metavar="RUN")]


def _config_of(run_folder: str) -> Config:
    return load_config(f"{run_folder.rstrip('/')}/config.yaml", ["--run.dir", run_folder])


@app.command()
def report(run_folder: RunFolder, as_json: Json = False) -> None:
    """Write RUN/report/index.html from what the run holds so far."""
    from aloe.report import write_report
    from aloe.storage import run_store

    use_json(as_json)
    config = _config_of(run_folder)
    store = run_store(config)
    write_report(config, store)
    say(f"report: {store.url('report', 'index.html')}")


@app.command()
def export(
    run_folder: RunFolder,
    kind: Annotated[str, typer.Option("--format", help="aloe, openrlhf, trl or hf")],
    out: Annotated[
        str | None, typer.Option(help="Target folder; RUN/export/FORMAT if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's preference data in another tool's format."""
    from aloe.preferences import FORMATS, export_run
    from aloe.storage import Store, run_store

    use_json(as_json)
    if kind not in FORMATS:
        raise UserError(f"--format {kind}: expected one of {', '.join(FORMATS)}")
    store = run_store(_config_of(run_folder))
    target = Store(out or store.url("export", kind), store.options)
    for name in export_run(store, kind, target):
        say(target.url(name))


@app.command("config", context_settings=_PASS_ON)
def show_config(context: typer.Context, config: ConfigPath) -> None:
    """Print the resolved configuration as YAML."""
    print(dump_config(load_config(config, context.args)), end="")


@app.command(context_settings=_PASS_ON)
def doctor(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Argument(help="YAML file whose models are asked what they can do.", metavar="CONFIG"),
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to look for.")] = None,
    compiles: Annotated[
        bool, typer.Option("--build", help="Compile DeepSpeed's operators for this CPU instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell what is installed and what this machine has, and what CONFIG's models can do."""
    from aloe.doctor import build, examine

    use_json(as_json)
    if config is None and context.args:
        raise UserError(f"{context.args[0]}: unknown option, expected CONFIG before overrides")
    if compiles:
        build()
        return
    findings = examine(address)
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings]))
    else:
        for finding in findings:
            remedy = f" -> {finding.remedy}" if finding.remedy else ""
            console.print(f"{'ok ' if finding.ok else 'NO '} {finding.what}{remedy}", markup=False)
    if config is not None:
        from aloe.checks import check_servers

        check_servers(load_config(config, context.args))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the ``aloe`` command.

    Exit codes: 0 done, 1 failed, 2 bad input, 75 stopped in order (the same command goes on).
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    prefer_own_programs()
    if not machine_has_gpu():
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # else DeepSpeed says on stdout that it guessed
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app(arguments)
    except Exception as error:
        known = _known_cause(error)
        if known is None:
            raise  # a bug: its traceback is wanted
        code = exit_code(known)
        line = str(known).partition("\n")[0]  # Ray appends what it did about it
        more = "; the same command goes on from here" if code == TRY_AGAIN else ""
        console.print(f"aloe: {line}{more}", markup=False, soft_wrap=True)
        sys.exit(code)


def job(*command: str) -> None:
    """Body of the scripts in jobs/: ``--config FILE``, then overrides as for the command line."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file; other --key VALUE override it")
    known, overrides = parser.parse_known_args()
    main([*command, known.config, *overrides])


def _known_cause(error: BaseException | None) -> Exception | None:
    """The error of ours in a chain of causes; Ray wraps what its workers raise."""
    while error is not None:
        # Ray's wrapper is of the class of its cause too, but its text is a traceback.
        wrapped = getattr(error, "cause", None)
        if wrapped is None and isinstance(error, KNOWN):
            return error
        error = wrapped or error.__cause__
    return None
