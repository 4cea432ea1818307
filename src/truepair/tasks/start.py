"""What fine-tuning starts from, and where the states of its batches come from."""

from collections.abc import Callable, Container, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from truepair.data.pairs import PairDataset
from truepair.data.preprocessing import OwnPreprocessing, Preprocessing
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform, TransformConfig
from truepair.engine.logs.progress import counting
from truepair.engine.loop.config import LoopConfig
from truepair.errors import ConfigError, DataError
from truepair.methods.caches import cache_folder, text_states
from truepair.methods.student import seed_weights
from truepair.models.encoders.base import ImageEncoder
from truepair.models.encoders.frozen_captions import CaptionStates
from truepair.models.encoders.frozen_images import ImageStates, cache_image_states
from truepair.models.encoders.images import image_transform, resize_images
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.blip2_language import Blip2LanguageModel
from truepair.models.fusion.downstream import DownstreamModel
from truepair.models.open import blip2_stage, open_own
from truepair.settings import PartShare, Positive, check_settings

TaskModel = DownstreamModel | Blip2LanguageModel
"""What tasks train: it has image_encoder and text_encoder, image_states and text_states, and a loss of its own."""


@dataclass(frozen=True, kw_only=True)
class LanguageLora:
    """How a language model that rests is adapted.

    Attributes:
        rank: width of the two matrices beside each layer.
        alpha: what they add is multiplied by ``alpha / rank``.
        dropout: dropout before them, in training.
        targets: endings of the names of the linear layers that get them, such as q_proj and v_proj; all but the head
            when absent.
    """

    rank: Positive = 16
    alpha: Positive = 32
    dropout: PartShare = 0.0
    targets: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """The language model that goes on from what the queries of a BLIP-2 saw.

    Attributes:
        checkpoint: folder or hub name of a language model that only decodes (OPT, GPT-2, Llama, Qwen, ...), which is
            joined to a BLIP-2 of the first stage; absent where ``model.checkpoint`` has one.
        options: in its place, ``model_type`` and fields of one that starts from random weights (gpt2, say), with a
            tokenizer that is trained on the training texts.
        vocab_size: most entries of that tokenizer.
        freeze: leave the language model as it is, without dropout; false trains it as well.
        prompt: what is read before each caption, and not learned, such as "a photo of"; that of the checkpoint when
            absent.
        lora: adapt a language model that rests; it is saved with the adapter added to its weights.
    """

    checkpoint: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    vocab_size: Positive = 4096
    freeze: bool = True
    prompt: str | None = None
    lora: LanguageLora | None = None

    def __post_init__(self) -> None:
        check_settings(self, "model.language")
        if self.checkpoint and self.options:
            raise ConfigError("model.language.checkpoint and model.language.options both give a language model")
        if self.lora is not None and not self.freeze:
            raise ConfigError(
                "model.language.lora adapts a language model that rests, and model.language.freeze is false; drop one "
                "of both"
            )
        if self.options and self.freeze:
            raise ConfigError(
                "model.language.options makes a language model of random weights, which writes nothing while it rests; "
                "set model.language.freeze to false"
            )


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """What fine-tuning starts from, and which parts of it move.

    Attributes:
        checkpoint: the ``model`` folder of a pre-training run, the name of such a model, or a checkpoint file of ALBEF,
            GRIT-VLP or MAFA. For what a language model can write, also a BLIP-2, of the first stage or a whole one.
        language: the language model of a BLIP-2.
        fresh: take only the two encoders of the checkpoint; what reads both starts from random weights. For comparison:
            does pre-training help?
        options: further fields of the task's model, such as ``token_products``.
        max_length: most tokens of a text; as in pre-training when absent.
        transform: image size and augmentation; as in pre-training when absent. Position embeddings are interpolated to
            another size.
        freeze_image: do not train the image encoder.
        freeze_text: do not train the text encoder.
        cache_images: compute the frozen image encoder's states once, of unaugmented images, and train on them.
        cache_texts: compute the frozen text encoder's states once per distinct text, and train on them.
        cache_folder: where caches are kept; a folder of the user's cache when absent.
        cache_check: whether a picture has changed since its states were computed is told by "times", name, size and
            time of change of its file, or by all its "bytes", which are then read each time.
    """

    checkpoint: str = ""
    language: LanguageConfig | None = None
    fresh: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    max_length: Positive | None = None
    transform: TransformConfig | None = None
    freeze_image: bool = False
    freeze_text: bool = False
    cache_images: bool = False
    cache_texts: bool = False
    cache_folder: str | None = None
    cache_check: Literal["times", "bytes"] = "times"

    def __post_init__(self) -> None:
        if self.cache_images and not self.freeze_image:
            raise ConfigError("model.cache_images needs model.freeze_image: states of a moving encoder go stale")
        if self.cache_texts and not self.freeze_text:
            raise ConfigError("model.cache_texts needs model.freeze_text: states of a moving encoder go stale")


