"""What downstream tasks have in common: data, states of frozen encoders, answers, training and evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar, cast

import torch.distributed as dist
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from truepair.data.caption_check import check_captions, look_step
from truepair.data.fingerprint import rows_fingerprint, table_fingerprints
from truepair.data.left_out import SKIPPED, LeftOut
from truepair.data.pixels import DECODER, decoder_line, decoder_name
from truepair.data.preprocessing import Preprocessing
from truepair.data.readable import unreadable_pictures
from truepair.data.table import PairTable
from truepair.data.tasks.base import MOST_SKIPPED, StrictBatch
from truepair.data.transforms import ImageTransform
from truepair.engine.distributed.gathering import sum_over_ranks
from truepair.engine.distributed.launch import is_first_process
from truepair.engine.distributed.processes import first_process_first, join_processes, own_device
from truepair.engine.logs.progress import counting
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.loader import VisitedDataset
from truepair.engine.loop.loop import TrainingLoop, take_best
from truepair.engine.loop.optimizer import OptimizerConfig
from truepair.engine.loop.step import StepInfo, StepOutput, TrainingBatch
from truepair.engine.state.identity import Identity
from truepair.errors import DataError
from truepair.methods.settings import settings_of
from truepair.methods.student import Say
from truepair.methods.towers import TowerStep
from truepair.models.encoders.fingerprint import caption_input_key, weights_fingerprint
from truepair.tasks.start import StartConfig, States, TaskModel, task_states, task_transform

Split = Literal["train", "validation", "test"]


class TaskRecipe(Protocol):
    """What is read of a task's recipe; ``data`` has the sources of each `Split`."""

    @property
    def data(self) -> Any:
        """Where texts and images come from."""
        ...

    @property
    def model(self) -> StartConfig:
        """What is started from."""
        ...

    @property
    def batch_size(self) -> int:
        """Texts of a batch in evaluation."""
        ...

    @property
    def optimizer(self) -> OptimizerConfig:
        """How the weights move."""
        ...

    @property
    def loop(self) -> LoopConfig:
        """How long and how."""
        ...


class TaskTable(Protocol):
    """Texts about images."""

    @property
    def images(self) -> PairTable:
        """The images, each once."""
        ...

    @property
    def rows(self) -> Dataset:
        """The texts, with what is known of them."""
        ...

    @property
    def unreadable(self) -> frozenset[int]:
        """Rows of images that cannot be read; no text is about them."""
        ...

    def without(self, unreadable: Iterable[int]) -> Self:
        """The texts about the images that are not in these rows."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class FigureTable:
    """The figures of a task's result, as people read them.

    Attributes:
        title: what was measured.
        columns: headings, the first over the names of the rows.
        rows: a name, and the figures as text.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]


_Recipe = TypeVar("_Recipe", bound=TaskRecipe)


def listing_in(folder: Path, say: Say) -> LeftOut:
    """What is left out, listed in a folder by the first process."""
    return LeftOut(say, folder / SKIPPED if is_first_process() else None)


def with_data(recipe: _Recipe) -> _Recipe:
    """A recipe with its data filled in; processes meet here, and the first one writes the sample that is not there.

    Raises:
        TruepairError: there are no data, or the sample cannot be written.
    """
    with first_process_first(join_processes(cpu=recipe.loop.cpu)):
        return cast(_Recipe, replace(cast(Any, recipe), data=recipe.data.filled()))


_Table = TypeVar("_Table", bound=TaskTable)
_Answer = TypeVar("_Answer")
_Result = TypeVar("_Result")


