"""What a model needs beside its weights to be used again: tokenizer, tokenization, image size and normalisation."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from truepair.data.pairs import PairCollator
from truepair.data.tokens import OwnTokenization, Tokenization, load_tokenizer
from truepair.data.transforms import ImageTransform, PixelStatistics, TransformConfig, build_transform
from truepair.errors import CheckpointError, ConfigError

PREPROCESSING_FILE = "preprocessing.json"

# Settings that images which are not augmented depend on.
_PLAIN = ("size", "normalisation", "interpolation", "evaluation_resize")


class Preprocessing(ABC):
    """How captions and images reach a model. Each library has its own way; what trains and evaluates knows this one.

    Attributes:
        max_length: most tokens of a caption, special tokens included; longer ones are cut.
    """

    max_length: int

    @property
    @abstractmethod
    def tokenization(self) -> Tokenization:
        """From captions to token ids."""

    @abstractmethod
    def images(self, *, train: bool = False) -> ImageTransform:
        """From an image to float32 pixels, augmented for training or plain."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all of this beside a model, as its library reads it."""

    @abstractmethod
    def caption_settings(self) -> dict[str, Any]:
        """What the tokens of a caption depend on, of JSON types."""

    @abstractmethod
    def image_settings(self, *, train: bool = False) -> dict[str, Any]:
        """What the pixels of a plain or an augmented image depend on beside the encoder, of JSON types."""

    @abstractmethod
    def adapted(self, transform: TransformConfig, max_length: int) -> Self:
        """The same with the augmentation of a recipe, and captions cut shorter.

        Args:
            transform: its size 0 is the model's own, its normalisation "encoder" as well.
            max_length: most tokens of a caption; 0 for as many as before.

        Raises:
            ConfigError: the model does not read such pixels, or so many tokens.
        """

    def collator(self) -> PairCollator:
        """Makes batches with this tokenization."""
        return PairCollator(self.tokenization)

    def cut(self, captions: Sequence[str]) -> list[int]:
        """Places of the captions that have more tokens than the model reads, and lose those at their end."""
        lengths = self.tokenization.lengths(captions) if captions else []
        return [place for place, length in enumerate(lengths) if length > self.max_length]


@dataclass(frozen=True)
class OwnPreprocessing(Preprocessing):
    """How captions and images reach one of our own models.

    Attributes:
        tokenizer: the model's tokenizer.
        max_length: most tokens of a caption.
        add_sep: whether captions end with [SEP].
        normalise: whether captions are lower-cased and stripped of punctuation.
        transform: image size and augmentation.
        statistics: mean and standard deviation of each channel that the image encoder expects; "encoder" normalisation
            takes them.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    add_sep: bool
    normalise: bool
    transform: TransformConfig
    statistics: PixelStatistics | None = None

    @property
    def tokenization(self) -> OwnTokenization:
        """From captions to token ids."""
        return OwnTokenization(self.tokenizer, self.max_length, self.add_sep, self.normalise)

    def images(self, *, train: bool = False) -> ImageTransform:
        """From an image to float32 [3, size, size].

        Raises:
            ConfigError: "encoder" normalisation without the encoder's statistics.
        """
        return build_transform(self.transform, train=train, encoder_statistics=self.statistics)

    def caption_settings(self) -> dict[str, Any]:
        """What the tokens of a caption depend on."""
        settings = {name: getattr(self, name) for name in ("max_length", "add_sep", "normalise")}
        return {"tokenizer": self.tokenizer.get_vocab(), **settings}

    def image_settings(self, *, train: bool = False) -> dict[str, Any]:
        """What the pixels of an image depend on beside the encoder."""
        settings = asdict(self.transform)
        return settings if train else {name: settings[name] for name in _PLAIN}

    def adapted(self, transform: TransformConfig, max_length: int) -> Self:
        """The same with the augmentation and the image size of a recipe; the model is resized for it."""
        size = transform.size or self.transform.size
        return replace(self, transform=replace(transform, size=size), max_length=max_length or self.max_length)

    def save(self, folder: Path) -> None:
        """Write tokenizer and settings beside a model."""
        self.tokenizer.save_pretrained(folder)
        settings = {name: getattr(self, name) for name in ("max_length", "add_sep", "normalise")}
        text = json.dumps({**settings, "transform": asdict(self.transform)}, indent=1)
        (folder / PREPROCESSING_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, statistics: PixelStatistics | None = None) -> "OwnPreprocessing":
        """Read what :meth:`save` wrote.

        Args:
            folder: the model's.
            statistics: what its image encoder expects.

        Raises:
            CheckpointError: the folder has no readable settings.
        """
        try:
            settings: dict[str, Any] = json.loads((folder / PREPROCESSING_FILE).read_text(encoding="utf-8"))
            transform = settings.pop("transform")
            transform["crop_scale"] = tuple(transform["crop_scale"])
            return cls(
                load_tokenizer(folder), transform=TransformConfig(**transform), statistics=statistics, **settings
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder} has no usable {PREPROCESSING_FILE} ({error}); give the 'model' folder of a truepair run"
            ) from error


def own_pixels(transform: TransformConfig, size: int) -> TransformConfig:
    """The augmentation of a recipe for a model that reads one size and normalises in its own way.

    Args:
        transform: of the recipe.
        size: height and width of the model's images, in pixels.

    Raises:
        ConfigError: the recipe asks for others.
    """
    if transform.size not in (0, size):
        raise ConfigError(f"data.transform.size is {transform.size}, but the model reads {size} px; set it to 0")
    if transform.normalisation != "encoder":
        raise ConfigError(
            f"data.transform.normalisation is '{transform.normalisation}', but the model has its own; set it to encoder"
        )
    return replace(transform, size=size)


def own_length(asked: int, longest: int) -> int:
    """Most tokens of a caption for a model that reads so many at most; 0 asks for all of them.

    Raises:
        ConfigError: the recipe asks for more.
    """
    if asked > longest:
        raise ConfigError(f"text.max_length is {asked}, but the model reads at most {longest} tokens; set it to 0")
    return asked or longest
