"""Captioning: training on captions of pictures, writing them by beam search, and comparing them with people's."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from truepair.data.left_out import LeftOut
from truepair.data.preprocessing import OwnPreprocessing, Preprocessing
from truepair.data.splits import Tables
from truepair.data.tasks.captioning import (
    CaptionBatch,
    CaptionCollator,
    CaptionDataConfig,
    CaptionDataset,
    CaptionSample,
    CaptionTable,
    part_of_pictures,
)
from truepair.data.transforms import ImageTransform
from truepair.engine.logs.progress import counting
from truepair.engine.loop.config import LoopConfig
from truepair.errors import ConfigError, DataError
from truepair.evaluation.captioning import (
    CaptionFigures,
    java_is_there,
    missing_of_spice,
    most_frequent_caption,
    require_scorers,
    score_captions,
    score_spice,
    write_caption_results,
)
from truepair.files import as_json, write_json, write_text
from truepair.methods.student import Say
from truepair.methods.towers import TowerOptimizerConfig
from truepair.models.checkpoints.blip2_language import open_blip2_language
from truepair.models.checkpoints.load import load_model
from truepair.models.fusion.blip2_language import Blip2LanguageModel
from truepair.models.fusion.captioning import CaptionModel
from truepair.models.fusion.language_preprocessing import IMAGE_TOKEN, LanguagePreprocessing
from truepair.models.open import blip2_stage
from truepair.settings import Natural, Positive, Weight
from truepair.tasks.downstream import DownstreamTask, FigureTable, Split, finetune, listing_in
from truepair.tasks.language_start import load_language_start, writes
from truepair.tasks.retrieval import one_row_a_picture
from truepair.tasks.start import StartConfig, load_start

RESULTS = "captions.json"
"""File of the captions that were written, as COCO's evaluation takes them."""

SHOWN = "captions.jsonl"
"""... and with the file and the references of each picture, a line each."""


