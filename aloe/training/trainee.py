"""One rank of a training: the way from rows to a checkpoint, the same for every kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from aloe.training.worker import Worker  # isort: skip  (first: it prepares the process)

from aloe.config import PpoConfig
from aloe.machine import has_gpu
from aloe.training.best import improves
from aloe.training.checkpoint import new_checkpoint
from aloe.training.data import Encoded, Row, Rows, sample
from aloe.training.datasets import PairRows, SftRows
from aloe.training.hooks import AfterStep
from aloe.training.options import check_batches, optimizer_settings
from aloe.training.protocol import (
    Begin,
    Job,
    Measured,
    Note,
    Outcome,
    Resumed,
    RowOptions,
    Saved,
    Saving,
)
from aloe.training.state import Position, find_position, load_state, save_state
from aloe.training.step_log import StepLog
from aloe.training.tree_sampler import TreeSampler

Splits = Mapping[str, Sequence[Row]]
"""Rows that are looked at before and after: a sample of the training rows, all held-out ones."""
Numbers = dict[str, dict[str, float]]
"""Split -> name -> value."""


class Trainee(Worker):
    """What SFT, reward model and DPO share; their workers say what is different."""

    @property
    def options(self) -> RowOptions:
        """What is trained how."""
        assert not isinstance(self.job.options, PpoConfig)
        return self.job.options

    @abstractmethod
    def read_rows(self) -> Rows:
        """The training rows, tokenised."""

    @abstractmethod
    def dataset(self, rows: list[Row]) -> SftRows | PairRows:
        """Rows as OpenRLHF's trainer reads them."""

    @abstractmethod
    def load_model(self, ds_config: dict[str, Any]) -> Any:
        """The model that is trained, before DeepSpeed has it."""

    @abstractmethod
    def trainer(self, after_step: AfterStep, arguments: dict[str, Any]) -> Any:
        """OpenRLHF's trainer with `aloe.training.hooks.Hooked`."""

    @abstractmethod
    def measure(self, step: int, splits: Splits, tell: bool) -> Numbers:
        """What the model is worth on these rows after ``step`` optimizer steps."""

    @abstractmethod
    def results(self, before: Numbers, after: Numbers, held_out: int) -> dict[str, Any]:
        """What the stage's manifest keeps of two measurements."""

    def begin(self, rows: Rows, samples: int) -> None:
        """Called when the model is there, with the rows that were consumed before a kill."""

    def train(self, job: Job) -> Outcome:
        """Evaluate, train, evaluate, save; go on from the last state if there is one.

        Raises:
            UserError: see `Worker.join`, `aloe.training.data` and `find_position`.
        """
        self.join(job)
        rows = self.read_rows()
        self._lay_out(rows)
        self._load()
        position = self._go_on()
        self.begin(rows, position.samples if position else 0)
        train = rows.splits["train"]
        chosen = sample(len(train), job.seed)
        self.splits = {
            "train": [train[i] for i in chosen],
            "validation": rows.splits["validation"],
        }
        self.turns = {
            "train": [rows.turns["train"][i] for i in chosen],
            "validation": rows.turns["validation"],
        }
        before = _at(0, self.measured) if position else self._look("before")
        self._fit(position.samples if position else 0)
        after = self._look("after")
        held_out = len(rows.splits["validation"])
        results = self.results(before, after, held_out) | self._kept(after["validation"])
        return self._outcome(results, rows)

    def _lay_out(self, rows: Rows) -> None:
        options, strategy = self.options, self.strategy
        train = rows.splits["train"]
        check_batches(f"training.{self.job.kind}", options, len(train), self._world_size)
        # Without trees to keep together, each row is one of its own.
        trees = rows.tree_ids["train"] if self.packs_trees else [str(i) for i in range(len(train))]
        size = options.micro_batch_size
        self.sampler = TreeSampler(
            trees, options.batch_size, size, self._world_size, self._rank, self.job.seed
        )
        dataset = self.dataset(train)
        self.batches = strategy.setup_dataloader(
            dataset,
            size,
            pin_memory=has_gpu(),
            collate_fn=dataset.collate_fn,
            sampler=self.sampler,
        )
        self.steps_per_epoch = len(train) // options.batch_size
        self.steps = self.steps_per_epoch * options.epochs

    def _load(self) -> None:
        options, strategy = self.options, self.strategy
        model = self.load_model(strategy.get_ds_train_config())
        if options.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        self.model, self.optimizer, self.scheduler = strategy.prepare(
            (model, optimizer_settings(options, self.steps))
        )
        inner = getattr(self.model, "model", None)
        self.engine = inner if hasattr(inner, "save_checkpoint") else self.model

    def _go_on(self) -> Position | None:
        """Put everything back to where it was when it was killed."""
        job = self.job
        self.best: dict[str, float] | None = None
        self.measured: list[Measured] = []
        position = find_position(
            job.store, job.folder, self._world_size, f"placements of training.{job.kind}"
        )
        if position is not None:
            load_state(job.store, job.folder, self.engine, position, self._rank)
            self.best, self.measured = position.best, position.measured
            self.tell(Resumed(position.step, position.measured))
        self.log = StepLog(
            self.strategy, self.model, self.engine, self.scheduler, self._tell_and_keep
        )
        if position is not None:
            self.log.total_tokens = position.tokens
            self.log.total_computed = position.computed_tokens
            self.log.losses = list(position.losses)
        return position

    def _tell_and_keep(self, event: Any) -> None:
        if isinstance(event, Measured):
            self.measured.append(event)
        self.tell(event)

    def _look(self, when: str) -> Numbers:
        """Measure all splits at the beginning or at the end."""
        total = sum(len(row) for rows in self.splits.values() for row in rows)
        self.tell(Begin(f"{self.job.kind}: {when} training", total))
        step = 0 if when == "before" else self.steps
        return self._measure(self.splits, step, tell=True)

    def _measure(self, splits: Splits, step: int, tell: bool) -> Numbers:
        self.model.eval()
        found = self.measure(step, splits, tell)
        for split, values in found.items():
            self._tell_and_keep(Measured(split, step, values, whole=True))
        return found

    def _fit(self, samples: int) -> None:
        """Let OpenRLHF's trainer take all optimizer steps that are left."""
        options = self.options
        arguments = {
            "model": self.model,
            "strategy": self.strategy,
            "optim": self.optimizer,
            "scheduler": self.scheduler,
            "tokenizer": self.tokenizer,
            "train_dataloader": self.batches,
            "eval_dataloader": None,
            "max_norm": options.max_norm,
            "max_epochs": options.epochs,
        }
        trainer = self.trainer(self._after_step, arguments)
        done = samples // options.batch_size
        self.tell(Begin(f"{self.job.kind}: training", self.steps, done))
        self.log.start()
        if done < self.steps:
            trainer.fit(
                self.strategy.args,
                consumed_samples=samples,
                num_update_steps_per_epoch=self.steps_per_epoch,
            )

    def _after_step(self, step: int, values: dict[str, float], samples: int) -> None:
        """Tell the step's numbers; evaluate and save if it is time to."""
        options = self.options
        self.log.step(step, values)
        if step == self.steps:
            return  # evaluated and saved after the last step in any case
        if options.eval_steps and step % options.eval_steps == 0:
            held_out = {"validation": self.splits["validation"]}
            found = self._measure(held_out, step, tell=False)
            self._keep_best(step, found["validation"])
            self.model.train()
        if options.checkpoint_steps and step % options.checkpoint_steps == 0:
            self._save_state(step, samples)
        self.log.start()

    def _save_state(self, step: int, samples: int) -> None:
        log = self.log
        position = Position(
            step,
            samples,
            self._world_size,
            log.total_tokens,
            log.total_computed,
            (log.losses[0], log.losses[-1]),
            self.best,
            self.measured,
        )
        save_state(self.job.store, self.job.folder, self.engine, position, self._rank)
        self.tell(Saved(step))

    def _keep_best(self, step: int, found: dict[str, float]) -> None:
        metric = self.options.best_by
        if metric and improves(metric, found, self.best):
            self.best = {**found, "step": step}
            self._save()

    def _kept(self, found: dict[str, float]) -> dict[str, Any]:
        """Save the last checkpoint, if no better one is kept; say which one it is."""
        self.tell(Saving())
        if self.options.best_by is None:
            self._save()
            return {}
        self._keep_best(self.steps, found)
        assert self.best is not None
        return {f"best_{name}": value for name, value in self.best.items()}

    def _save(self) -> None:
        self.save_to(self.model, new_checkpoint(self.job.store, f"{self.job.folder}/checkpoint"))

    def _outcome(self, results: dict[str, Any], rows: Rows) -> Outcome:
        options, log = self.options, self.log
        unused = len(rows.splits["train"]) * options.epochs - self.steps * options.batch_size
        remarks = rows.remarks()
        if unused:
            remarks.append(f"{unused} training rows unused: they do not fill a batch")
        for remark in remarks:
            self.tell(Note(f"{self.job.kind}: {remark}"))
        results |= {"train_loss_first": log.losses[0], "train_loss_last": log.losses[-1]}
        counts = {
            "steps": self.steps,
            "tokens": log.total_tokens,
            "computed_tokens": log.total_computed,
            "rows_unused": unused,
        }
        return Outcome(results, {**rows.counts, **counts})


def replies_of(rows: Sequence[Row]) -> list[Encoded]:
    """All sequences of these rows, in order."""
    return [encoded for row in rows for encoded in row]


def _at(step: int, measured: Sequence[Measured]) -> Numbers:
    return {event.split: event.values for event in measured if event.whole and event.step == step}
