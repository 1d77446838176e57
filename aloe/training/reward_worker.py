"""A reward model on preference pairs (arXiv 2203.02155, section 3.5), on one rank."""

from __future__ import annotations

from typing import Any, ClassVar

from aloe.training.trainee import Numbers, Splits, Trainee, replies_of  # isort: skip  (prepares)

import ray
import torch
from openrlhf.models import PairWiseLoss
from openrlhf.trainer.rm_trainer import RewardModelTrainer

from aloe.training.accelerator import WORKER_ENV
from aloe.training.accuracy import margins_by_turn, wilson_interval
from aloe.training.data import Row, Rows, read_pairs
from aloe.training.datasets import RewardRows
from aloe.training.hooks import AfterStep, Hooked
from aloe.training.reward_model import load_reward_model
from aloe.training.step_log import StepLog


class HookedRewardTrainer(Hooked, RewardModelTrainer):  # type: ignore[misc]
    """OpenRLHF's trainer with our hook."""

    names: ClassVar = {"loss_mean": "loss", "acc_mean": "accuracy"}

    def __init__(self, after_step: AfterStep, log: StepLog, **arguments: Any) -> None:
        super().__init__(after_step, **arguments)
        self.log = log
        self.loss_fn.register_forward_hook(self._look)

    def _look(self, _: Any, rewards: tuple[torch.Tensor, ...], __: Any) -> None:
        preferred, rejected = (part.detach().mean().item() for part in rewards[:2])
        self.log.add(
            reward_preferred=preferred, reward_rejected=rejected, margin=preferred - rejected
        )


@ray.remote(concurrency_groups={"poll": 1}, runtime_env=WORKER_ENV)  # type: ignore[call-overload]
class RewardWorker(Trainee):
    """One rank; its method ``train`` does all of the work."""

    def read_rows(self) -> Rows:
        return read_pairs(self.job.store, self.chat, self.job.options.max_len)

    def dataset(self, rows: list[Row]) -> RewardRows:
        return RewardRows(rows, self.tokenizer)

    def load_model(self, ds_config: dict[str, Any]) -> Any:
        """The policy's checkpoint with a fresh head that gives one number per sequence."""
        arguments = self.strategy.args.ds
        model = load_reward_model(
            self.checkpoint,
            self.packs_trees,
            attn_implementation=arguments.attn_implementation,
            param_dtype=arguments.param_dtype,
            ds_config=ds_config,
            init_value_head=True,
        )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        return model

    def trainer(self, after_step: AfterStep, arguments: dict[str, Any]) -> Any:
        return HookedRewardTrainer(after_step, self.log, **arguments)

    def measure(self, step: int, splits: Splits, tell: bool) -> Numbers:
        """Loss, accuracy and margin of each split; keeps mean and deviation for those who ask."""
        found = {}
        for split, rows in splits.items():
            rewards = self.score(replies_of(rows), self._rewards, tell).view(-1, 2)
            preferred, rejected = rewards.unbind(-1)
            found[split] = {
                "loss": PairWiseLoss()(preferred, rejected).item(),
                "accuracy": (preferred > rejected).double().mean().item(),
                "margin": (preferred - rejected).mean().item(),
                **margins_by_turn(preferred - rejected, self.turns[split]),
            }
            if split == "validation":  # as OpenRLHF does, for rewards of unit size in PPO
                config = self.strategy._unwrap_model(self.model).config
                config.mean, config.std = rewards.mean().item(), max(rewards.std().item(), 1e-8)
        return found

    def _rewards(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rewards: torch.Tensor = self.model(ids, attention_mask=mask.clamp(max=1))
        return rewards

    def results(self, before: Numbers, after: Numbers, held_out: int) -> dict[str, Any]:
        found: dict[str, Any] = {"pairs_validation": held_out}
        for when, numbers in (("before", before), ("after", after)):
            values = numbers["validation"]
            found[f"loss_{when}"] = values["loss"]
            found[f"accuracy_{when}"] = values["accuracy"]
            found[f"accuracy_interval_{when}"] = wilson_interval(values["accuracy"], held_out)
            found[f"train_loss_{when}"] = numbers["train"]["loss"]
        found["pairs_train"] = len(self.batches.dataset)
        return found
