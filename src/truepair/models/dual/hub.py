"""Any transformers model with image and text features (CLIP, SigLIP, ...) as a dual encoder of this package."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel

from truepair.data.tokens import WholeTokenizer
from truepair.data.transforms import TransformConfig
from truepair.errors import CheckpointError, ConfigError
from truepair.models.checkpoints.load import load_hub_model, load_part
from truepair.models.dual.adapter import base_of, has_adapter, insert_like, is_adapter, load_adapter, save_adapter
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.hub_preprocessing import HubPreprocessing, image_side
from truepair.models.dual.patches import unpack_patches

_COMPOSED = "vision-text-dual-encoder"

# Kinds of models that compare a feature of an image with one of a text, and do nothing else. Not AIMv2: transformers
# (5.24) lets its text model look ahead where no caption of a batch is padded, so features depend on the batch.
_KINDS = (
    "align",
    "altclip",
    "chinese_clip",
    "clip",
    "metaclip_2",
    "siglip",
    "siglip2",
    "tipsv2",
    _COMPOSED,
)

# CLIP (Radford et al. 2021) keeps logits from being scaled by more than 100; open_clip keeps them from being shrunk.
_LOG_SCALES = (0.0, math.log(100))

# Trained on captions padded to full length, without a mask; their feature is read at the last place, padding or not.
_FULL_LENGTH = ("siglip", "siglip2")

# Text models whose states look back alone, and whose feature is read at the end token: no state that counts sees the
# padding behind it. Without a mask torch takes its fastest attention, and no GPU is asked whether there is padding.
_LOOKING_BACK = ("clip_text_model", "metaclip_2_text_model")

# Take the state of [CLS] from their text model, pooled or not.
_FIRST_STATE = ("align", "altclip", "chinese_clip")

# Trained on captions of so many tokens, fewer than it has positions for (Jia et al. 2021, section 5).
_TRAINED_LENGTHS = {"align": 64}

# Published without the parameter of the temperature.
_MAY_LACK = {"temperature"}


class HubDualEncoder(DualEncoder):
    """A transformers model that is trained and saved as what it is: its class, its parameters, its own format.

    A tower is the model's own with its pooling, whatever that is ([CLS], the end token, an attention head). Its states
    are the pooled state alone [B, 1, W], since the last hidden states would not always do to make it: CLIP finds the
    end token by its id, SigLIP pools by attention. That also makes a cache of frozen states as small as it can be.

    Args:
        model: One of CLIP, SigLIP (2), MetaCLIP 2, ChineseCLIP, AltCLIP, ALIGN, TIPSv2, or a
            `VisionTextDualEncoderModel`.

    Raises:
        ConfigError: the model is not such a one.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        kind = model.config.model_type
        if kind not in _KINDS:
            raise ConfigError(_no_dual_encoder(kind))
        self.model = model
        name = str(model.name_or_path)
        self.origin = str(Path(name).resolve()) if name and Path(name).exists() else name

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
        config = load_part(AutoConfig, whole)
        if config.model_type not in _KINDS:
            raise ConfigError(f"{whole}: {_no_dual_encoder(config.model_type)}")
        model = load_hub_model(AutoModel, whole, may_lack=_MAY_LACK, dtype=torch.float32, **options)
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
    def kind(self) -> str:
        """The model's class in transformers."""
        return type(self.model).__name__

    @property
    def inner(self) -> PreTrainedModel:
        """The transformers model."""
        model: PreTrainedModel = self.model
        return model

    def blank(self) -> Self:
        """A model of the same kind and sizes with other weights, for those of this one to be loaded into."""
        model = type(self.model)(self.model.config)
        insert_like(model, self.model)
        return type(self)(model)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any]) -> None:
        """Let the backward pass of the trained towers recompute what the forward pass made, instead of keeping it.

        Raises:
            ValueError: a tower cannot do that.
        """
        for tower in (self.model.vision_model, self.model.text_model):
            if not any(weight.requires_grad for weight in tower.parameters()):
                continue
            if hasattr(tower, "activation_checkpointing_enable"):  # the newer name
                tower.activation_checkpointing_enable(activation_checkpointing_kwargs=gradient_checkpointing_kwargs)
            else:
                tower.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs)

    @property
    def longest_text(self) -> int:
        """Most tokens of a text that it has positions for, or was trained on."""
        config = self.model.config
        # RoBERTa's positions, and those of its like, start behind that of the padding.
        tables = (part for name, part in self.model.text_model.named_modules() if name.endswith("position_embeddings"))
        padding = next((table.padding_idx for table in tables if isinstance(table, nn.Embedding)), None)
        positions = int(config.text_config.max_position_embeddings) - (0 if padding is None else padding + 1)
        return min(positions, _TRAINED_LENGTHS.get(config.model_type, positions))

    @property
    def image_tower(self) -> nn.Module:
        """The image tower with its pooling: images [B, 3, H, W], or SigLIP 2's packed patches, to [B, 1, W]."""
        return _ImageTower(self.model.vision_model, packed=self.model.config.model_type == "siglip2")

    @property
    def text_tower(self) -> nn.Module:
        """The text tower with its pooling: token ids and mask, both [B, L], to [B, 1, D]; padding stands behind."""
        kind, text = self.model.config.model_type, self.model.config.text_config.model_type
        masked = kind not in _FULL_LENGTH and text not in _LOOKING_BACK
        return _TextTower(self.model.text_model, masked=masked, first=kind in _FIRST_STATE)

    def project_image(self, states: Tensor) -> Tensor:
        """Pooled image states [B, 1, W] to L2-normalised features [B, E]."""
        return _projected(getattr(self.model, "visual_projection", None), states)

    def project_text(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled text states [B, 1, D] to L2-normalised features [B, E]; the mask is not needed any more."""
        return _projected(getattr(self.model, "text_projection", None), states)

    @property
    def embed_dim(self) -> int:
        """E, the width of a feature."""
        config = self.model.config
        projected = hasattr(self.model, "text_projection")
        return int(config.projection_dim if projected else config.vision_config.hidden_size)

    @property
    def temperature(self) -> Tensor:
        """What similarities are divided by, a scalar: 1 / exp(logit_scale), or ALIGN's and TIPSv2's own parameter."""
        if not self._has_scale:
            own: Tensor = self.model.temperature
            return own.reshape(())
        scale: Tensor = self.model.logit_scale
        return (-scale).exp().reshape(())

    @property
    def bias(self) -> Tensor | None:
        """SigLIP's logit bias, a scalar; None for models without."""
        bias: Tensor | None = getattr(self.model, "logit_bias", None)
        return None if bias is None else bias.reshape(())

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Keep what logits are scaled by within 1 and 100, as CLIP does; SigLIP, whose own is above, has no bounds.

        A scale that is not trained stays what it is.
        """
        if not self._has_scale:
            if self.model.temperature.requires_grad:
                self.model.temperature.clamp_(*(math.exp(-scale) for scale in reversed(_LOG_SCALES)))
        elif self.bias is None and self.model.logit_scale.requires_grad:
            self.model.logit_scale.clamp_(*_LOG_SCALES)

    @property
    def _has_scale(self) -> bool:
        return hasattr(self.model, "logit_scale")


def open_hub(name_or_folder: str | Path) -> tuple[HubDualEncoder, HubPreprocessing]:
    """Load a transformers model, its image processor and its tokenizer; code that comes with them is never run.

    Raises:
        CheckpointError: one of the three is missing or damaged, or they do not fit together.
        ConfigError: the model is no dual encoder, or its images have no common size.
    """
    name = str(name_or_folder)
    model = HubDualEncoder.from_pretrained(name).eval()
    return model, open_hub_preprocessing(model, name)


def open_hub_preprocessing(model: HubDualEncoder, name: str) -> HubPreprocessing:
    """Load the image processor and the tokenizer of a model.

    The longest caption is the tokenizer's, where it says one that the model has positions for.

    Args:
        model: In evaluation mode.
        name: The folder or hub name of both.

    Raises:
        CheckpointError: one of the two is missing or damaged, or does not fit the model.
        ConfigError: the model's images have no common size.
    """
    config = model.model.config
    # A composed model's old processors do not say what they are; its image tower does.
    of_images = config.vision_config if config.model_type == _COMPOSED else config
    processor = load_part(AutoImageProcessor, name, what="image processor", config=of_images)
    tokenizer = load_part(WholeTokenizer, name, what="tokenizer")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up where there is none
        raise CheckpointError(f"{name} has no tokenizer; save the one that the model was trained with beside it")
    if len(tokenizer) > config.text_config.vocab_size:
        raise CheckpointError(
            f"{name} has a tokenizer of {len(tokenizer)} entries and a model of {config.text_config.vocab_size}; "
            "save the tokenizer that the model was trained with beside it"
        )
    longest = min(model.longest_text, tokenizer.model_max_length)
    transform = TransformConfig(size=image_side(processor), normalisation="encoder")
    preprocessing = HubPreprocessing(processor, tokenizer, longest, transform, config.model_type in _FULL_LENGTH)
    _check_fit(name, model, preprocessing)
    return preprocessing


def _no_dual_encoder(kind: str) -> str:
    return f"a model of kind '{kind}' is no plain dual encoder; give one of {', '.join(_KINDS)}"


@torch.inference_mode()
def _check_fit(name: str, model: HubDualEncoder, preprocessing: HubPreprocessing) -> None:
    """Encode a grey image and a caption of one word.

    Raises:
        CheckpointError: the model does not read what the processor or the tokenizer makes.
    """
    try:
        model.encode_images(preprocessing.images()(Image.new("RGB", (60, 40), "grey"))[None])
        model.encode_texts(*preprocessing.collator().encode(["a"]))
    except (ValueError, RuntimeError, IndexError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{name} has a processor or a tokenizer that is not its model's ({reason})") from error


class _ImageTower(nn.Module):
    """A vision model that returns its pooled state [B, 1, W].

    Args:
        model: The vision model.
        packed: Whether it reads patches of images of any shape.
    """

    def __init__(self, model: nn.Module, packed: bool) -> None:
        super().__init__()
        self.model = model
        self.packed = packed
        self.training = model.training  # not of its parts: some may be frozen

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W], or packed patches [B, 1 + P, D], to [B, 1, W]."""
        if self.packed:
            return _pooled(self.model(**unpack_patches(pixel_values)._asdict()))
        return _pooled(self.model(pixel_values=pixel_values))


class _TextTower(nn.Module):
    """A text model that returns its pooled state [B, 1, D].

    Args:
        model: The text model.
        masked: Whether it is given a mask; otherwise it reads the padding too, or has it behind all that it reads.
        first: Whether the state of the first token is taken instead of what the model pools.
    """

    def __init__(self, model: nn.Module, masked: bool, first: bool) -> None:
        super().__init__()
        self.model = model
        self.masked = masked
        self.first = first
        self.training = model.training  # not of its parts: some may be frozen

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (1 = token, 0 = padding), both [B, L], to [B, 1, D]."""
        output = self.model(input_ids=input_ids, **({"attention_mask": attention_mask} if self.masked else {}))
        return output.last_hidden_state[:, :1] if self.first else _pooled(output)


def _pooled(output: Any) -> Tensor:
    """What a tower pools, [B, 1, W]."""
    pooled: Tensor = output.pooler_output
    return pooled[:, None]


def _projected(projection: nn.Module | None, states: Tensor) -> Tensor:
    """The model's projection of pooled states [B, 1, W], normalised [B, E]; some have none behind their pooling."""
    pooled = states[:, 0]
    return F.normalize(pooled if projection is None else projection(pooled), dim=-1)
