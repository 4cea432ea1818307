"""Any transformers model with image and text features (CLIP, SigLIP, ...) as a dual encoder of this package."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from truepair.data.preprocessing import Preprocessing, own_length, own_pixels
from truepair.data.transforms import NORMALISATIONS, ImageTransform, PixelStatistics, TransformConfig, build_transform
from truepair.errors import ConfigError
from truepair.models.checkpoints.load import load_hub_model, load_part, processor_transform
from truepair.models.dual.adapter import base_of, has_adapter, is_adapter, load_adapter, save_adapter
from truepair.models.dual.base import DualEncoder

# CLIP (Radford et al. 2021) keeps logits from being scaled by more than 100; open_clip keeps them from being shrunk.
_LOG_SCALES = (0.0, math.log(100))

# Trained on captions padded to full length, without a mask; their feature is read at the last place, padding or not.
_FULL_LENGTH = ("siglip", "siglip2")

_OFFSET_POSITIONS = ("altclip_text_model", "roberta", "xlm-roberta", "camembert")


class HubDualEncoder(DualEncoder):
    """A transformers model that is trained and saved as what it is: its class, its parameters, its own format.

    A tower is the model's own with its pooling, whatever that is ([CLS], the end token, an attention head). Its states
    are the pooled state alone [B, 1, W], since the last hidden states would not always do to make it: CLIP finds the
    end token by its id, SigLIP pools by attention. That also makes a cache of frozen states as small as it can be.

    Args:
        model: With ``get_image_features`` and ``get_text_features``, made of ``vision_model`` and ``text_model``.

    Raises:
        ConfigError: the model is not such a one.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        needed = ("get_image_features", "get_text_features", "vision_model", "text_model", "logit_scale")
        missing = next((name for name in needed if not hasattr(model, name)), None)
        if missing is not None:
            raise ConfigError(
                f"a {type(model).__name__} has no {missing}, so it is no dual encoder; give CLIP, SigLIP or such"
            )
        self.model = model

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **options: Any) -> Self:
        """Load a model; code that comes with a checkpoint is never run.

        Args:
            name_or_folder: A folder that `save_pretrained` wrote, of this class or of transformers, or a hub name. Of
                an adapter, the base is loaded as well, and the adapter stands in its layers.
            **options: How transformers is to read the weights, such as ``use_safetensors``.

        Raises:
            CheckpointError: it is missing or damaged.
            ConfigError: the model is no dual encoder.
        """
        name = str(name_or_folder)
        adapted = is_adapter(name)
        if adapted:
            options.pop("use_safetensors", None)  # of the adapter, which is never read from anything else
        whole = base_of(name) if adapted else name
        model = load_hub_model(AutoModel, whole, trust_remote_code=False, dtype=torch.float32, **options)
        if adapted:
            load_adapter(model, name)
        return cls(model)

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write an ordinary folder of transformers, which ``type(self.model).from_pretrained`` reads.

        Of a model with an adapter, that is the adapter alone, as peft writes it.

        Args:
            folder: Where.
            state_dict: Weights of this module to write instead of its own, put together from several processes, say.
        """
        weights = None
        if state_dict is not None:
            weights = {name.removeprefix("model."): value for name, value in state_dict.items()}
        if has_adapter(self.model):
            save_adapter(self.model, folder, weights)
        else:
            self.model.save_pretrained(folder, state_dict=weights)

    @property
    def origin(self) -> str:
        """The folder or hub name that holds the weights it was opened with; empty where none does."""
        return str(self.model.name_or_path)

    @property
    def inner(self) -> PreTrainedModel:
        """The transformers model."""
        model: PreTrainedModel = self.model
        return model

    @property
    def image_size(self) -> int:
        """Height and width of the images it reads, in pixels."""
        return int(self.model.config.vision_config.image_size)

    @property
    def longest_text(self) -> int:
        """Most tokens of a text that it has positions for."""
        text = self.model.config.text_config
        # RoBERTa's positions start behind that of the padding.
        offset = text.pad_token_id + 1 if text.model_type in _OFFSET_POSITIONS else 0
        return int(text.max_position_embeddings) - offset

    @property
    def image_tower(self) -> nn.Module:
        """The image tower with its pooling: images [B, 3, H, W] to [B, 1, W]."""
        return _ImageTower(self.model.vision_model)

    @property
    def text_tower(self) -> nn.Module:
        """The text tower with its pooling: token ids and mask, both [B, L], to [B, 1, D]."""
        return _TextTower(self.model.text_model, self._padded_length)

    def project_image(self, states: Tensor) -> Tensor:
        """Pooled image states [B, 1, W] to L2-normalised features [B, E]."""
        return _projected(getattr(self.model, "visual_projection", None), states)

    def project_text(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled text states [B, 1, D] to L2-normalised features [B, E]; the mask is not needed any more."""
        return _projected(getattr(self.model, "text_projection", None), states)

    @property
    def embed_dim(self) -> int:
        """E, the width of a feature."""
        projection = getattr(self.model, "visual_projection", None)
        width: int = self.model.config.vision_config.hidden_size if projection is None else projection.out_features
        return width

    @property
    def temperature(self) -> Tensor:
        """1 / exp(logit_scale), a scalar."""
        scale: Tensor = self.model.logit_scale
        return (-scale).exp().reshape(())

    @property
    def bias(self) -> Tensor | None:
        """SigLIP's logit bias, a scalar; None for models without."""
        bias: Tensor | None = getattr(self.model, "logit_bias", None)
        return None if bias is None else bias.reshape(())

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Keep exp(logit_scale) within 1 and 100, as CLIP does; SigLIP, whose own is above that, has no bounds.

        One that is not trained stays what it is.
        """
        if self.bias is None and self.model.logit_scale.requires_grad:
            self.model.logit_scale.clamp_(*_LOG_SCALES)

    @property
    def _padded_length(self) -> int | None:
        """The length that captions must be padded to; None: any."""
        text = self.model.config.text_config
        return int(text.max_position_embeddings) if self.model.config.model_type in _FULL_LENGTH else None


@dataclass(frozen=True)
class HubPreprocessing(Preprocessing):
    """The image processor and the tokenizer that belong to a transformers model, and the augmentation of training.

    Attributes:
        processor: makes plain images into pixels.
        tokenizer: called as it is, with its own special tokens.
        max_length: most tokens of a caption.
        transform: augmentation; its size is the model's own, and pixels are normalised as the processor does.
    """

    processor: BaseImageProcessor
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    transform: TransformConfig

    @property
    def tokenization(self) -> "_HubTokenization":
        """From captions to token ids."""
        return _HubTokenization(self.tokenizer, self.max_length)

    def images(self, *, train: bool = False) -> ImageTransform:
        """From an image to float32 [3, H, W]: augmented, or what the processor makes of it."""
        if not train:
            return processor_transform(self.processor)
        return build_transform(self.transform, train=True, encoder_statistics=self._statistics)

    def caption_settings(self) -> dict[str, Any]:
        """What the tokens of a caption depend on."""
        return {"tokenizer": self.tokenizer.get_vocab(), "max_length": self.max_length}

    def image_settings(self, *, train: bool = False) -> dict[str, Any]:
        """What the pixels of an image depend on."""
        processor = json.loads(self.processor.to_json_string())
        return {"processor": processor, **({"transform": asdict(self.transform)} if train else {})}

    def adapted(self, transform: TransformConfig, max_length: int) -> Self:
        """The same with the augmentation of a recipe, and captions cut shorter, see `Preprocessing.adapted`."""
        return replace(
            self,
            transform=own_pixels(transform, self.transform.size),
            max_length=own_length(max_length, self.max_length),
        )

    def save(self, folder: Path) -> None:
        """Write both beside the model, as transformers reads them."""
        self.processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def _statistics(self) -> PixelStatistics:
        processor = self.processor
        if not processor.do_normalize:
            return NORMALISATIONS["none"]
        return tuple(processor.image_mean), tuple(processor.image_std)


@dataclass(frozen=True)
class _HubTokenization:
    """A tokenizer with its own special tokens."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def padding(self) -> int:
        """The id that fills up shorter captions; the models are given a mask, or pad themselves."""
        return int(self.tokenizer.pad_token_id or 0)

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption, cut to the longest that the model reads."""
        ids: list[list[int]] = self.tokenizer(
            list(captions), truncation=True, max_length=self.max_length, return_attention_mask=False
        )["input_ids"]
        return ids


def open_hub(name_or_folder: str | Path) -> tuple[HubDualEncoder, HubPreprocessing]:
    """Load a transformers model, its image processor and its tokenizer; code that comes with them is never run.

    Raises:
        CheckpointError: one of the three is missing or damaged.
        ConfigError: the model is no dual encoder.
    """
    name = str(name_or_folder)
    model = HubDualEncoder.from_pretrained(name)
    return model, open_hub_preprocessing(model, name)


def open_hub_preprocessing(model: HubDualEncoder, name_or_folder: str) -> HubPreprocessing:
    """Load the image processor and the tokenizer of a model.

    Raises:
        CheckpointError: one of the two is missing or damaged.
    """
    processor = load_part(AutoImageProcessor, name_or_folder, trust_remote_code=False)
    tokenizer = load_part(AutoTokenizer, name_or_folder, trust_remote_code=False)
    longest = min(model.longest_text, tokenizer.model_max_length)
    transform = TransformConfig(size=model.image_size, normalisation="encoder")
    return HubPreprocessing(processor, tokenizer, longest, transform)


class _ImageTower(nn.Module):
    """A vision model that returns its pooled state [B, 1, W]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # not of its parts: some may be frozen

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] to [B, 1, W]."""
        return _pooled(self.model(pixel_values=pixel_values))


class _TextTower(nn.Module):
    """A text model that returns its pooled state [B, 1, D].

    Args:
        model: The text model.
        padded_length: Pad captions to so many tokens, and give the model no mask; None: give it ids and mask.
    """

    def __init__(self, model: Any, padded_length: int | None) -> None:
        super().__init__()
        self.model = model
        self.padded_length = padded_length
        self.training = model.training  # not of its parts: some may be frozen

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (1 = token, 0 = padding), both [B, L], to [B, 1, D]."""
        if self.padded_length is None:
            return _pooled(self.model(input_ids=input_ids, attention_mask=attention_mask))
        padding = self.model.config.pad_token_id
        ids = input_ids.masked_fill(attention_mask == 0, padding)
        return _pooled(self.model(input_ids=F.pad(ids, (0, self.padded_length - ids.shape[1]), value=padding)))


def _pooled(output: Any) -> Tensor:
    """What a tower pools [B, 1, W]; ChineseCLIP's text tower does not pool, its model takes the first state."""
    if output.pooler_output is None:
        states: Tensor = output.last_hidden_state
        return states[:, :1]
    pooled: Tensor = output.pooler_output
    return pooled[:, None]


def _projected(projection: nn.Module | None, states: Tensor) -> Tensor:
    """The model's projection of pooled states [B, 1, W], normalised [B, E]; SigLIP has none behind its pooling."""
    pooled = states[:, 0]
    return F.normalize(pooled if projection is None else projection(pooled), dim=-1)
