"""Token rows as OpenRLHF's trainers read them; import after `aloe.training.accelerator.prepare`."""

from __future__ import annotations

from typing import Any

import torch
from openrlhf.datasets.reward_dataset import RewardDataset
from openrlhf.datasets.sft_dataset import SFTDataset

from aloe.training.data import Row


class SftRows(SFTDataset):  # type: ignore[misc]
    """One reply per row, already tokenised; batches are OpenRLHF's."""

    def __init__(self, rows: list[Row], tokenizer: Any) -> None:
        self.rows, self.tokenizer = rows, tokenizer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, attention mask and loss mask, each [1, tokens].

        The loss mask is 1 where the next token belongs to the reply.
        """
        (row,) = self.rows[index]
        ids = row.tensor().unsqueeze(0)
        loss_mask = torch.zeros(ids.shape)
        loss_mask[0, row.prompt_length - 1 : -1] = 1
        return ids, torch.ones_like(ids), loss_mask


class PairRows(RewardDataset):  # type: ignore[misc]
    """Preferred and rejected reply per row, already tokenised; batches are OpenRLHF's."""

    is_dpo = True

    def __init__(self, rows: list[Row], tokenizer: Any) -> None:
        self.rows, self.tokenizer = rows, tokenizer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor | int, ...]:
        """Ids and mask of the preferred reply, of the rejected one, and the prompt's length."""
        preferred, rejected = self.rows[index]
        a, b = preferred.tensor().unsqueeze(0), rejected.tensor().unsqueeze(0)
        return a, torch.ones_like(a), b, torch.ones_like(b), preferred.prompt_length
