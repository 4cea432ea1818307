"""NLVR2: is a statement true of two images?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from truepair.data.caption_check import check_captions
from truepair.data.fingerprint import table_fingerprints
from truepair.data.left_out import LeftOut
from truepair.data.pairs import PairBatch, PairDataset
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.sample_tasks.store import sample_nlvr2
from truepair.data.splits import DataConfig, build_tables
from truepair.data.tasks.nlvr2 import (
    Nlvr2Batch,
    Nlvr2Collator,
    Nlvr2Dataset,
    Nlvr2Sample,
    Nlvr2Source,
    Nlvr2Table,
    open_nlvr2,
)
from truepair.data.transforms import ImageTransform
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.loop import TrainingLoop
from truepair.engine.loop.step import StepInfo, StepOutput
from truepair.engine.state.identity import Identity
from truepair.errors import ConfigError, DataError
from truepair.evaluation.nlvr2 import Nlvr2Metrics, nlvr2_metrics, write_nlvr2_results
from truepair.evaluation.vqa import TextBaseline
from truepair.files import write_json
from truepair.methods.settings import settings_of
from truepair.methods.student import Say
from truepair.methods.towers import TowerOptimizerConfig, TowerStep
from truepair.models.checkpoints.load import load_model
from truepair.models.encoders.fingerprint import caption_input_key, weights_fingerprint
from truepair.models.encoders.images import image_transform, resize_images
from truepair.models.fusion.nlvr2 import Nlvr2Model
from truepair.randomness import stable_hash
from truepair.settings import Positive
from truepair.tasks.downstream import DownstreamTask, FigureTable, Split, finetune, listing_in, with_data
from truepair.tasks.start import StartConfig, States, load_start


@dataclass(frozen=True, kw_only=True)
class Nlvr2DataConfig:
    """Where statements come from.

    Attributes:
        sample: folder for the statements about the bundled drawings; they are written if it is not there, and stand for
            all that is not stated below.
        train: files of statements; several become one set.
        validation: files for validation figures; empty for none.
        test: files whose statements are judged in the end; scored where their labels are known.
    """

    sample: str | None = None
    train: list[Nlvr2Source] = field(default_factory=list)
    validation: list[Nlvr2Source] = field(default_factory=list)
    test: list[Nlvr2Source] = field(default_factory=list)

    def filled(self) -> "Nlvr2DataConfig":
        """The same with the files of the sample in place of what is not stated.

        Raises:
            ConfigError: there is nothing to train on.
        """
        if self.sample is not None:
            files = sample_nlvr2(self.sample)
            return replace(
                self,
                sample=None,
                train=self.train or [files["train"]],
                validation=self.validation or [files["val"]],
                test=self.test or [files["test"]],
            )
        if not self.train:
            raise ConfigError("data.train names no files; state some, or data.sample")
        return self


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """Text assignment before NLVR2 (ALBEF, section 3.5): pairs, mostly those of pre-training.

    Attributes:
        data: where the pairs come from; their transform states the image size of this stage.
        optimizer: how the weights move.
        loop: how long and how; one epoch in the papers.
    """

    data: DataConfig = field(default_factory=DataConfig)
    optimizer: TowerOptimizerConfig = field(default_factory=TowerOptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


@dataclass(frozen=True, kw_only=True)
class Nlvr2Recipe:
    """Fine-tuning on statements about two images.

    Attributes:
        data: where statements come from.
        model: what is started from, and which parts move.
        assignment: text assignment, which the model is trained on first; absent for none.
        batch_size: statements judged at once in evaluation.
        optimizer: how the weights move.
        loop: how long and how.
    """

    data: Nlvr2DataConfig = field(default_factory=Nlvr2DataConfig)
    model: StartConfig = field(default_factory=StartConfig)
    assignment: AssignmentConfig | None = None
    batch_size: Positive = 64
    optimizer: TowerOptimizerConfig = field(default_factory=TowerOptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        first = self.assignment.loop if self.assignment is not None else self.loop
        if (first.precision, first.cpu) != (self.loop.precision, self.loop.cpu):
            raise ConfigError("assignment.loop and loop run in one process; give both the same precision and cpu")


@dataclass(frozen=True)
class Nlvr2Result:
    """What a model says of the test statements, and how well.

    Attributes:
        statements: how many.
        metrics: by who judges: "model", "text alone", "majority"; empty where the labels are unknown.
    """

    statements: int
    metrics: dict[str, Nlvr2Metrics]

    def table(self) -> FigureTable:
        """Accuracy and consistency, of the model and of who does not look."""
        rows = [[name, f"{one.accuracy:.1%}", f"{one.consistency:.1%}"] for name, one in self.metrics.items()]
        return FigureTable(f"NLVR2: {self.statements:,} statements", ["judged by", "accuracy", "consistency"], rows)


def finetune_nlvr2(recipe: Nlvr2Recipe, run_folder: Path, say: Say) -> Nlvr2Result | None:
    """Fine-tune on statements, and judge the test statements with the model that is left; see `finetune`.

    Text assignment, where the recipe asks for it, comes first, in ``run_folder/assignment``.

    Raises:
        TruepairError: anything in recipe, data or checkpoint that does not fit, in one line.
    """
    task = Nlvr2Task.from_checkpoint(recipe, listing_in(run_folder, say))
    if recipe.assignment is not None:
        task.model = assign_texts(
            task.model, task.preprocessing, recipe.assignment, recipe.model, run_folder / "assignment", say
        )
    return finetune(task, recipe, run_folder, say)


def evaluate_nlvr2(model_folder: Path, recipe: Nlvr2Recipe, folder: Path, say: Say) -> Nlvr2Result:
    """Judge the test statements of a recipe with a trained model; files go to ``folder``.

    Raises:
        TruepairError: anything in recipe, data or model that does not fit, in one line.
    """
    recipe = with_data(recipe)
    model, preprocessing = load_model(Nlvr2Model, model_folder), OwnPreprocessing.load(model_folder)
    return Nlvr2Task(recipe, model, preprocessing, listing_in(folder, say)).evaluate(folder)


class Nlvr2Task(DownstreamTask[Nlvr2Table, bool, Nlvr2Result]):
    """Statements about two images, each judged true or false.

    Args:
        recipe: with its data filled in.
        model: heads on a pre-trained checkpoint, or a trained model.
        preprocessing: tokenization and images.
        left_out: takes what is left out of the files.
    """

    texts_name = "statements"
    recipe: Nlvr2Recipe
    model: Nlvr2Model
    preprocessing: OwnPreprocessing

    def __init__(
        self, recipe: Nlvr2Recipe, model: Nlvr2Model, preprocessing: OwnPreprocessing, left_out: LeftOut
    ) -> None:
        super().__init__(recipe, model, preprocessing, left_out)
        self._collate = Nlvr2Collator(preprocessing.collator().encode)

    @classmethod
    def from_checkpoint(cls, recipe: Nlvr2Recipe, left_out: LeftOut) -> "Nlvr2Task":
        """Build the task's model on the checkpoint that the recipe names."""
        recipe = with_data(recipe)
        start = load_start(recipe.model, recipe.loop.seed, left_out.say)
        assigns = recipe.assignment is not None
        model = Nlvr2Model.from_albef(start.albef, assignment_head=assigns, **recipe.model.options)
        return cls(recipe, model, start.preprocessing, left_out)

    def read(self, split: Split) -> Nlvr2Table:
        """The statements of a split; of those to learn from, and to choose the model by, the labelled ones.

        Raises:
            DataError: none has a label.
        """
        table = open_nlvr2(getattr(self.recipe.data, split))
        self.left_out.source(f"data.{split}", table.skipped)
        if split == "test":
            return table
        labelled = table.labelled()
        if not len(labelled):
            raise DataError(f"data.{split}: a statement has no label, and no other has; give labelled files")
        if len(labelled) < len(table):
            self.say(
                f"data.{split}: left out: {len(table) - len(labelled):,} of {len(table):,} statements have no label"
            )
        return labelled

    def texts(self, table: Nlvr2Table) -> list[str]:
        """The statements of a table."""
        return list(table.statements["sentence"])

    def dataset(self, table: Nlvr2Table, transform: ImageTransform | None) -> Nlvr2Dataset:
        """The statements of a table as samples."""
        return Nlvr2Dataset(table, transform, seed=self.recipe.loop.seed)

    def collate(self, samples: Sequence[Nlvr2Sample]) -> Nlvr2Batch:
        """Make a batch of statements."""
        return self._collate(samples)

    def answer(self, batch: Nlvr2Batch, images: Tensor, texts: Tensor) -> list[bool]:
        """Whether the model takes each statement for true, from image [2B, N, W] and text states [B, L, W]."""
        answers: list[bool] = (self.model.predict(batch, images, texts) > 0.5).tolist()
        return answers

    def measure(self, answers: Sequence[bool], table: Nlvr2Table) -> dict[str, float]:
        """Accuracy and consistency."""
        metrics = _metrics(answers, table)
        return {"accuracy": metrics.accuracy, "consistency": metrics.consistency}

    def report(self, answers: Sequence[bool], table: Nlvr2Table, folder: Path) -> Nlvr2Result:
        """Write ``nlvr2_predictions.csv`` for the official scorer, and ``nlvr2.json``."""
        identifiers = table.statements["identifier"]
        write_nlvr2_results(dict(zip(identifiers, answers, strict=True)), folder / "nlvr2_predictions.csv")
        result = Nlvr2Result(len(table), {})
        known = table.labelled()
        if len(known):
            if len(known) < len(table):
                self.say(f"data.test: figures of the {len(known):,} of {len(table):,} statements that have a label")
            given = dict(zip(identifiers, answers, strict=True))
            result.metrics["model"] = _metrics([given[name] for name in known.statements["identifier"]], known)
            result.metrics.update(self._baselines(known))
        write_json(folder / "nlvr2.json", asdict(result))
        return result

    def _baselines(self, table: Nlvr2Table) -> dict[str, Nlvr2Metrics]:
        """What can be had without looking."""
        train = open_nlvr2(self.recipe.data.train).labelled().statements
        baseline = TextBaseline(train["sentence"], (str(bool(label)) for label in train["label"]))
        guesses = [answer == "True" for answer in baseline.answer(self.texts(table))]
        return {
            "text alone": _metrics(guesses, table),
            "majority": _metrics([baseline.majority == "True"] * len(table), table),
        }


