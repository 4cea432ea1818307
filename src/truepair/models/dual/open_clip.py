"""Any model of open_clip (CLIP, SigLIP, CoCa, ...) as a dual encoder of this package, read and saved in its format."""

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from truepair.data.preprocessing import Preprocessing, own_length, own_pixels
from truepair.data.tokens import unknown_token, wordless_tokens
from truepair.data.transforms import ImageTransform, TransformConfig, build_transform
from truepair.errors import ConfigError
from truepair.models.dual.adapter import base_of, has_adapter, insert_like, is_adapter, load_adapter, save_adapter
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.open_clip_source import CONFIG_FILE, attempt, library, source_of

WEIGHTS_FILE = "open_clip_model.safetensors"

# Of a model whose config states none.
_CONTEXT_LENGTH = 77

# What open_clip's trainer keeps the logarithm of the scale in.
_LOG_SCALES = (0.0, math.log(100))


@dataclass(frozen=True)
class TextReading:
    """How many tokens of a row a text tower reads, and what it takes for padding.

    Attributes:
        context_length: tokens of a row as open_clip's tokenizers make it.
        end: "largest" or "eos": no further than the end token, which is the largest id or ``mark``, since states look
            back alone; "padding": what ``mark`` fills up is masked; "whole": all of it, padding too.
        mark: an id.
    """

    context_length: int
    end: Literal["largest", "eos", "padding", "whole"]
    mark: int = 0

    @property
    def fill(self) -> int:
        """The id that stands behind what is read."""
        return self.mark if self.end == "padding" else 0

    def lengths(self, ids: Tensor) -> Tensor:
        """How many tokens of each row [B, L] are read, [B] from 1 to L."""
        if self.end == "whole":
            return torch.full((len(ids),), ids.shape[1])
        if self.end == "padding":
            places = torch.arange(1, ids.shape[1] + 1)
            return torch.where(ids != self.mark, places, 1).amax(dim=1)
        return (ids if self.end == "largest" else (ids == self.mark).int()).argmax(dim=1) + 1