class DownstreamTask(ABC, Generic[_Table, _Answer, _Result]):
    """A task of texts about images. A subclass says how they are read, answered and measured; its model has the loss.

    Args:
        recipe: with its data filled in.
        model: heads on a pre-trained checkpoint, or a trained model.
        preprocessing: tokenization and images.
        left_out: takes what is left out of the files.
    """

    texts_name: ClassVar[str]
    """What the texts are, for people: "questions"."""

    def __init__(self, recipe: TaskRecipe, model: TaskModel, preprocessing: Preprocessing, left_out: LeftOut) -> None:
        self.recipe = recipe
        self.model = model
        self.preprocessing = preprocessing
        self.left_out = left_out
        self.say = left_out.say

    @abstractmethod
    def read(self, split: Split) -> _Table:
        """Read the texts of a split."""

    @abstractmethod
    def texts(self, table: _Table) -> Sequence[str]:
        """The texts of a table."""

    @abstractmethod
    def dataset(self, table: _Table, transform: ImageTransform | None) -> VisitedDataset:
        """The samples of a table; with pixels where there is a transform."""

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> TrainingBatch:
        """Make a batch of samples."""

    def unread(self, table: _Table) -> str:
        """What is said of the rows of a table whose image cannot be read, after their number."""
        return f"{self.texts_name} are about images that cannot be read"

    def prepare(self) -> None:
        """Compute what all answers need of the model as it is now; called before they are given."""

    @abstractmethod
    def answer(self, batch: Any, images: Tensor, texts: Tensor) -> list[_Answer]:
        """What the model answers to each text of a batch, from image states [I, N, W] and text states [B, L, D]."""

    @abstractmethod
    def measure(self, answers: Sequence[_Answer], table: _Table) -> dict[str, float]:
        """Figures of answers to the texts of a table, for the log of a run."""

    @abstractmethod
    def report(self, answers: Sequence[_Answer], table: _Table, folder: Path) -> _Result:
        """Write answers to the test texts, and measure them beside the baselines where the truth is known."""

    def train_dataset(self) -> VisitedDataset:
        """What is trained on."""
        return self.dataset(self._train, self._transform(train=True))

    def lost_words(self) -> list[str]:
        """What the tokenizer loses of the training texts, a line each."""
        read, texts = self.preprocessing, self.texts(self._train)
        looked_at = texts[:: look_step(len(texts))]
        check, _ = check_captions(read.tokenization, read.max_length, looked_at, len(texts))
        return check.lines(
            length="model.max_length",
            tokenizer="start from a model whose tokenizer knows them",
            captions=self.texts_name,
        )

    def train_states(self) -> States:
        """Where the states of its images and texts come from."""
        return self._states(self._train)

    def contents(self) -> dict[str, str]:
        """What training reads, in words -> a fingerprint of it; called before the model is trained."""
        pictures = table_fingerprints(self._train.images)["pictures"]
        return {
            f"the training {self.texts_name}": rows_fingerprint(self._train.rows),
            "pictures of the training data": pictures,
            f"the model {self.recipe.model.checkpoint}": weights_fingerprint(self.model),
            "the tokenizer": caption_input_key(self.preprocessing),
        }

    @property
    def validates(self) -> bool:
        """Whether there are validation data."""
        return bool(self.recipe.data.validation)

    @property
    def tests(self) -> bool:
        """Whether there are test data."""
        return bool(self.recipe.data.test)

    def figures(self, model: PreTrainedModel) -> dict[str, float]:
        """Figures of a model, which is the task's from now on, on the validation data."""
        self.model = cast(TaskModel, model)
        table, states = self._validation
        return self.measure(self._answers(table, states), table)

    def evaluate(self, folder: Path) -> _Result:
        """Answer the test texts; files go to a folder."""
        table = self.test
        self.model.to(own_device())  # a model just loaded is on the CPU
        return self.report(self._answers(table, self._states(table)), table, folder)

    def read_measured(self) -> None:
        """Read what is measured, so that whatever is wrong with it is said before anything is trained.

        Raises:
            DataError: most of it cannot be read.
        """
        for split, there in {"validation": self.validates, "test": self.tests}.items():
            if there:
                getattr(self, split)

    @cached_property
    def validation(self) -> _Table:
        """The validation texts whose images can be read."""
        return self._readable("validation")

    @cached_property
    def test(self) -> _Table:
        """The test texts whose images can be read."""
        return self._readable("test")

    @cached_property
    def _train(self) -> _Table:
        return self._readable("train")

    @cached_property
    def _validation(self) -> tuple[_Table, States]:
        table = self.validation
        return table, self._states(table)

    def _readable(self, split: Split) -> _Table:
        """The texts of a split whose images can be read; so all epochs, and all models, have the same.

        Raises:
            DataError: most of them cannot.
        """
        table = self.read(split)
        transform = task_transform(self.preprocessing, self.model, train=False)
        with counting(f"images of {table.images.name} that can be read") as progress:
            unreadable = unreadable_pictures(table.images, min_side=transform.min_side, progress=progress)
        if not unreadable:
            return table
        self.left_out.pictures(table.images, unreadable)
        kept = table.without(unreadable)
        lost = f"{len(table) - len(kept):,} of {len(table):,} {self.unread(table)}"
        if len(kept) < (1 - MOST_SKIPPED) * len(table):
            raise DataError(f"data.{split}: {lost}; repair them; the first: {next(iter(unreadable.values()))}")
        self.say(f"data.{split}: left out: {lost}")
        return kept

    def _states(self, table: _Table) -> States:
        recipe = self.recipe
        return task_states(
            recipe.model, self.preprocessing, self.model, table.images, self.texts(table), recipe.loop, table.unreadable
        )

    def _transform(self, *, train: bool) -> ImageTransform | None:
        if self.recipe.model.cache_images:
            return None
        return task_transform(self.preprocessing, self.model, train=train)

    def _answers(self, table: _Table, states: States) -> list[_Answer]:
        """An answer to each text, in the order of the table."""
        self.model.eval()
        self.prepare()
        found: list[_Answer] = []
        with counting(f"answers to {len(table):,} {self.texts_name}") as progress:
            for batch in self._batches(table):
                found += self.answer(batch, *states(self.model, batch))
                progress(len(found), len(table))
        return found

    def _batches(self, table: _Table) -> Iterator[Any]:
        """The rows of a table in order, unaugmented, on the model's device."""
        dataset: Any = self.dataset(table, self._transform(train=False))
        loader: DataLoader[Any] = DataLoader(dataset, batch_size=self.recipe.batch_size, collate_fn=self.collate)
        for batch in loader:
            yield batch.to(self.model.device)