def assign_texts(
    model: Nlvr2Model,
    preprocessing: OwnPreprocessing,
    config: AssignmentConfig,
    start: StartConfig,
    run_folder: Path,
    say: Say,
) -> Nlvr2Model:
    """Train a model on text assignment, or go on where that was stopped.

    Args:
        model: with ``assignment_head``; changed in place.
        preprocessing: tokenization.
        config: pairs, and how to train on them.
        start: says which encoders are frozen.
        run_folder: where checkpoints, log and model of this stage go.
        say: prints a line.

    Returns:
        The trained model, whose assignment head is gone: the one that was given, or where ``loop.shard`` spread that
        over processes, another.

    Raises:
        TruepairError: anything that does not fit, in one line.
    """
    tables = build_tables(config.data).read_by(preprocessing.tokenization)
    table = tables.train
    for line in tables.notes:
        say(line)
    say(f"text assignment on {len(table):,} pairs from {table.name}")
    texts = [caption for captions in table.values("captions") for caption in captions]
    check, _ = check_captions(preprocessing.tokenization, preprocessing.max_length, texts)
    for line in check.lines(length="model.max_length", tokenizer="start from a model whose tokenizer knows them"):
        say(line)
    size = model.image_encoder.image_size
    resize_images(model, config.data.transform.size)
    own = OwnPreprocessing(
        preprocessing.tokenizer,
        preprocessing.max_length,
        preprocessing.add_sep,
        preprocessing.normalise,
        config.data.transform,
    )
    contents = {f"{name} of the assignment's pairs": key for name, key in table_fingerprints(table).items()}
    contents |= {f"the model {start.checkpoint}": weights_fingerprint(model), "the tokenizer": caption_input_key(own)}
    transform = image_transform(own.transform, model.image_encoder, train=True)
    captions = "first" if config.data.captions == "pairs" else config.data.captions
    states = States(freeze_image=start.freeze_image, freeze_text=start.freeze_text)
    engine = TrainingLoop(
        AssignmentStep(model, states, seed=config.loop.seed),
        PairDataset(table, transform, captions=captions, seed=config.loop.seed),
        own,
        own.collator(),
        loop=config.loop,
        optimizer=config.optimizer,
        run_folder=run_folder,
        max_bad_fraction=config.data.max_bad_fraction,
        identity=Identity(*settings_of(config), contents),
    )
    engine.run()
    trained = cast(Nlvr2Model, engine.model)
    trained.drop_assignment()
    resize_images(trained, size)
    return trained


