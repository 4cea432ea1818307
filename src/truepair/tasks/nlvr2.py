"""NLVR2: is a statement true of two images?"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from truepair.data.nlvr2 import Nlvr2Collator, Nlvr2Dataset, Nlvr2Sample
from truepair.data.nlvr2_batch import Nlvr2Batch
from truepair.data.nlvr2_source import Nlvr2Table, open_nlvr2
from truepair.data.preprocessing import Preprocessing
from truepair.data.transforms import ImageTransform
from truepair.errors import DataError
from truepair.evaluation.nlvr2 import Nlvr2Metrics, nlvr2_metrics, write_nlvr2_results
from truepair.evaluation.text_baseline import TextBaseline
from truepair.models.albef_checkpoint import load_model
from truepair.models.nlvr2 import Nlvr2Model
from truepair.tasks.assignment import assign_texts
from truepair.tasks.downstream_task import DownstreamTask, Split
from truepair.tasks.finetuning import finetune
from truepair.tasks.nlvr2_recipe import Nlvr2Recipe
from truepair.tasks.start import load_start
from truepair.training.build import Say


@dataclass(frozen=True)
class Nlvr2Result:
    """What a model says of the test statements, and how well.

    Attributes:
        statements: how many.
        metrics: by who judges: "model", "text alone", "majority"; empty where the labels are unknown.
    """

    statements: int
    metrics: dict[str, Nlvr2Metrics]


class Nlvr2Task(DownstreamTask[Nlvr2Table, bool, Nlvr2Result]):
    """Statements about two images, each judged true or false.

    Args:
        recipe: with its data filled in.
        model: heads on a pre-trained checkpoint, or a trained model.
        preprocessing: tokenization and images.
    """

    texts_name = "statements"
    recipe: Nlvr2Recipe
    model: Nlvr2Model

    def __init__(self, recipe: Nlvr2Recipe, model: Nlvr2Model, preprocessing: Preprocessing) -> None:
        super().__init__(recipe, model, preprocessing)
        self._collate = Nlvr2Collator(preprocessing.collator().encode)

    @classmethod
    def from_checkpoint(cls, recipe: Nlvr2Recipe) -> "Nlvr2Task":
        """Build the task's model on the checkpoint that the recipe names."""
        recipe = replace(recipe, data=recipe.data.filled())
        start = load_start(recipe.model, recipe.loop.seed)
        assigns = recipe.assignment is not None
        model = Nlvr2Model.from_albef(start.albef, assignment_head=assigns, **recipe.model.options)
        return cls(recipe, model, start.preprocessing)

    def read(self, split: Split) -> Nlvr2Table:
        """The statements of a split.

        Raises:
            DataError: a statement to learn from, or to choose the model by, has no label.
        """
        table = open_nlvr2(getattr(self.recipe.data, split))
        if split != "test" and -1 in table.statements["label"]:
            raise DataError(f"data.{split}: a statement has no label; give labelled files")
        return table

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
        """Whether the model takes each statement for true."""
        said: list[bool] = (self.model.predict(batch, images, texts) > 0.5).tolist()
        return said

    def measure(self, answers: Sequence[bool], table: Nlvr2Table) -> dict[str, float]:
        """Accuracy and consistency."""
        metrics = metrics_of(answers, table)
        return {"accuracy": metrics.accuracy, "consistency": metrics.consistency}

    def report(self, answers: Sequence[bool], table: Nlvr2Table, folder: Path) -> Nlvr2Result:
        """Write ``nlvr2_predictions.csv`` for the official scorer, and ``nlvr2.json``."""
        identifiers = table.statements["identifier"]
        write_nlvr2_results(dict(zip(identifiers, answers, strict=True)), folder / "nlvr2_predictions.csv")
        result = Nlvr2Result(len(table), {})
        if -1 not in table.statements["label"]:
            result.metrics["model"] = metrics_of(answers, table)
            result.metrics.update(self._baselines(table))
        (folder / "nlvr2.json").write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
        return result

    def _baselines(self, table: Nlvr2Table) -> dict[str, Nlvr2Metrics]:
        """What can be had without looking."""
        train = open_nlvr2(self.recipe.data.train).statements
        baseline = TextBaseline(train["sentence"], (str(bool(label)) for label in train["label"]))
        guesses = [answer == "True" for answer in baseline.answer(self.texts(table))]
        return {
            "text alone": metrics_of(guesses, table),
            "majority": metrics_of([baseline.majority == "True"] * len(table), table),
        }


def finetune_nlvr2(recipe: Nlvr2Recipe, run_folder: Path, say: Say) -> Nlvr2Result | None:
    """Fine-tune on statements, and judge the test statements with the model that is left; see `finetune`.

    Text assignment, where the recipe asks for it, comes first, in ``run_folder/assignment``.
    """
    task = Nlvr2Task.from_checkpoint(recipe)
    if recipe.assignment is not None:
        task.model = assign_texts(
            task.model, task.preprocessing, recipe.assignment, recipe.model, run_folder / "assignment", say
        )
    return finetune(task, run_folder, say)


def evaluate_nlvr2(model_folder: Path, recipe: Nlvr2Recipe, folder: Path) -> Nlvr2Result:
    """Judge the test statements of a recipe with a trained model; files go to ``folder``."""
    recipe = replace(recipe, data=recipe.data.filled())
    return Nlvr2Task(recipe, load_model(Nlvr2Model, model_folder), Preprocessing.load(model_folder)).evaluate(folder)


def metrics_of(answers: Sequence[bool], table: Nlvr2Table) -> Nlvr2Metrics:
    """Accuracy and consistency of judgements of the statements of a table."""
    identifiers = list(table.statements["identifier"])
    labels = map(bool, table.statements["label"])
    return nlvr2_metrics(dict(zip(identifiers, answers, strict=True)), dict(zip(identifiers, labels, strict=True)))
