"""The models of PPO, each on devices of its own: policy, critic, reference and reward model.

What they compute is OpenRLHF's; how they are loaded, timed and kept is ours.
"""

from __future__ import annotations

from aloe.training.worker import Worker  # isort: skip  (first: it prepares the process)

import socket
import time
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import ray
import torch
from openrlhf.models import Actor, get_llm_for_sequence_regression
from openrlhf.trainer.ray.launcher import BaseModelActor, ReferenceModelActor
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer, PolicyModelActor
from openrlhf.trainer.ray.ppo_critic import CriticModelActor, CriticPPOTrainer

from aloe.config import PpoConfig
from aloe.machine import has_gpu
from aloe.training.accelerator import WORKER_ENV
from aloe.training.checkpoint import new_checkpoint
from aloe.training.options import optimizer_settings
from aloe.training.ppo.arguments import ppo_arguments
from aloe.training.ppo.episode_actor import EpisodeActor
from aloe.training.ppo.weight_group import join
from aloe.training.protocol import Job
from aloe.training.reward_model import load_reward_model
from aloe.training.state import load_engine, save_engine

_REMOTE: dict[str, Any] = {"concurrency_groups": {"poll": 1}, "runtime_env": WORKER_ENV}


class PpoWorker(Worker, BaseModelActor):  # type: ignore[misc]
    """What the four have in common."""

    actors = (EpisodeActor, Actor)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def options(self) -> PpoConfig:
        assert isinstance(self.job.options, PpoConfig)
        return self.job.options

    def arguments(self) -> SimpleNamespace:
        return ppo_arguments(self.options, self.job.seed, len(self.job.engines), self.packs_trees)

    def optimizer(self, learning_rate: float) -> dict[str, Any]:
        """Adam and its schedule over all updates."""
        options = self.options.model_copy(update={"learning_rate": learning_rate})
        return optimizer_settings(options, options.updates * options.passes)

    def load_policy(self, ds_config: dict[str, Any]) -> Actor:
        """OpenRLHF's policy model, at the temperature with which episodes are sampled."""
        return self.load_actor(ds_config, temperature=self.options.sampling.temperature)

    def execute_batch(self, method_name: str, *arguments: Any) -> Any:
        """OpenRLHF's way to call a method for each part of a batch."""
        began = time.monotonic()
        try:
            return super().execute_batch(method_name, *arguments)
        finally:
            self._seconds[method_name] += time.monotonic() - began

    def spent(self) -> dict[str, float]:
        """Seconds in each method since this was last asked."""
        found, self._seconds = dict(self._seconds), defaultdict(float)
        return found

    def keep(self, tag: str, role: str) -> None:
        """Write what `PpoWorker.go_on` reads; called on all ranks."""
        states = f"{self.job.folder}/state/{tag}"
        save_engine(self.job.store, states, role, self.engine, self._rank)

    def go_on(self, tag: str, role: str) -> None:
        """Be what one was at ``tag``; called on all ranks."""
        states = f"{self.job.folder}/state/{tag}"
        load_engine(self.job.store, states, role, self.engine, self._rank)


