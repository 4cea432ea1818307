"""What a model needs beside its weights to be used again: tokenizer, tokenization, image size and normalisation."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from truepair.data.pairs import PairCollator
from truepair.data.tokens import load_tokenizer
from truepair.data.transforms import TransformConfig
from truepair.errors import CheckpointError

PREPROCESSING_FILE = "preprocessing.json"


@dataclass(frozen=True)
class Preprocessing:
    """How captions and images reach a model.

    Attributes:
        tokenizer: the model's tokenizer.
        max_length: most tokens of a caption.
        add_sep: whether captions end with [SEP].
        normalise: whether captions are lower-cased and stripped of punctuation.
        transform: image size and augmentation.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    add_sep: bool
    normalise: bool
    transform: TransformConfig

    def collator(self) -> PairCollator:
        """Batches with this tokenization."""
        return PairCollator(self.tokenizer, self.max_length, add_sep=self.add_sep, normalise=self.normalise)

    def save(self, folder: Path) -> None:
        """Write tokenizer and settings beside a model."""
        self.tokenizer.save_pretrained(folder)
        settings = {name: getattr(self, name) for name in ("max_length", "add_sep", "normalise")}
        text = json.dumps({**settings, "transform": asdict(self.transform)}, indent=1)
        (folder / PREPROCESSING_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Preprocessing":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: the folder has no readable settings.
        """
        try:
            settings: dict[str, Any] = json.loads((folder / PREPROCESSING_FILE).read_text(encoding="utf-8"))
            transform = settings.pop("transform")
            transform["crop_scale"] = tuple(transform["crop_scale"])
            return cls(load_tokenizer(folder), transform=TransformConfig(**transform), **settings)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder} has no usable {PREPROCESSING_FILE} ({error}); give the 'model' folder of a truepair run"
            ) from error