@dataclass(frozen=True)
class Start:
    """A pre-trained model as fine-tuning begins with it.

    Attributes:
        albef: the model, for images of the task's size.
        preprocessing: its tokenization, and the task's transform.
    """

    albef: AlbefModel
    preprocessing: OwnPreprocessing


def load_start(config: StartConfig, seed: int, say: Callable[[str], None]) -> Start:
    """Load the model that a recipe starts from.

    Args:
        config: what to start from.
        seed: seed of the run; the global generator is set from it, for all weights that start fresh.
        say: prints a line.

    Raises:
        ConfigError: the recipe names no checkpoint.
        CheckpointError: it cannot be loaded.
    """
    if not config.checkpoint:
        raise ConfigError("model.checkpoint names nothing to start from; give the 'model' folder of a pre-training run")
    if blip2_stage(config.checkpoint):
        raise ConfigError(f"{config.checkpoint} is a BLIP-2, and this task is trained from an ALBEF; give one of these")
    if config.language is not None:
        raise ConfigError(f"model.language is for a BLIP-2, and {config.checkpoint} is none; leave it out")
    albef, preprocessing = open_own(config.checkpoint, say)
    transform = config.transform or preprocessing.transform
    seed_weights(seed)
    if config.fresh:
        fresh = AlbefModel(albef.config)
        fresh.image_encoder.load_state_dict(albef.image_encoder.state_dict())
        fresh.text_encoder.load_state_dict(albef.text_encoder.state_dict())
        albef = fresh
    if transform.size != preprocessing.transform.size:
        before = albef.image_encoder.image_size
        resize_images(albef, transform.size)
        if albef.image_encoder.image_size != before:
            say(f"{config.checkpoint}: position embeddings are interpolated from {before} to {transform.size} px")
    length = config.max_length or preprocessing.max_length
    if length > albef.config.max_position_embeddings:
        raise ConfigError(f"model.max_length is {length}, but the model reads {albef.config.max_position_embeddings}")
    return Start(albef, replace(preprocessing, transform=transform, max_length=length))


class TaskBatch(Protocol):
    """What is read of a batch of a downstream task."""

    @property
    def pixel_values(self) -> Tensor | None:
        """Images [I, 3, H, W]."""
        ...

    @property
    def image_index(self) -> Tensor:
        """Rows of the images in the task's table [I]."""
        ...

    @property
    def input_ids(self) -> Tensor:
        """Tokens [B, L]."""
        ...

    @property
    def attention_mask(self) -> Tensor:
        """1 for tokens and 0 for padding [B, L]."""
        ...

    @property
    def texts(self) -> list[str]:
        """Questions or statements [B]."""
        ...


