"""BLIP for retrieval, `BlipForImageTextRetrieval` of transformers, as a model that reads image and text together."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoImageProcessor, BlipForImageTextRetrieval, PreTrainedModel

from truepair.data.preprocessing import PREPROCESSING_FILE
from truepair.data.tokens import WholeTokenizer
from truepair.data.transforms import TransformConfig
from truepair.devices import sent
from truepair.errors import CheckpointError, ConfigError
from truepair.models.checkpoints.load import load_hub_model, load_part
from truepair.models.dual.base import FusionModel, ImageKeysValues
from truepair.models.dual.hub_preprocessing import HubPreprocessing, HubTokenization, image_side

START_TOKEN = "[ENC]"
"""What BLIP's text encoder reads in the place of [CLS] where it reads an image as well."""

_ROWS = 64  # pairs that are fused at once without gradient: each holds a copy of its image's keys and values

_TEMPERATURES = (0.001, 0.5)  # what BLIP keeps its temperature in

_MOST_WORDS = 30  # of a caption, in BLIP's programs

_REMOVED = re.compile(r"[.!\"()*#:;~]")


class BlipLine(FusionModel):
    """What BLIP and BLIP-2 have in common: transformers' class inside, and a temperature of their own.

    Args:
        model: The model of transformers.
        start: Id of what is read in the place of [CLS] the second time; None reads [CLS] there as well.
        temperature: Where the temperature of ITC starts, a scalar.
    """

    def __init__(self, model: PreTrainedModel, start: int | None, temperature: Tensor) -> None:
        super().__init__()
        self.model: Any = model
        self.start = start
        self.temp = nn.Parameter(temperature)
        name = str(model.name_or_path)
        self.origin = str(Path(name).resolve()) if name and Path(name).exists() else name

    @property
    def kind(self) -> str:
        """The model's class in transformers."""
        return type(self.model).__name__

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any]) -> None:
        """Let the backward pass recompute what the forward pass made, instead of keeping it."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs)

    @property
    def embed_dim(self) -> int:
        """E, the width of a feature."""
        return int(self.model.config.image_text_hidden_size)

    @property
    def temperature(self) -> Tensor:
        """What similarities are divided by, a scalar."""
        return self.temp.clamp(*_TEMPERATURES)

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Bring the temperature back into [0.001, 0.5], as BLIP does."""
        self.temp.clamp_(*_TEMPERATURES)


def stated_temperature(scale: float) -> Tensor:
    """The temperature, a scalar, of a config that states the logarithm of its inverse; inverse of `log_scale`.

    Both reckon in 64 bits: in 32, a temperature would come back from a checkpoint as another one, by its last bit.
    """
    return torch.tensor(math.exp(-scale))


def log_scale(temperature: Tensor) -> float:
    """The logarithm of the inverse of a temperature, a scalar."""
    return -float(temperature.double().log())


