"""The updates of PPO, one after the other: roll out, reward, train, sync, look, keep.

OpenRLHF's `BasePPOTrainer` is the single controller; each update's training is its `train_step`.
Import after `aloe.training.accelerator.prepare`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import ray
import torch
from openrlhf.trainer import ppo_trainer
from openrlhf.trainer.ppo_utils import experience_maker

from aloe.config import Config, PpoConfig
from aloe.engines.account import Account
from aloe.errors import StageFailed
from aloe.schema import ERRORS
from aloe.storage import Store, Usage
from aloe.training.ppo import guards
from aloe.training.ppo.dialogues import write_dialogues
from aloe.training.ppo.experience import EpisodeReader, TurnExperienceMaker
from aloe.training.ppo.numbers import (
    Response,
    of_dialogues,
    of_training,
    of_turns,
    reply_lengths,
)
from aloe.training.ppo.position import Position, read_position
from aloe.training.ppo.rollouts import Rollouts, Row
from aloe.training.ppo.sync_check import compare
from aloe.training.protocol import Advance, Begin, Job, Measured, Outcome, Resumed, Saved
from aloe.training.recorder import Recorder
from aloe.training.state import mark

for module in (ppo_trainer, experience_maker):
    module.logger.setLevel(logging.WARNING)  # they print whole samples


class Controller(ppo_trainer.BasePPOTrainer):  # type: ignore[misc]
    """Owns the loop; everything heavy is in other processes."""

    def __init__(
        self,
        config: Config,
        job: Job,
        team: Mapping[str, Any],
        arguments: SimpleNamespace,
        tokenizer: Any,
        prompts: Mapping[str, Sequence[Row]],
        recorder: Recorder,
        account: Account,
    ) -> None:
        """Nothing is asked of the team yet.

        Args:
            team: groups of actors by role; all are loaded.
            arguments: see `ppo_arguments`.
            prompts: rows of `aloe.schema.PROMPTS` by split.
            account: what user and judge cost is told to it.
        """
        assert isinstance(job.options, PpoConfig)
        self.options: PpoConfig = job.options
        self.store: Store = job.store
        self.job, self.folder = job, job.folder
        self.guards, self.max_error_rate = self.options.guards, config.run.max_error_rate
        self.recorder, self.account = recorder, account
        strategy = SimpleNamespace(args=arguments)
        engines = list(job.engines)
        self.rollouts = Rollouts(self.options, job.seed, prompts, engines)
        actor, reference = team["actor"], team["reference"]
        critic, reward = team.get("critic"), team.get("reward")
        super().__init__(strategy, actor, critic, reward, reference, engines, tokenizer)
        self.experience_maker = TurnExperienceMaker(
            actor, critic, reward, reference, self.kl_ctl, strategy, tokenizer
        )
        self.experience_maker.options = self.options
        self.reader = EpisodeReader(strategy, None, None, tokenizer, engines)
        self.trained = {"actor": actor} | ({"critic": critic} if critic else {})
        ranks = {role: len(group._actor_handlers) for role, group in self.trained.items()}
        self.position = Position(0, ranks, self.kl_ctl.value)
        self.open: list[Any] = []
        """References to the episodes of the next update, if they are rolled out ahead."""

    def run(self) -> Outcome:
        """All updates that are left.

        Raises:
            UserError: a state is there that other numbers of ranks wrote.
            StageFailed: a guard, a sync or too many failed episodes stop it.
            StageStopped: a limit of the run is reached; a state is kept.
        """
        position = self._go_on()
        if position.step == 0:
            self._look()
        self.recorder.take(Begin("ppo: updates", self.options.updates, position.step))
        while position.step < self.options.updates:
            self._update()
            self.recorder.take(Advance(1))
            last = position.step == self.options.updates
            if last or _due(position.step, self.options.eval_steps):
                self._look()
            stopped = not last and not self.account.open
            if stopped or (not last and _due(position.step, self.options.checkpoint_steps)):
                self._keep()
            if stopped:
                raise self.account.stopped()
        ray.get(self.actor_model_group.async_run_method("save"))
        return self._outcome()

    def _update(self) -> None:
        step, began = self.position.step, time.monotonic()
        busy = self._busy()
        responses = ray.get(self.open or self.rollouts.ask(self.rollouts.of_update(step)))
        self.open = []
        seconds = {"rollout": time.monotonic() - began}
        responses = [response for answer in responses for response in answer]
        self._count(responses, step + 1)
        if self.options.ahead and step + 1 < self.options.updates and self.account.open:
            self.open = self.rollouts.ask(self.rollouts.of_update(step + 1))
        samples = [self.reader.read(response, self.options) for response in responses]
        status, _ = self.train_step(samples, step)
        seconds |= self._seconds(status)
        sync = self._check_sync(responses)
        elapsed = time.monotonic() - began
        tokens = sum(reply_lengths(responses))
        values = {
            **of_turns(self.experience_maker.turn_rewards),
            **of_dialogues(responses),
            **of_training(status),
            **sync,
            "kl_coef": self.kl_ctl.value,
            "tokens": tokens,
            "tokens_per_second": tokens / elapsed,
            "rollout_busy": (self._busy() - busy) / (len(self.vllm_engines) * elapsed),
            "seconds": elapsed,
            **{f"seconds_{phase}": spent for phase, spent in seconds.items()},
        }
        self.position.step += 1
        self.position.kl_coef = self.kl_ctl.value
        self._tell("train", values)
        guards.check(values, self.guards, self.position.step)
        guards.check_sync(values["sync_kl"], self.options.sync_limit, self.position.step)

    def ppo_train(self, global_steps: int) -> dict[str, Any]:
        """Train critic and policy; while the critic warms up, what the policy has is forgotten."""
        status: dict[str, Any] = super().ppo_train(global_steps)
        if global_steps < self.options.critic_warmup:
            # OpenRLHF keeps it for the first update of the policy, whose steps would add up.
            ray.get(self.actor_model_group.async_run_method("forget_experiences"))
        return status

    def broadcast_to_vllm(self) -> None:
        """Send the weights, when nobody speaks with the ones before."""
        if self.open:
            ray.wait(self.open, num_returns=len(self.open))
        super().broadcast_to_vllm()

    def _check_sync(self, responses: Sequence[Response]) -> dict[str, float]:
        probes = [r for r in responses if r["action_ranges"]][: self.options.sync_probes]
        tempered = self.options.sampling.temperature != 1
        # An engine says nothing of a prompt that leaves it no room for one more token.
        longest = self.options.max_len - 1
        return compare(probes, self.vllm_engines, self.actor_model_group, tempered, longest)

    def _seconds(self, status: Mapping[str, float]) -> dict[str, float]:
        """Seconds of the phases of an update; those that run side by side each have their own."""
        seconds = {
            "experience": status["timing/make_experience"],
            "update": status["timing/ppo_train"],
            "sync": status["timing/broadcast"],
        }
        names = {"reward": "turn_rewards", "reference": "forward"}
        groups = {"reward": self.reward_model_group, "reference": self.reference_model_group}
        for role, group in groups.items():
            if group is not None:
                spent = ray.get(group.async_run_method("spent"))
                seconds[role] = max(rank.get(names[role], 0.0) for rank in spent)
        return seconds

    def _busy(self) -> float:
        return sum(ray.get([engine.busy_s.remote() for engine in self.vllm_engines]))

    def _count(self, responses: Sequence[Response], step: int) -> None:
        """Add up tokens and failures; write the rows of those that failed.

        Raises:
            StageFailed: more than ``run.max_error_rate`` of all episodes failed.
        """
        position = self.position
        errors = [response["error"] for response in responses if response["error"]]
        calls = [call for response in responses for call in response["calls"]]
        calls += [error["calls"][-1] for error in errors]
        usage = Usage.of_calls(calls)
        self.account.spend(usage)
        position.usage = asdict(Usage(**position.usage) + usage)
        position.policy_tokens += sum(reply_lengths(responses))
        position.episodes += len(responses)
        position.failed += len(errors)
        if errors:
            self.store.write_table(f"{self.folder}/errors/{step:06d}.parquet", errors, ERRORS)
        if position.failed > self.max_error_rate * position.episodes:
            raise StageFailed(
                f"{position.failed} of {position.episodes} episodes failed, see "
                f"{self.store.url(self.folder, 'errors')}; the last: {errors[-1]['message']}"
            )

    def _look(self) -> None:
        """Talk with held-out personas, the same at every look; keep what was said."""
        step, number = self.position.step, self.options.eval_dialogues
        if self.reward_model_group is not None:  # its ranks compute equally many
            share = self.options.micro_batch_size * len(self.reward_model_group._actor_handlers)
            number = -(-number // share) * share
        answers = ray.get(self.rollouts.ask(self.rollouts.held_out(number)))
        responses = [response for answer in answers for response in answer]
        self._count(responses, step)
        samples = [self.reader.read(response, self.options) for response in responses]
        rewards = torch.cat([sample.info["turn_rewards"] for sample in samples])
        parts = torch.full_like(rewards, float("nan"))
        values = of_dialogues(responses)
        if self.reward_model_group is not None:
            batches = self.experience_maker.split_rollout_samples(samples)
            parts = self.experience_maker.ask_reward_model(batches)
            rewards = rewards + self.options.rewards.model * parts
            values["reward_model"] = parts.nanmean().item()
        write_dialogues(self.store, self.folder, step, responses, rewards, parts)
        self._tell("validation", {**of_turns(rewards), **values}, whole=True)

    def _tell(self, split: str, values: dict[str, float], whole: bool = False) -> None:
        event = Measured(split, self.position.step, values, whole)
        self.position.measured.append(event)
        self.recorder.take(event)

    def _keep(self) -> None:
        """Keep a state from which a killed run goes on, and forget the one before."""
        tag = f"{self.position.step:08d}"
        ray.get(self._of_trained("keep", tag))
        mark(self.store, f"{self.folder}/state", tag, json.dumps(asdict(self.position)))
        self.recorder.take(Saved(self.position.step))

    def _of_trained(self, method: str, tag: str) -> list[Any]:
        return [
            ref
            for role, group in self.trained.items()
            for ref in group.async_run_method(method, tag, role)
        ]

    def _go_on(self) -> Position:
        position = read_position(self.store, self.folder, self.position.ranks)
        if position is not None:
            ray.get(self._of_trained("go_on", f"{position.step:08d}"))
            self.position = position
            self.kl_ctl.value = position.kl_coef
            self.broadcast_to_vllm()
            self.recorder.take(Resumed(position.step, position.measured))
        return self.position

    def _outcome(self) -> Outcome:
        position = self.position
        looks = [event for event in position.measured if event.split == "validation"]
        trained = [event.values for event in position.measured if event.split == "train"]
        results: dict[str, Any] = {
            f"{name}_{when}": look.values[name]
            for when, look in (("before", looks[0]), ("after", looks[-1]))
            for name in ("reward", "reward_verifiable", "reward_judge", "reward_model")
            if name in look.values
        }
        results["kl_after"] = trained[-1].get("kl")
        results["sync_kl_largest"] = max(values["sync_kl"] for values in trained)
        counts = {
            "updates": position.step,
            "episodes": position.episodes,
            "failed_episodes": position.failed,
            "policy_tokens": position.policy_tokens,
        }
        return Outcome(results, counts, Usage(**position.usage))


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