class SyncingTrainer(ActorPPOTrainer):  # type: ignore[misc]
    """OpenRLHF's trainer, whose weights go to the engines over NCCL or gloo."""

    def training_step(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        status: dict[str, Any] = super().training_step(*arguments, **more)
        # ZeRO stage 0 keeps no norm of its gradients. OpenRLHF logs that as 0.
        if self.actor.model.get_global_grad_norm() is None:
            status["metrics"].pop("actor_grad_norm", None)
        return status

    def _init_vllm_sync_group(self, backend: str) -> None:
        address = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        world = len(self.vllm_engines) + 1
        waiting = [
            engine.init_process_group.remote(address, port, rank, world)
            for rank, engine in enumerate(self.vllm_engines, start=1)
        ]
        self._model_update_group = join(address, port, 0, world, torch.cuda.current_device())
        ray.get(waiting)


@ray.remote(**_REMOTE)
class PolicyWorker(PpoWorker, PolicyModelActor.__ray_metadata__.modified_class):  # type: ignore[misc,name-defined]
    """The policy on one rank."""

    def load(self, job: Job) -> None:
        """Load the policy; the engines may still be starting.

        Raises:
            UserError: see `Worker.join`.
        """
        self.join(job)
        actor = self.load_policy(self.strategy.get_ds_train_config())
        if self.options.gradient_checkpointing:
            actor.gradient_checkpointing_enable()
        self.actor, self._optimizer, self._scheduler = self.strategy.prepare(
            (actor, self.optimizer(self.options.learning_rate))
        )
        self.engine = self.actor.model

    def meet(self) -> None:
        """Make the group over which weights go to the engines; called when all are loaded."""
        self.trainer = SyncingTrainer(
            self.strategy,
            self.actor,
            ema_model=None,
            actor_optim=self._optimizer,
            actor_scheduler=self._scheduler,
            micro_train_batch_size=self.options.micro_batch_size,
            tokenizer=self.tokenizer,
            dataloader_pin_memory=has_gpu(),
            vllm_engines=list(self.job.engines),
        )

    def forget_experiences(self) -> None:
        """Drop what has been handed over to train on; called on all ranks."""
        self.trainer.replay_buffer.clear()

    def probe(self, sequences: list[list[int]]) -> list[torch.Tensor]:
        """Untempered log-probs of all tokens but each sequence's first, float [tokens - 1]."""
        tempered, self.actor.temperature = self.actor.temperature, 1.0
        self.actor.eval()
        device = torch.cuda.current_device()
        with torch.no_grad():
            found = [
                self.actor(ids, attention_mask=torch.ones_like(ids), return_logprobs=True)[0].cpu()
                for ids in (torch.tensor([row], device=device) for row in sequences)
            ]
        self.actor.temperature = tempered
        self.actor.train()
        return found

    def save(self) -> None:
        """Write the checkpoint; called on all ranks."""
        self.save_to(self.actor, new_checkpoint(self.job.store, f"{self.job.folder}/checkpoint"))


@ray.remote(**_REMOTE)
class CriticWorker(PpoWorker, CriticModelActor.__ray_metadata__.modified_class):  # type: ignore[misc,name-defined]
    """The critic on one rank; starts from the reward model, if it rewards, else from the policy."""

    def _choose_packing(self) -> bool:
        return False  # OpenRLHF's critic has a value for every token of a row

    def load(self, job: Job) -> None:
        """Load the critic.

        Raises:
            UserError: see `Worker.join`.
        """
        self.join(job)
        ds = self.strategy.args.ds
        critic = get_llm_for_sequence_regression(
            self.checkpoint,
            "critic",
            attn_implementation=ds.attn_implementation,
            param_dtype=ds.param_dtype,
            ds_config=self.strategy.get_ds_train_config(),
            value_head_prefix=ds.value_head_prefix,
            init_value_head=not job.from_reward_model,
        )
        critic.config.pad_token_id = self.tokenizer.pad_token_id
        if self.options.gradient_checkpointing:
            critic.gradient_checkpointing_enable()
        self.critic, optimizer, scheduler = self.strategy.prepare(
            (critic, self.optimizer(self.options.critic_learning_rate))
        )
        self.engine = self.critic
        self.trainer = CriticPPOTrainer(
            self.strategy,
            critic=self.critic,
            critic_optim=optimizer,
            critic_scheduler=scheduler,
            micro_train_batch_size=self.options.micro_batch_size,
            value_clip=self.options.value_clip,
            dataloader_pin_memory=has_gpu(),
        )


@ray.remote(**_REMOTE)
class FrozenWorker(PpoWorker, ReferenceModelActor.__ray_metadata__.modified_class):  # type: ignore[misc,name-defined]
    """The reference on one rank."""

    def load(self, job: Job) -> None:
        """Load the reference.

        Raises:
            UserError: see `Worker.join`.
        """
        self.join(job)
        actor = self.load_policy(self.strategy.get_ds_eval_config(offload=False))
        self.model = self.strategy.prepare(actor)
        self.model.eval()


@ray.remote(**_REMOTE)
class RewardModelWorker(PpoWorker):
    """The reward model on one rank."""

    def load(self, job: Job) -> None:
        """Load the reward model.

        Raises:
            UserError: see `Worker.join`.
        """
        self.join(job)
        ds = self.strategy.args.ds
        model = load_reward_model(
            self.checkpoint,
            self.packs_trees,
            attn_implementation=ds.attn_implementation,
            param_dtype=ds.param_dtype,
            ds_config=self.strategy.get_ds_eval_config(offload=False),
            normalize_reward=True,
        )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        self.model = self.strategy.prepare(model)
        self.model.eval()

    @torch.no_grad()
    def turn_rewards(self, sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """What each turn of some episodes is worth: the reward of all that was said up to its end.

        Args:
            sequences: right-padded ids, int64 [episodes, tokens].
            lengths: tokens up to the end of each turn, int64 [episodes, turns]; 0 where there is
                no turn.

        Returns:
            float32 [episodes, turns], NaN where there is no turn.
        """
        device = torch.cuda.current_device()
        episode, turn = lengths.nonzero(as_tuple=True)
        rewards = torch.full(lengths.shape, float("nan"))
        if len(episode):
            longest = int(lengths.max())
            rows = sequences[episode, :longest].to(device)
            until = lengths[episode, turn].to(device)
            mask = (torch.arange(longest, device=device) < until[:, None]).long()
            rewards[episode, turn] = self.model(rows, mask).float().cpu()
        return rewards