class AssignmentStep(TowerStep):
    """Which of two images does a caption belong to: the first, the second, or neither?

    Args:
        model: with ``assignment_head``; its classifier is left out of training.
        states: which encoders are frozen.
        seed: seed of the run.
    """

    def __init__(self, model: Nlvr2Model, states: States, *, seed: int) -> None:
        super().__init__(model)
        states.freeze(model)
        model.classifier.requires_grad_(False)
        self.states = states
        self.seed = seed

    def forward(self, batch: PairBatch, info: StepInfo) -> StepOutput:
        """Compute the loss of a batch of pairs.

        Args:
            batch: B pairs.
            info: where the run stands; which images are drawn depends on its step and on the batch.
        """
        generator = torch.Generator(batch.input_ids.device)
        generator.manual_seed(stable_hash(self.seed, info.step, int(batch.index[0]), "text assignment"))
        images, texts = self.states(self.model, batch)
        return StepOutput({"loss": self.model.assignment_loss(batch, generator, images, texts)})


def _metrics(answers: Sequence[bool], table: Nlvr2Table) -> Nlvr2Metrics:
    """Accuracy and consistency of judgements of the statements of a table."""
    identifiers = list(table.statements["identifier"])
    labels = map(bool, table.statements["label"])
    official = all(identifier.count("-") == 3 for identifier in identifiers)
    return nlvr2_metrics(
        dict(zip(identifiers, answers, strict=True)),
        dict(zip(identifiers, labels, strict=True)),
        None if official else dict(zip(identifiers, table.statements["sentence"], strict=True)),
    )