class BlipFusionModel(BlipLine):
    """A BLIP (Li et al., ICML 2022) that is trained and saved as what it is: its class, parameters and format.

    Its text encoder reads a caption alone for ITC, and once more, from [ENC] on and with cross-attention to the image,
    for ITM. So the states of a text [B, L, 2 D] are those of the encoder [B, L, D], and beside them the embeddings that
    the second reading starts from [B, L, D].

    Transformers' class has no place for the learnt temperature of ITC; it is kept in the config as
    ``logit_scale_init_value``, the logarithm of its inverse.

    Args:
        model: The model.
        start: Id of [ENC]; None reads [CLS] there as well, as transformers does.
    """

    def __init__(self, model: BlipForImageTextRetrieval, start: int | None = None) -> None:
        super().__init__(model, start, stated_temperature(model.config.logit_scale_init_value))

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **options: Any) -> Self:
        """Load a model without what reads captions and images for it: [ENC] is not known.

        Args:
            name_or_folder: A folder that `save_pretrained` wrote, of this class or of transformers, or a hub name.
            **options: How transformers is to read the weights, such as ``use_safetensors``.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        return cls(load_hub_model(BlipForImageTextRetrieval, str(name_or_folder), dtype=torch.float32, **options))

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write an ordinary folder of transformers, which `BlipForImageTextRetrieval.from_pretrained` reads."""
        state = dict(self.state_dict() if state_dict is None else state_dict)
        self.model.config.logit_scale_init_value = log_scale(state.pop("temp"))
        self.model.save_pretrained(folder, state_dict={k.removeprefix("model."): v for k, v in state.items()})

    def blank(self) -> Self:
        """A model of the same kind and sizes with other weights."""
        return type(self)(type(self.model)(self.model.config), self.start)

    @property
    def image_tower(self) -> nn.Module:
        """The image encoder: images [B, 3, H, W] to states [B, N, W]."""
        return BlipImageTower(self.model.vision_model)

    @property
    def text_tower(self) -> nn.Module:
        """The text encoder, its cross-attention included: ids and mask, both [B, L], to [B, L, 2 D]."""
        return _TextTower(self.model.text_encoder, self.start)

    def project_image(self, states: Tensor) -> Tensor:
        """Image states [B, N, W] to L2-normalised features [B, E]."""
        return F.normalize(self.model.vision_proj(states[:, 0]), dim=-1)

    def project_text(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Text states [B, L, 2 D] to L2-normalised features [B, E]; the mask is not needed any more."""
        return F.normalize(self.model.text_proj(states[:, 0, : self._width]), dim=-1)

    def image_keys_values(self, image_states: Tensor) -> ImageKeysValues:
        """The image states [I, N, W] themselves: transformers' layers make keys and values of them when they fuse."""
        return ImageKeysValues((image_states,), (image_states,))

    @property
    def vocab_size(self) -> int:
        """V, the tokens that it reads."""
        return int(self.model.config.text_config.vocab_size)

    def fuse(
        self,
        text_states: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor | None = None,
        *,
        cls_only: bool = False,
    ) -> Tensor:
        """Fused states of each row of text with its image [R, L, D], or of [ENC] alone; see `FusionModel.fuse`."""
        rows = sent(torch.arange(len(text_states)) if image_rows is None else image_rows, text_states.device)
        parts = []
        for some in torch.arange(len(rows), device=rows.device).split(len(rows) if torch.is_grad_enabled() else _ROWS):
            fused = self.model.text_encoder(
                encoder_embeds=text_states[some, :, self._width :],
                attention_mask=attention_mask[some],
                encoder_hidden_states=keys_values.keys[0][rows[some]],
            ).last_hidden_state
            parts.append(fused[:, :1] if cls_only else fused)
        return torch.cat(parts)

    def match(self, fused: Tensor, image_feature: Tensor | None = None, text_feature: Tensor | None = None) -> Tensor:
        """ITM logits [R, 2] (index 1 = match) of fused states [R, L, D]."""
        logits: Tensor = self.model.itm_head(fused[:, 0])
        return logits

    def predict_tokens(self, fused: Tensor, positions: Tensor) -> Tensor:
        """BLIP has no vocabulary head for MLM.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self.kind} has no vocabulary head; set objectives.mlm.weight to 0")

    @property
    def _width(self) -> int:
        return int(self.model.config.text_config.hidden_size)


class BlipImageTower(nn.Module):
    """The image encoder that returns its states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # not of its parts: some may be frozen

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] to [B, N, W]."""
        states: Tensor = self.model(pixel_values=pixel_values).last_hidden_state
        return states


class _TextTower(nn.Module):
    """The text encoder that returns what both readings need."""

    def __init__(self, model: Any, start: int | None) -> None:
        super().__init__()
        self.model = model
        self.start = start
        self.training = model.training  # not of its parts: some may be frozen

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (1 = token, 0 = padding), both [B, L], to [B, L, 2 D]."""
        alone = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [B, L, D]
        again = with_start(input_ids, self.start)
        return torch.cat([alone, self.model.embeddings(input_ids=again)], dim=2)


