"""The configuration of an ALBEF model, and its named sizes."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from transformers import PretrainedConfig
from transformers.activations import ACT2FN

from truepair.errors import ConfigError, nearest
from truepair.models.encoders.base import require_known_fields
from truepair.settings import Within, check_types

_VIT_BASE: dict[str, Any] = {
    "model_type": "vit",
    "image_size": 256,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-6,
}

SIZES: Mapping[str, Mapping[str, Any]] = {
    # From scratch on a laptop: about 5 M parameters with a vocabulary of 30,522.
    "tiny": {
        "image_encoder": {
            "model_type": "vit",
            "image_size": 64,
            "patch_size": 8,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "layer_norm_eps": 1e-6,
        },
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "text_layers": 2,
        "fusion_layers": 2,
        "max_position_embeddings": 128,
        "embed_dim": 128,
    },
    # ViT-S/16 at 224 px, and text and fusion of the width of MiniLM.
    "small": {
        "image_encoder": {
            "model_type": "vit",
            "image_size": 224,
            "patch_size": 16,
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "layer_norm_eps": 1e-6,
        },
        "hidden_size": 384,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "text_layers": 3,
        "fusion_layers": 3,
        "embed_dim": 256,
    },
    # ALBEF, GRIT-VLP and MAFA: ViT-B/16 at 256 px, BERT-base as 6 text and 6 fusion layers.
    "base": {"image_encoder": _VIT_BASE},
}


_BOUNDS: Mapping[tuple[str, ...], Within] = {
    (
        "vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "text_layers", "fusion_layers",
        "max_position_embeddings", "type_vocab_size", "embed_dim", "projection_hidden_size",
    ): Within(1),
    (
        "hidden_dropout_prob", "attention_probs_dropout_prob", "projection_dropout", "projection_input_dropout",
    ): Within(0, 1, below=True),
    ("layer_norm_eps", "initializer_range"): Within(0),
}  # fmt: skip


class AlbefConfig(PretrainedConfig):
    """Sizes and options of `AlbefModel`. The defaults are the published base model (ALBEF, NeurIPS 2021).

    The text encoder is the first `text_layers` layers of a BERT; the fusion encoder is the next `fusion_layers` layers
    of the same BERT, with cross-attention to image states. So both share one width and one number of heads.

    Raises:
        ConfigError: when fields contradict each other.
    """

    model_type: ClassVar[str] = "truepair-albef"

    image_encoder: dict[str, Any] = dataclasses.field(default_factory=lambda: dict(SIZES["base"]["image_encoder"]))
    """`model_type` and the fields of that image encoder (see `build_image_encoder`); by default ViT-B/16 at 256 px."""
    vocab_size: int = 30522
    hidden_size: int = 768
    """Width of text and fusion states."""
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    text_layers: int = 6
    fusion_layers: int = 6
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    embed_dim: int = 256
    """Width of the image and text features that ITC compares."""
    image_pooling: str = "cls"
    """What a feature is made of: "cls" (the first state) or "mean" (the mean of all states)."""
    text_pooling: str = "cls"
    """As `image_pooling`; the mean is over the tokens of the attention mask."""
    projection: str = "linear"
    """From pooled state to feature: "linear" (published) or "mlp" (linear, GELU, dropout, linear)."""
    projection_hidden_size: int | None = None
    """Hidden width of the "mlp" projection; None means `hidden_size`."""
    projection_dropout: float | None = None
    """Dropout within the "mlp" projection; None means `hidden_dropout_prob`."""
    projection_input_dropout: float = 0.0
    """Dropout before the "mlp" projection: what few data need most where the encoders are frozen."""
    contrastive_head: bool = True
    """False leaves out projections and temperature: a judge that only reads pairs."""
    mlm_head: bool = True
    """False leaves out the vocabulary head."""
    itm_product: bool = False
    """Give the ITM head the elementwise product of the two features as well (needs `contrastive_head`)."""
    region_products: bool = False
    """Tell the fusion encoder which image regions ITC finds like each word (needs `contrastive_head`, mean pooling)."""
    temperature_init: float = 0.07
    temperature_min: float = 0.001
    temperature_max: float = 0.5
    tie_word_embeddings: bool = True
    """The vocabulary head shares its matrix with the word embeddings, as in BERT."""
    itm_trained: bool = True
    """False where no step has trained the ITM head: its word counts for nothing, and pairs are ranked by similarity."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        for name, value, choices in (
            ("image_pooling", self.image_pooling, ("cls", "mean")),
            ("text_pooling", self.text_pooling, ("cls", "mean")),
            ("projection", self.projection, ("linear", "mlp")),
        ):
            if value not in choices:
                raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(choices)}.")
        for kind in self._own_classes():
            check_types({name: getattr(self, name) for name in kind.__annotations__}, kind, "the model")
        for names, bounds in _BOUNDS.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and not bounds.holds(value):
                    raise ConfigError(f"{name} is {value}; give {bounds.words}")
        if self.hidden_act not in ACT2FN:
            raise ConfigError(f"hidden_act is {self.hidden_act!r}{nearest(self.hidden_act, ACT2FN)}; give one as gelu")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ConfigError(f"pad_token_id is {self.pad_token_id}; give one of the {self.vocab_size} tokens")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )
        if self.projection == "linear" and (self.projection_input_dropout or self.projection_dropout is not None):
            raise ConfigError('projection_dropout and projection_input_dropout are for projection "mlp": set it.')
        if self.itm_product and not self.contrastive_head:
            raise ConfigError("itm_product needs the features: set contrastive_head to true.")
        if self.region_products and not (self.contrastive_head and self.image_pooling == self.text_pooling == "mean"):
            raise ConfigError(
                "region_products compares single states by ITC: set contrastive_head to true, and image_pooling and "
                'text_pooling to "mean".'
            )
        if not 0 < self.temperature_min <= self.temperature_init <= self.temperature_max:
            raise ConfigError("temperatures must keep 0 < temperature_min <= temperature_init <= temperature_max.")

    @classmethod
    def _own_classes(cls) -> list[type]:
        """This class and those below it that state fields of a model, the lowest first."""
        return [kind for kind in reversed(cls.__mro__) if issubclass(kind, AlbefConfig)]

    @classmethod
    def of_size(cls, size: str, **overrides: Any) -> Self:
        """The config of a named size, with some fields replaced.

        Args:
            size: "tiny", "small" or "base".
            **overrides: Fields of this class.

        Raises:
            ConfigError: for a size or a field that does not exist, naming the nearest one that does.
        """
        if size not in SIZES:
            raise ConfigError(f"there is no model size '{size}'{nearest(size, SIZES)}; give {', '.join(SIZES)}")
        own = [name for kind in cls._own_classes() for name in kind.__annotations__ if name != "model_type"]
        require_known_fields(overrides, own, "the model")
        return cls(**{**copy.deepcopy(dict(SIZES[size])), **overrides})

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        """A model to train from scratch on a laptop: ViT with 64 px images, 2 text and 2 fusion layers, width 128."""
        return cls.of_size("tiny", **overrides)

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """ViT-S/16 at 224 px, 3 text and 3 fusion layers of width 384 (that of MiniLM-L6)."""
        return cls.of_size("small", **overrides)

    @classmethod
    def base(cls, **overrides: Any) -> Self:
        """The published size: ViT-B/16 at 256 px, BERT-base as 6 text and 6 fusion layers."""
        return cls.of_size("base", **overrides)