class States(nn.Module):
    """States of a batch, so that what is frozen runs without gradient and dropout, or not at all.

    Args:
        freeze_image: the image encoder is not trained.
        freeze_text: the text encoder is not trained.
        images: states of the images of the task's table.
        texts: states of its texts.
    """

    def __init__(
        self,
        *,
        freeze_image: bool = False,
        freeze_text: bool = False,
        images: ImageStates | None = None,
        texts: CaptionStates | None = None,
    ) -> None:
        super().__init__()
        self.freeze_image = freeze_image
        self.freeze_text = freeze_text
        self.images = images
        self.texts = texts

    def freeze(self, model: TaskModel) -> None:
        """Leave what is frozen out of training; whether a language model rests is its own to say."""
        model.image_encoder.requires_grad_(not self.freeze_image)
        if self.freeze_text:
            model.text_encoder.requires_grad_(False)

    def forward(self, model: TaskModel, batch: Any) -> tuple[Tensor, Tensor]:
        """Image states [I, N, W] and text states [B, L, D] of a `TaskBatch`."""
        return self.images_of(model, batch), self._texts(model, batch)

    def images_of(self, model: TaskModel, batch: TaskBatch) -> Tensor:
        """Image states [I, N, W] of a batch."""
        if self.images is not None:
            return self.images[batch.image_index].to(batch.input_ids.device)
        assert batch.pixel_values is not None, "without a cache, the dataset must deliver pixels"
        if not self.freeze_image:
            return model.image_states(batch.pixel_values)
        model.image_encoder.eval()  # the loop's train() would switch the dropout of the frozen layers on again
        with torch.no_grad():
            return model.image_states(batch.pixel_values)

    def _texts(self, model: TaskModel, batch: TaskBatch) -> Tensor:
        if self.texts is not None:
            return self.texts.gather(batch.texts)[0].to(batch.input_ids.device)
        if not self.freeze_text:
            return model.text_states(batch.input_ids, batch.attention_mask)
        model.text_encoder.eval()
        with torch.no_grad():
            return model.text_states(batch.input_ids, batch.attention_mask)


def task_transform(preprocessing: Preprocessing, model: TaskModel, *, train: bool) -> ImageTransform:
    """From an image to pixels; a model of ours normalises them as its image encoder expects it."""
    if isinstance(preprocessing, OwnPreprocessing):
        return image_transform(preprocessing.transform, cast(ImageEncoder, model.image_encoder), train=train)
    return preprocessing.images(train=train)


def task_states(
    config: StartConfig,
    preprocessing: Preprocessing,
    model: TaskModel,
    images: PairTable,
    texts: Iterable[str],
    loop: LoopConfig,
    unreadable: Container[int] = (),
) -> States:
    """States of a task's images and texts, from caches where the recipe asks for them.

    Args:
        config: asks for them.
        preprocessing: tokenization and images.
        model: the encoders.
        images: of the task.
        texts: of the task.
        loop: says who reads the images.
        unreadable: rows of images that no text is about.

    Raises:
        DataError: another image cannot be read.
    """
    encode = preprocessing.collator().encode
    return States(
        freeze_image=config.freeze_image,
        freeze_text=config.freeze_text,
        images=_image_states(config, preprocessing, model, images, loop, unreadable) if config.cache_images else None,
        texts=text_states(model.text_encoder, texts, encode, config.cache_folder) if config.cache_texts else None,
    )


def _image_states(
    config: StartConfig,
    preprocessing: Preprocessing,
    model: TaskModel,
    table: PairTable,
    loop: LoopConfig,
    unreadable: Container[int],
) -> ImageStates:
    dataset = PairDataset(table, task_transform(preprocessing, model, train=False), captions="first")
    own = preprocessing if isinstance(preprocessing, OwnPreprocessing) else None
    with counting(f"image states of {table.name}") as progress:
        states = cache_image_states(
            model.image_encoder,
            dataset,
            cache_folder(config.cache_folder),
            preprocessing=preprocessing.image_settings() if own is None else asdict(own.transform),
            workers=loop.workers,
            timeout=loop.data_timeout,
            progress=progress,
            check=config.cache_check,
        )
    for row, reason in states.unreadable.items():
        if row in unreadable:
            continue
        raise DataError(f"image {row} of {table.name} cannot be read: {reason}; repair or remove what asks for it")
    return states