@dataclass(frozen=True, kw_only=True)
class CaptionRecipe:
    """Fine-tuning on captions of pictures.

    Attributes:
        data: where pictures and captions come from.
        model: what is started from, and which parts move.
        list_vocabulary: write with the tokens of the training captions alone; a vocabulary head of 30,522 tokens is
            saved.
        beams: beginnings of each caption that the beam search keeps.
        max_caption_length: most tokens of a caption that is written, its end included.
        min_caption_length: fewest tokens of a caption that is written, its end not counted.
        length_penalty: the power of its number of tokens that a caption's log-likelihood is divided by.
        batch_size: pictures captioned at once in evaluation.
        optimizer: how the weights move.
        loop: how long and how.
    """

    data: CaptionDataConfig = field(default_factory=CaptionDataConfig)
    model: StartConfig = field(default_factory=StartConfig)
    list_vocabulary: bool = False
    beams: Positive = 3
    max_caption_length: Positive = 20
    min_caption_length: Natural = 0
    length_penalty: Weight = 1.0
    batch_size: Positive = 32
    optimizer: TowerOptimizerConfig = field(default_factory=TowerOptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.model.cache_texts:
            raise ConfigError(
                "model.cache_texts keeps states that have seen the whole caption, and captioning reads from left to "
                "right; leave it out"
            )
        if self.min_caption_length >= self.max_caption_length:
            raise ConfigError(
                f"min_caption_length is {self.min_caption_length} and max_caption_length {self.max_caption_length}, "
                "which counts the end as well; give a larger one"
            )


@dataclass(frozen=True)
class CaptionResult:
    """How good the captions of the test pictures are.

    Attributes:
        pictures: how many are measured.
        references: captions that people gave them.
        scores: by who wrote the captions: "model", "nearest picture", "most frequent"; nobody, if none is measured.
        unmeasured: how many further pictures were captioned, which nobody has given a caption.
    """

    pictures: int
    references: int
    scores: dict[str, CaptionFigures]
    unmeasured: int = 0

    def table(self) -> FigureTable | None:
        """Figures times 100, as papers state them, of the model and of who does not write; None without figures."""
        if not self.scores:
            return None
        names = {name: None for one in self.scores.values() for name in one.figures}
        rows = [[_TITLES[name], *(f"{100 * one.figures[name]:.1f}" for one in self.scores.values())] for name in names]
        title = f"Captions: {self.pictures:,} pictures, {self.references:,} references"
        return FigureTable(title, ["figure x 100", *self.scores], rows)


_TITLES = {
    "cider_d": "CIDEr-D",
    **{f"bleu_{length}": f"BLEU-{length}" for length in range(1, 5)},
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "spice": "SPICE",
}


def finetune_captioning(recipe: CaptionRecipe, run_folder: Path, say: Say) -> CaptionResult | None:
    """Fine-tune on captions, and caption the test pictures with the model that is left; see `finetune`.

    Raises:
        TruepairError: anything in recipe, data or checkpoint that does not fit, in one line.
    """
    left_out = listing_in(run_folder, say)
    if recipe.model.checkpoint and blip2_stage(recipe.model.checkpoint):
        task: CaptionTask = LanguageCaptionTask.from_checkpoint(recipe, left_out)
    else:
        task = CaptionTask.from_checkpoint(recipe, left_out)
    return finetune(task, recipe, run_folder, say)


def evaluate_captioning(model_folder: Path, recipe: CaptionRecipe, folder: Path, say: Say) -> CaptionResult:
    """Caption the test pictures of a recipe with a trained model; files go to ``folder``.

    Raises:
        TruepairError: anything in recipe, data or model that does not fit, in one line.
    """
    left_out = listing_in(folder, say)
    if writes(model_folder):
        asked = None if recipe.model.language is None else recipe.model.language.prompt
        writer, read = open_blip2_language(model_folder)
        tables = _open(recipe, left_out, training=False)
        task: CaptionTask = LanguageCaptionTask(recipe, writer, read.prompted(asked), left_out, tables)
    else:
        model, preprocessing = load_model(CaptionModel, model_folder), OwnPreprocessing.load(model_folder)
        task = CaptionTask(recipe, model, preprocessing, left_out, _open(recipe, left_out, training=False))
    if not task.tests:
        raise DataError(
            "there are no test pictures; give --data.test FILE, with --data.sources null if that is all there is, or "
            "--data.test_split SPLIT"
        )
    return task.evaluate(folder)


def _open(recipe: CaptionRecipe, left_out: LeftOut, *, training: bool = True) -> Tables:
    """All pairs of a recipe by split; what is to be said of them is said."""
    try:
        tables = recipe.data.open(training=training)
    except DataError as error:
        if training or recipe.data.test is None or not str(error).startswith(("data.sources:", "data.train:")):
            raise
        raise DataError(
            f"{error}; training pictures are for the baselines: without these, give --data.sources null"
        ) from error
    if not training:
        tables = replace(tables, lacking="")  # nothing is chosen by validation, and no test pictures are an error
    for line in tables.describe():
        left_out.say(line)
    left_out.rows(tables.train)
    return tables


class CaptionTask(DownstreamTask[CaptionTable, str, CaptionResult]):
    """Captions of pictures, written by beam search.

    Args:
        recipe: as the user gave it.
        model: a decoder on a pre-trained checkpoint, or a trained model.
        preprocessing: tokenization and images.
        left_out: takes what is left out of the sources.
        tables: the pairs of the recipe.

    Raises:
        ConfigError: figures are asked for, and the package that computes them is not installed.
    """

    texts_name = "captions"
    recipe: CaptionRecipe
    model: CaptionModel | Blip2LanguageModel

    def __init__(
        self,
        recipe: CaptionRecipe,
        model: CaptionModel | Blip2LanguageModel,
        preprocessing: Preprocessing,
        left_out: LeftOut,
        tables: Tables,
    ) -> None:
        super().__init__(recipe, model, preprocessing, left_out)
        self._tables = tables
        self._require_room()
        if self.validates or (tables.test is not None and tables.test.caption_count):
            require_scorers()
        self._collate = CaptionCollator(self._encode())

    @classmethod
    def from_checkpoint(cls, recipe: CaptionRecipe, left_out: LeftOut) -> "CaptionTask":
        """Build the task's model on the checkpoint that the recipe names."""
        start = load_start(recipe.model, recipe.loop.seed, left_out.say)
        # A caption has to end, whatever the captions of pre-training did.
        preprocessing = replace(start.preprocessing, add_sep=True)
        tables, fields = _open(recipe, left_out), dict(recipe.model.options)
        if recipe.list_vocabulary:
            rows = preprocessing.tokenization(list(tables.train.captions()))
            fields["caption_tokens"] = sorted({token for row in rows for token in row})
        return cls(recipe, CaptionModel.from_albef(start.albef, **fields), preprocessing, left_out, tables)

    def _require_room(self) -> None:
        """Refuse captions that are longer than what the model reads.

        Raises:
            ConfigError: they are.
        """
        longest, wanted = cast(CaptionModel, self.model).config.max_position_embeddings, self.recipe.max_caption_length
        if wanted >= longest:
            raise ConfigError(f"max_caption_length is {wanted}, but the model reads {longest}")

    def _encode(self) -> Callable[[Sequence[str]], tuple[Tensor, ...]]:
        """What makes tokens of captions; see `CaptionCollator`."""
        return self.preprocessing.collator().encode

    @property
    def validates(self) -> bool:
        """Whether there are validation pictures."""
        return self._tables.validation is not None

    @property
    def tests(self) -> bool:
        """Whether there are test pictures."""
        return self._tables.test is not None

    def read(self, split: Split) -> CaptionTable:
        """The captions to train on, or the pictures of a split with their references; as many as the recipe wants."""
        pictures = one_row_a_picture(getattr(self._tables, split), self.left_out)
        part = part_of_pictures(pictures, getattr(self.recipe.data, f"{split}_pictures"))
        if len(part) < len(pictures):
            self.say(f"data.{split}_pictures: {len(part):,} of {len(pictures):,} pictures are taken, 0 takes all")
        return CaptionTable.of(part, training=split == "train")

    def texts(self, table: CaptionTable) -> list[str]:
        """The captions of a table."""
        return [caption for captions in table.rows["captions"] for caption in captions]

    def unread(self, table: CaptionTable) -> str:
        """What is said of the rows of a table whose picture cannot be read: captions, or the pictures themselves."""
        return super().unread(table) if table.training else "pictures cannot be read"

    def dataset(self, table: CaptionTable, transform: ImageTransform | None) -> CaptionDataset:
        """The rows of a table as samples."""
        return CaptionDataset(table, transform, seed=self.recipe.loop.seed)

    def collate(self, samples: Sequence[CaptionSample]) -> CaptionBatch:
        """Make a batch of captions."""
        return self._collate(samples)

    def answer(self, batch: CaptionBatch, images: Tensor, texts: Tensor) -> list[str]:
        """A caption of each of B pictures.

        Args:
            batch: The pictures.
            images: Image states [I, N, W].
            texts: Not read.
        """
        tokenizer, recipe = cast(OwnPreprocessing, self.preprocessing).tokenizer, self.recipe
        end = tokenizer.sep_token_id
        written = cast(CaptionModel, self.model).generate_captions(
            images,
            start=tokenizer.cls_token_id,
            end=end,
            beams=recipe.beams,
            max_length=recipe.max_caption_length,
            min_length=recipe.min_caption_length,
            length_penalty=recipe.length_penalty,
            banned=tuple(token for token in tokenizer.all_special_ids if token != end),
        )
        captions = [str(tokenizer.decode(row, skip_special_tokens=True)) for row in written]
        return [captions[place] for place in batch.image_rows.tolist()]

    def measure(self, answers: Sequence[str], table: CaptionTable) -> dict[str, float]:
        """CIDEr-D, BLEU and ROUGE-L; words are split without Java, which starts anew each time."""
        return dict(score_captions({"model": answers}, table.rows["captions"])["model"].figures)

    def report(self, answers: Sequence[str], table: CaptionTable, folder: Path) -> CaptionResult:
        """Write ``captions.json`` for COCO's evaluation, ``captions.jsonl`` to look at, and ``captioning.json``."""
        rows = list(table.rows["image"])
        ids = table.images.image_ids[rows].tolist()
        write_caption_results(dict(zip(ids, answers, strict=True)), folder / RESULTS)
        shown = zip(table.images.image_paths(rows), ids, answers, table.rows["captions"], strict=True)
        fields = ("image", "image_id", "caption", "references")
        lines = [as_json(dict(zip(fields, values, strict=True))) for values in shown]
        write_text(folder / SHOWN, "".join(f"{line}\n" for line in lines))
        data = self.recipe.data
        sources = next(given for given in (data.test, data.sources, data.train, []) if given is not None)
        hashed = "; its ids are hashed with the names of the sources, of which there are several"
        self.say(
            f"captions in {folder / RESULTS}, as COCO's evaluation takes them{hashed if len(sources) > 1 else ''}, and "
            f"beside their pictures in {folder / SHOWN}"
        )
        measured = [row for row, captions in enumerate(table.rows["captions"]) if captions]
        unmeasured = len(table) - len(measured)
        result = CaptionResult(0, 0, {}, unmeasured)
        if unmeasured:
            figures = f"figures are of the other {len(measured):,}" if measured else "so there are no figures"
            self.say(f"{unmeasured:,} of {len(table):,} pictures have no captions to compare with, {figures}")
        if measured:
            part = replace(table, rows=table.rows.select(measured))
            scores = self._scores([answers[row] for row in measured], part)
            result = replace(result, pictures=len(part), references=len(self.texts(part)), scores=scores)
        write_json(folder / "captioning.json", asdict(result))
        return result

    def _scores(self, answers: list[str], table: CaptionTable) -> dict[str, CaptionFigures]:
        """Figures of the model and of the baselines on pictures that people have given captions."""
        if len(table) == 1:
            self.say("CIDEr-D weighs words by how few of the pictures have them: of a single picture it is 0")
        java = java_is_there()
        if not java:
            self.say(
                "no Java here: captions are split into words by the rules of PTBTokenizer in Python, and METEOR is "
                "left out"
            )
        references = list(table.rows["captions"])
        by_whom = {"model": answers, **self._baselines(table)}
        return self._with_spice(score_captions(by_whom, references, java=java), by_whom, references)

    def _with_spice(
        self, scores: dict[str, CaptionFigures], by_whom: dict[str, list[str]], references: list[list[str]]
    ) -> dict[str, CaptionFigures]:
        """Figures with SPICE, or a line that says why it is left out."""
        lacks = missing_of_spice()
        if not lacks:
            try:
                found = score_spice(by_whom, references)
                return {who: replace(one, figures=one.figures | {"spice": found[who]}) for who, one in scores.items()}
            except DataError as error:  # the other figures are there
                lacks = str(error)
        self.say(f"SPICE is left out: {lacks}")
        return scores

    def _baselines(self, table: CaptionTable) -> dict[str, list[str]]:
        """What can be had without writing: the caption of the training picture nearest in ITC, and the usual one."""
        train = self._train
        if not len(train):
            self.say("no training pictures are named: the baselines, which copy their captions, are left out")
            return {}
        captions = self.texts(train)
        images = list(train.rows["image"])
        firsts = {image: captions[row] for row, image in reversed(list(enumerate(images)))}
        kept = sorted(firsts)  # pictures with a caption
        shown = CaptionTable.of(train.images.select(kept), training=False)
        known = self._features(shown)  # [T, E]
        nearest = torch.cat([(part @ known.T).argmax(dim=1) for part in self._features(table).split(1024)])  # [N]
        return {
            "nearest picture": [firsts[kept[row]] for row in nearest.tolist()],
            "most frequent": [most_frequent_caption(captions)] * len(table),
        }

    @torch.inference_mode()
    def _features(self, table: CaptionTable) -> Tensor:
        """Features of the pictures of a table, in the order of its rows [N, E]."""
        states = self._states(table)
        features: list[Tensor] = []
        with counting(f"features of {len(table):,} pictures") as progress:
            for batch in self._batches(table):
                images = states.images_of(self.model, batch)
                features.append(self.model.image_features(images)[batch.image_rows])
                progress(min(len(features) * self.recipe.batch_size, len(table)), len(table))
        return torch.cat(features)


class LanguageCaptionTask(CaptionTask):
    """Captions of pictures that a language model writes from what the queries of a BLIP-2 saw."""

    model: Blip2LanguageModel
    preprocessing: LanguagePreprocessing

    @classmethod
    def from_checkpoint(cls, recipe: CaptionRecipe, left_out: LeftOut) -> "LanguageCaptionTask":
        """Build the task's model on the checkpoint, and the language model, that the recipe names.

        Raises:
            ConfigError: settings that mean nothing to a BLIP-2.
        """
        if recipe.list_vocabulary:
            raise ConfigError("list_vocabulary is for a head of truepair's own; a language model has its own, drop it")
        tables = _open(recipe, left_out)
        model, preprocessing = load_language_start(recipe.model, tables.train.captions, recipe.loop.seed, left_out.say)
        return cls(recipe, model, preprocessing, left_out, tables)

    def _require_room(self) -> None:
        """Refuse a prompt that is for questions, and captions that are longer than what the model reads.

        Raises:
            ConfigError: they are.
        """
        for mark in ("{}", IMAGE_TOKEN):
            if mark in self.preprocessing.prompt:
                raise ConfigError(
                    f"model.language.prompt has {mark}, and the prompt of captions is read as it stands, behind what "
                    "the queries saw; leave it out"
                )
        wanted, longest = self.recipe.max_caption_length, self.model.longest
        before = len(self.preprocessing.encode_prompts([self.preprocessing.prompt])[0][0])
        if before + wanted > longest:
            raise ConfigError(
                f"max_caption_length is {wanted}, but behind the queries and {before} tokens of prompt the language "
                f"model reads {longest - before}"
            )
        if before >= self.preprocessing.max_length:
            raise ConfigError(
                f"the prompt has {before} tokens, and model.max_length is {self.preprocessing.max_length}; give more"
            )

    def _encode(self) -> Callable[[Sequence[str]], tuple[Tensor, ...]]:
        return self.preprocessing.encode

    def answer(self, batch: CaptionBatch, images: Tensor, texts: Tensor) -> list[str]:
        """A caption of each of B pictures.

        Args:
            batch: The pictures.
            images: Image states [I, N, W].
            texts: Not read.
        """
        recipe, prompt = self.recipe, self.preprocessing.prompt
        ids, mask = self.preprocessing.encode_prompts([prompt] * len(images))
        written = self.model.write(
            images,
            torch.arange(len(images), device=images.device),
            ids.to(images.device),
            mask.to(images.device),
            beams=recipe.beams,
            max_length=recipe.max_caption_length,
            min_length=recipe.min_caption_length,
            length_penalty=recipe.length_penalty,
        )
        captions = self.preprocessing.decode(written)
        return [captions[place] for place in batch.image_rows.tolist()]