class OpenClipDualEncoder(DualEncoder):
    """A model of open_clip that is trained and saved as what it is: its class, its parameters, its own format.

    A tower is the model's own with its pooling, and hands out the pooled state alone [B, 1, W]. The projection of a
    ViT, of a text transformer or of a tower of transformers, and the linear or MLP head of a timm model, stand behind
    it. Three kinds of image tower project where they pool, so that nothing of them is trained when they are frozen:
    ResNets of CLIP, timm models with attention pools of open_clip's, and timm models without a head.

    A text transformer that only looks back is run no further than the longest caption of a batch: 77 tokens would give
    the same features. The caption decoder of a CoCa is kept and saved, but not trained.

    Args:
        model: A CLIP, CustomTextCLIP or CoCa as ``open_clip.create_model`` makes it.
        config: Its ``model_cfg``, as `CONFIG_FILE` states it.
    """

    def __init__(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.model: Any = model
        self.config = dict(config)
        self.training = model.training
        if hasattr(model, "text_decoder"):
            model.text_decoder.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, **options: Any) -> Self:
        """Load a model.

        Args:
            name_or_folder: A folder that `save_pretrained` or open_clip wrote, or a name, see `open_open_clip`. Of an
                adapter, the base is loaded as well, and the adapter stands in its layers.
            **options: Those of transformers, of which open_clip needs none: it reads safetensors first, anything else
                with ``weights_only``, and a folder without a network.

        Raises:
            CheckpointError: it is missing or damaged.
            ConfigError: open_clip does not know the name, or is not installed.
        """
        adapted = is_adapter(name_or_folder)
        source = source_of(base_of(name_or_folder) if adapted else str(name_or_folder))
        made = cls(source.load(), source.config())
        made.origin = source.origin
        if adapted:
            load_adapter(made.model, name_or_folder)
        return made

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write config and weights as open_clip does, which ``create_model("local-dir:FOLDER")`` reads.

        Of a model with an adapter, that is the adapter alone, as peft writes it.

        Args:
            folder: Where.
            state_dict: Weights of this module to write instead of its own, put together from several processes, say.
        """
        state = self.state_dict() if state_dict is None else state_dict
        weights = {name.removeprefix("model."): value.detach().cpu().contiguous() for name, value in state.items()}
        if has_adapter(self.model):
            save_adapter(self.model, folder, weights)
            return
        settings = {"model_cfg": self.config, "preprocess_cfg": self.model.visual.preprocess_cfg}
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, CONFIG_FILE).write_text(json.dumps(settings, indent=2), encoding="utf-8")
        save_file(weights, Path(folder, WEIGHTS_FILE))

    @property
    def kind(self) -> str:
        """The model's class in open_clip."""
        return f"{type(self.model).__name__} of open_clip"

    def blank(self) -> Self:
        """A model of the same kind and sizes with other weights."""
        settings = copy.deepcopy(self.config)
        settings.pop("custom_text", None)  # says which class it is
        settings["vision_cfg"]["timm_model_pretrained"] = settings["text_cfg"]["hf_model_pretrained"] = False
        model = type(self.model)(**settings)
        library().model.set_model_preprocess_cfg(model, self.model.visual.preprocess_cfg)
        insert_like(model, self.model)
        return type(self)(model, self.config)

    @property
    def inner(self) -> nn.Module:
        """The model of open_clip."""
        model: nn.Module = self.model
        return model

    @property
    def image_size(self) -> int:
        """Height and width of the images it reads, in pixels.

        Raises:
            ConfigError: they differ.
        """
        size = self.model.visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        if height != width:
            raise ConfigError(f"the model reads images of {height} x {width} pixels; give one that reads square ones")
        return int(height)

    @property
    def reading(self) -> TextReading:
        """How much of a row of tokens the text tower reads."""
        text = getattr(self.model, "text", self.model)
        length = int(self.config["text_cfg"].get("context_length", _CONTEXT_LENGTH))
        if hasattr(text, "pooler"):
            return TextReading(length, "padding", int(text.config.pad_token_id))
        looks_back = text.attn_mask is not None and getattr(text, "cls_emb", None) is None
        pool = text.text_pool_type if text is self.model else text.pool_type
        if looks_back and pool == "argmax":
            return TextReading(length, "largest")
        if looks_back and pool == "eos":
            return TextReading(length, "eos", int(text.text_eos_id if text is self.model else text.eos_id))
        return TextReading(length, "whole")

    @property
    def image_tower(self) -> nn.Module:
        """The image tower with its pooling: images [B, 3, H, W] to [B, 1, W]."""
        visual = self.model.visual
        others: dict[str, Any] = {"training": self.training and not self._image_frozen}
        others |= dict.fromkeys(("image_mean", "image_std"))  # of the preprocessing
        if hasattr(visual, "proj"):
            return _ImageTower(_view(visual, proj=None, output_tokens=False, **others))
        if self._image_projection is not None:
            return _ImageTower(_view(visual, head=nn.Identity(), **others))
        return _ImageTower(_view(visual, **others))

    @property
    def text_tower(self) -> nn.Module:
        """The text tower with its pooling: token ids and mask, both [B, L], to [B, 1, D]."""
        text = getattr(self.model, "text", self.model)
        others: dict[str, Any] = {"training": self.training and not self._text_frozen, "output_tokens": False}
        others |= {"proj": nn.Identity()} if hasattr(text, "pooler") else {"text_projection": None}
        return _TextTower(_text_of_clip(text, others) if text is self.model else _view(text, **others), self.reading)

    def project_image(self, states: Tensor) -> Tensor:
        """Pooled image states [B, 1, W] to L2-normalised features [B, E]."""
        return _projected(self._image_projection, states)

    def project_text(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Pooled text states [B, 1, D] to L2-normalised features [B, E]; the mask is not needed any more."""
        text = getattr(self.model, "text", self.model)
        return _projected(text.proj if hasattr(text, "pooler") else text.text_projection, states)

    @property
    def embed_dim(self) -> int:
        """E, the width of a feature."""
        return int(self.config["embed_dim"])

    @property
    def temperature(self) -> Tensor:
        """1 / exp(logit_scale), a scalar."""
        scale: Tensor = self.model.logit_scale
        return (-scale).exp().reshape(())

    @property
    def bias(self) -> Tensor | None:
        """SigLIP's logit bias, a scalar; None for models without."""
        bias: Tensor | None = self.model.logit_bias
        return None if bias is None else bias.reshape(())

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Keep exp(logit_scale) within 1 and 100, as open_clip does; SigLIP, whose own is above that, has no bounds.

        One that is not trained stays what it is.
        """
        if self.bias is None and self.model.logit_scale.requires_grad:
            self.model.logit_scale.clamp_(*_LOG_SCALES)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None) -> None:
        """Compute activations again in the backward pass.

        Args:
            gradient_checkpointing_kwargs: Those of transformers; open_clip has its own.

        Raises:
            ValueError: the image tower cannot.
        """
        visual = self.model.visual
        if hasattr(visual, "attnpool"):
            raise ValueError("a ResNet of open_clip cannot compute its activations again")
        self.model.set_grad_checkpointing()

    @property
    def _image_projection(self) -> nn.Module | Tensor | None:
        """What stands behind the pooling of the image tower."""
        visual = self.model.visual
        if hasattr(visual, "proj"):
            own: Tensor | None = visual.proj
            return own
        head: nn.Module | None = getattr(visual, "head", None)
        return None if head is None or hasattr(head, "pool") or not len(list(head.children())) else head


@dataclass(frozen=True)
class OpenClipPreprocessing(Preprocessing):
    """The tokenizer and the image transform that belong to a model of open_clip, and the augmentation of training.

    Attributes:
        tokenizer: of open_clip.
        reading: how much of a row of its tokens the model reads.
        max_length: most tokens of a caption.
        pixels: size, mean, std, interpolation and resize_mode, as open_clip's ``preprocess_cfg`` states them.
        text: the ``text_cfg`` of the model, on which the tokenizer depends.
        transform: augmentation, at the size, the normalisation and the interpolation of the model.
    """

    tokenizer: Any
    reading: TextReading
    max_length: int
    pixels: Mapping[str, Any]
    text: Mapping[str, Any]
    transform: TransformConfig

    @property
    def tokenization(self) -> "_OpenClipTokenization":
        """From captions to token ids."""
        return _OpenClipTokenization(self.tokenizer, self.reading, self.max_length)

    def images(self, *, train: bool = False) -> ImageTransform:
        """From an image to float32 [3, H, W]: augmented, or as open_clip evaluates it."""
        if train:
            statistics = tuple(self.pixels["mean"]), tuple(self.pixels["std"])
            return build_transform(self.transform, train=True, encoder_statistics=statistics)
        return ImageTransform(_evaluation_transform(self.pixels))

    def caption_settings(self) -> dict[str, Any]:
        """What the tokens of a caption depend on."""
        own = self.tokenizer.encoder if hasattr(self.tokenizer, "encoder") else self.tokenizer.tokenizer.get_vocab()
        return {"tokenizer": own, "text": self.text, "max_length": self.max_length}

    def image_settings(self, *, train: bool = False) -> dict[str, Any]:
        """What the pixels of an image depend on."""
        return {"pixels": self.pixels, **({"transform": asdict(self.transform)} if train else {})}

    def adapted(self, transform: TransformConfig, max_length: int) -> Self:
        """The same with the augmentation of a recipe, but the interpolation of the model, and captions cut shorter.

        Raises:
            ConfigError: the model does not read such pixels, so many tokens, or so few.
        """
        pixels, length = own_pixels(transform, self.transform.size), own_length(max_length, self.max_length)
        if self.reading.end == "whole" and length != self.reading.context_length:
            raise ConfigError(
                f"text.max_length is {length}, but the model reads captions that are padded to "
                f"{self.reading.context_length} tokens; set it to 0"
            )
        return replace(self, transform=replace(pixels, interpolation=self.transform.interpolation), max_length=length)

    def save(self, folder: Path) -> None:
        """Write the tokenizer beside the model, if it is not the one that open_clip has built in."""
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class _OpenClipTokenization:
    """A tokenizer of open_clip, without the padding that its model does not read."""

    tokenizer: Any
    reading: TextReading
    max_length: int

    @property
    def padding(self) -> int:
        """The id that fills up shorter captions."""
        return self.reading.fill

    @property
    def unknown(self) -> int | None:
        """The id of unknown words; open_clip's own tokenizer reads bytes, and knows all."""
        return None if hasattr(self.tokenizer, "encoder") else unknown_token(self.tokenizer.tokenizer)

    @property
    def special(self) -> frozenset[int]:
        """The ids of tokens that stand for no word."""
        if not hasattr(self.tokenizer, "encoder"):
            return wordless_tokens(self.tokenizer.tokenizer)
        return frozenset((self.tokenizer.sot_token_id, self.tokenizer.eot_token_id, self.reading.fill))

    def __call__(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption, with the padding that the model reads like other tokens."""
        ids = self.tokenizer(list(captions), context_length=self.max_length)  # [B, L]
        return [row[:length].tolist() for row, length in zip(ids, self.reading.lengths(ids).tolist(), strict=True)]

    def uncut(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption if it were neither cut nor padded."""
        if hasattr(self.tokenizer, "encoder"):  # open_clip's own, which cuts rows
            start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
            return [[start, *self.tokenizer.encode(caption), end] for caption in captions]
        texts = [self.tokenizer.clean_fn(caption) for caption in captions]
        ids: list[list[int]] = self.tokenizer.tokenizer(texts, verbose=False)["input_ids"]
        return ids

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has if it is neither cut nor padded."""
        return [len(tokens) for tokens in self.uncut(captions)]


def open_open_clip(name_or_folder: str | Path) -> tuple[OpenClipDualEncoder, OpenClipPreprocessing]:
    """Load a model of open_clip with its tokenizer; code that comes with them is never run.

    Args:
        name_or_folder: ``open_clip:NAME:TAG``; ``open_clip:NAME:FILE`` with a checkpoint, of open_clip's trainer, say;
            ``open_clip:NAME:random`` to train from scratch, where NAME may also be a JSON file of an architecture;
            ``hf-hub:ORG/NAME``; a folder with `CONFIG_FILE`, also as ``local-dir:FOLDER``.

    Raises:
        CheckpointError: it is missing or damaged.
        ConfigError: open_clip does not know the name, or is not installed.
    """
    source = source_of(str(name_or_folder))
    model = OpenClipDualEncoder.from_pretrained(name_or_folder)
    tokenizer = attempt(source.given, library().get_tokenizer, source.name)
    return model, preprocessing_of(model, tokenizer, source.name)


def preprocessing_of(model: OpenClipDualEncoder, tokenizer: Any, name: str) -> OpenClipPreprocessing:
    """How captions and images reach a model of open_clip.

    Args:
        model: With the ``preprocess_cfg`` of its images.
        tokenizer: Of open_clip.
        name: Of the model, for messages.

    Raises:
        ConfigError: the tokenizer cannot be saved beside the model.
    """
    if type(tokenizer).__name__ == "SigLipTokenizer":  # fetched by http, and not to be found again beside the model
        raise ConfigError(f"the config of {name} names no tokenizer; set hf_tokenizer_name in its text_cfg")
    pixels, text = model.model.visual.preprocess_cfg, model.config["text_cfg"]
    interpolation = "bilinear" if pixels["interpolation"] == "bilinear" else "bicubic"  # as open_clip takes "random"
    transform = TransformConfig(size=model.image_size, normalisation="encoder", interpolation=interpolation)
    length = model.reading.context_length
    return OpenClipPreprocessing(tokenizer, model.reading, length, pixels, text, transform)


def _evaluation_transform(pixels: Mapping[str, Any]) -> Callable[[Any], Tensor]:
    """Open_clip's own, from an image to float32 [3, H, W]."""
    module = library().transform
    made: Callable[[Any], Tensor] = module.image_transform_v2(module.PreprocessCfg(**pixels), is_train=False)
    return made


class _ImageTower(nn.Module):
    """An image model that returns its pooled state [B, 1, W]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # not of its parts: some may be frozen

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images [B, 3, H, W] to [B, 1, W]."""
        return _one_state(self.model(pixel_values))


class _TextTower(nn.Module):
    """A text model that returns its pooled state [B, 1, D].

    Args:
        model: From token ids [B, L] to states; a CLIP of open_clip, whose text tower has no module of its own, by
            ``encode_text``.
        reading: How much of a row it reads.
    """

    def __init__(self, model: Any, reading: TextReading) -> None:
        super().__init__()
        self.model = model
        self.reading = reading
        self.training = model.training  # not of its parts: some may be frozen

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (1 = token, 0 = padding), both [B, L], to [B, 1, D].

        Raises:
            ConfigError: the model reads padding, and that of the rows is missing.
        """
        length = input_ids.shape[1]
        if self.reading.end == "whole":
            if length != self.reading.context_length:
                raise ConfigError(
                    f"captions of {length} tokens for a model that reads {self.reading.context_length}, padding too; "
                    "take the tokens of its own preprocessing"
                )
            return _one_state(_text_features(self.model, input_ids))
        ids = input_ids.masked_fill(attention_mask == 0, self.reading.fill)
        if self.reading.end == "padding":
            return _one_state(_text_features(self.model, ids))
        shorter: dict[str, Any] = {"attn_mask": self.model.attn_mask[:length, :length]}
        shorter["positional_embedding"] = self.model.positional_embedding[:length]
        return _one_state(_text_features(_view(self.model, **shorter), ids))


def _text_features(model: Any, ids: Tensor) -> Tensor:
    """What a text model makes of token ids [B, L]: [B, D]."""
    made: Tensor = model.encode_text(ids) if hasattr(model, "encode_text") else model(ids)
    return made


def _text_of_clip(model: nn.Module, others: Mapping[str, Any]) -> Any:
    """A CLIP without all but its text tower, see `_view`; the modules stand in the order in which they are run."""
    text = _view(model, visual=None, logit_scale=None, logit_bias=None, **others)
    text.__dict__["_modules"] = {name: text._modules[name] for name in ("token_embedding", "transformer", "ln_final")}
    return text


def _view(module: nn.Module, **others: Any) -> Any:
    """A module that shares its parts with another one, but for some that it lacks or has others of.

    It is made anew for each use: the other module may get new parts, when it is moved or spread over processes, say.

    Args:
        module: Stays as it is.
        **others: Attributes, parameters or modules of the new one.
    """
    view = copy.copy(module)
    for kind in ("_parameters", "_buffers", "_modules"):
        view.__dict__[kind] = {n: part for n, part in module.__dict__[kind].items() if n not in others}
    for name, part in others.items():
        setattr(view, name, part)
    return view


def _one_state(pooled: Tensor) -> Tensor:
    """A pooled state [B, W], or what one query pools [B, 1, W], as [B, 1, W]."""
    return pooled if pooled.ndim == 3 else pooled[:, None]


def _projected(projection: nn.Module | Tensor | None, states: Tensor) -> Tensor:
    """A projection of pooled states [B, 1, W], if there is one behind the pooling, normalised [B, E]."""
    pooled = states[:, 0]
    if isinstance(projection, nn.Module):
        pooled = projection(pooled)
    elif projection is not None:
        pooled = pooled @ projection
    return F.normalize(pooled, dim=-1)
