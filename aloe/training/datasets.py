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
        """Ids, attention mask (`aloe.training.data.Encoded.mask`) and loss mask, each [1, tokens].

        The loss mask is 1 where the next token belongs to the reply.
        """
        (row,) = self.rows[index]
        loss_mask = torch.zeros((1, len(row.ids)))
        loss_mask[0, row.prompt_length - 1 : -1] = 1
        return row.tensor()[None], row.mask()[None], loss_mask


class PairRows(RewardDataset):  # type: ignore[misc]
    """Preferred and rejected reply per row, already tokenised; batches are OpenRLHF's."""

    is_dpo = True

    def __init__(self, rows: list[Row], tokenizer: Any) -> None:
        self.rows, self.tokenizer = rows, tokenizer

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor | int, ...]:
        """Ids and mask of the preferred reply, of the rejected one, and the prompt's length."""
        a, b = self.rows[index]
        return a.tensor()[None], a.mask()[None], b.tensor()[None], b.mask()[None], a.prompt_length


class RewardRows(PairRows):
    """The same for a reward model, which has a mask of 0 and 1 and no use for a prompt's length."""

    is_dpo = False

    def __getitem__(self, index: int) -> tuple[torch.Tensor | int, ...]:
        """Ids and mask of the preferred reply and of the rejected one, and a margin of 0."""
        a, a_mask, b, b_mask, _ = super().__getitem__(index)
        assert isinstance(a_mask, torch.Tensor) and isinstance(b_mask, torch.Tensor)
        return a, a_mask.clamp(max=1), b, b_mask.clamp(max=1), 0