def with_start(input_ids: Tensor, start: int | None) -> Tensor:
    """Token ids [B, L] as they are read with an image: [ENC], where there is one, in the first place."""
    if start is None:
        return input_ids
    return torch.cat([torch.full_like(input_ids[:, :1], start), input_ids[:, 1:]], dim=1)


def start_of(tokenizer: Any) -> int | None:
    """The id of [ENC], if the tokenizer has that token."""
    found: int | None = tokenizer.get_vocab().get(START_TOKEN)
    return found


@dataclass(frozen=True)
class BlipPreprocessing(HubPreprocessing):
    """The image processor and tokenizer of a BLIP.

    Attributes:
        clean: take from captions what BLIP's programs take: capitals, some punctuation, words after the thirtieth.
    """

    clean: bool = False

    @property
    def tokenization(self) -> "BlipTokenization":
        """From captions to token ids."""
        return BlipTokenization(self.tokenizer, self.max_length, self.full_length, self.clean)

    def caption_settings(self) -> dict[str, Any]:
        """What the tokens of a caption depend on."""
        return {**super().caption_settings(), "clean": self.clean}

    def save(self, folder: Path) -> None:
        """Write processor and tokenizer as transformers reads them, and how captions are cleaned beside them."""
        super().save(folder)
        (folder / PREPROCESSING_FILE).write_text(json.dumps({"clean": self.clean}, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class BlipTokenization(HubTokenization):
    """BLIP's tokenizer.

    Attributes:
        clean: as in `BlipPreprocessing`.
    """

    clean: bool = False

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption, cut to the longest that the model reads."""
        return super().__call__(self._cleaned(captions))

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has if it is neither cut nor padded."""
        return super().lengths(self._cleaned(captions, cut=False))

    def _cleaned(self, captions: Sequence[str], *, cut: bool = True) -> Sequence[str]:
        if not self.clean:
            return captions
        words = [_REMOVED.sub(" ", caption.lower()).split() for caption in captions]
        return [" ".join(some[:_MOST_WORDS] if cut else some) for some in words]


def is_blip(settings: Mapping[str, Any]) -> bool:
    """Whether a config is that of a BLIP for retrieval; other BLIPs do not compare images and texts."""
    return settings.get("model_type") == "blip" and BlipForImageTextRetrieval.__name__ in (
        settings.get("architectures") or ()
    )


def open_blip_folder(name_or_folder: str) -> tuple[BlipFusionModel, BlipPreprocessing]:
    """Load a BLIP for retrieval with its image processor and tokenizer.

    Raises:
        CheckpointError: one of the three is missing or damaged, or they do not fit together.
    """
    model = load_hub_model(BlipForImageTextRetrieval, name_or_folder, dtype=torch.float32)
    processor = load_part(AutoImageProcessor, name_or_folder, what="image processor")
    tokenizer = load_part(WholeTokenizer, name_or_folder, what="tokenizer")
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise CheckpointError(
            f"{name_or_folder} has a tokenizer of {len(tokenizer)} entries and a model of "
            f"{model.config.text_config.vocab_size}; save the tokenizer that the model was trained with beside it"
        )
    side, expected = image_side(processor), model.config.vision_config.image_size
    if side != expected:
        raise CheckpointError(
            f"{name_or_folder} has an image processor of {side} px and a model of {expected}; set its size to that"
        )
    longest = min(int(model.config.text_config.max_position_embeddings), tokenizer.model_max_length)
    transform = TransformConfig(size=side, normalisation="encoder")
    own = Path(name_or_folder, PREPROCESSING_FILE)
    clean = own.is_file() and bool(json.loads(own.read_text(encoding="utf-8")).get("clean"))
    preprocessing = BlipPreprocessing(processor, tokenizer, longest, transform, clean=clean)
    return BlipFusionModel(model.eval(), start_of(tokenizer)), preprocessing