def finetune(task: DownstreamTask[Any, Any, _Result], recipe: TaskRecipe, run_folder: Path, say: Say) -> _Result | None:
    """Train a task's model to the end of the run, or go on where it was stopped; then answer the test texts.

    The model that is left, in memory and in ``run_folder/model``, is the best on the validation data where
    ``loop.best_figure`` says so.

    Args:
        task: what is trained.
        recipe: as the user gave it.
        run_folder: where checkpoints, logs, the model and the answers go.
        say: prints a line.

    Returns:
        The result of the test texts; None without such, and on further ranks.

    Raises:
        TruepairError: anything that does not fit, in one line.
    """
    dataset = task.train_dataset()
    for line in (f"{len(dataset):,} training {task.texts_name}", decoder_line(), *task.lost_words()):
        say(line)
    if is_first_process():
        task.read_measured()
    engine = TrainingLoop(
        FinetuneStep(task.model, task.train_states()),
        dataset,
        task.preprocessing,
        task.collate,
        loop=task.recipe.loop,
        optimizer=task.recipe.optimizer,
        run_folder=run_folder,
        evaluator=task.figures if task.validates else None,
        identity=Identity(*settings_of(recipe), task.contents(), {DECODER: decoder_name()}),
    )
    run = engine.run()
    if not engine.accelerator.is_main_process:
        return None
    task.model = cast(TaskModel, engine.model)
    take_best(engine.model, run)
    return task.evaluate(run_folder) if task.tests else None


class FinetuneStep(TowerStep):
    """The loss of a task's model on a batch.

    Args:
        model: what is trained.
        states: where the states of images and texts come from.
    """

    def __init__(self, model: TaskModel, states: States) -> None:
        super().__init__(cast(PreTrainedModel, model))
        states.freeze(model)
        self.states = states

    def forward(self, batch: Any, info: StepInfo) -> StepOutput:
        """Compute the loss of a batch.

        Args:
            batch: what the task's collator made.
            info: where the run stands; a task's loss is the same throughout.
        """
        loss = self.model.loss(batch, *self.states(self.model, batch))
        return StepOutput({"loss": loss * _share_of_rank(batch)})


def _share_of_rank(batch: StrictBatch) -> float:
    """What this rank's loss weighs, so that the mean over the ranks is the mean over the whole batch.

    A caption's loss is a mean over tokens, of which ranks have more or fewer.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return 1.0
    learned = float(batch.learned)
    return learned * dist.get_world_size() / max(sum_over_ranks({"learned": learned})["learned"], 1.0)
