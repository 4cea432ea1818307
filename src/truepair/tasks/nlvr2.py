"""NLVR2: is a statement true of two images?"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from truepair.data.nlvr2 import Nlvr2Collator, Nlvr2Dataset
from truepair.data.nlvr2_source import Nlvr2Table, open_nlvr2
from truepair.data.preprocessing import Preprocessing
from truepair.errors import DataError
from truepair.evaluation.nlvr2 import Nlvr2Metrics, nlvr2_metrics, write_nlvr2_results
from truepair.evaluation.text_baseline import TextBaseline
from truepair.models.albef_checkpoint import load_model
from truepair.models.nlvr2 import Nlvr2Model
from truepair.tasks.finetuning import Say, finetune
from truepair.tasks.nlvr2_recipe import Nlvr2Recipe
from truepair.tasks.start import image_transform, load_start, task_states
from truepair.training.progress import counting
from truepair.training.task_states import States


@dataclass(frozen=True)
class Nlvr2Result:
    """What a model says of the test statements, and how well.

    Attributes:
        statements: how many.
        metrics: by who judges: "model", "text alone", "majority"; empty where the labels are unknown.
    """

    statements: int
    metrics: dict[str, Nlvr2Metrics]


class Nlvr2Task:
    """Statements about two images as a `FinetuneTask`.

    Args:
        recipe: with its data filled in.
        model: heads on a pre-trained checkpoint, or a trained model.
        preprocessing: tokenization and images.
    """

    def __init__(self, recipe: Nlvr2Recipe, model: Nlvr2Model, preprocessing: Preprocessing) -> None:
        self.recipe = recipe
        self.model = model
        self.preprocessing = preprocessing
        self.collate = Nlvr2Collator(preprocessing.collator().encode)

    @classmethod
    def from_checkpoint(cls, recipe: Nlvr2Recipe) -> "Nlvr2Task":
        """Build the task's model on the checkpoint that the recipe names."""
        recipe = replace(recipe, data=recipe.data.filled())
        start = load_start(recipe.model, recipe.loop.seed)
        model = Nlvr2Model.from_albef(start.albef, **recipe.model.options)
        return cls(recipe, model, start.preprocessing)

    def train_dataset(self) -> Nlvr2Dataset:
        """The training statements.

        Raises:
            DataError: one has no label.
        """
        table = open_nlvr2(self.recipe.data.train)
        if -1 in table.statements["label"]:
            raise DataError("a training statement has no label; train on labelled files")
        return self._dataset(table, train=True)

    def train_states(self) -> States:
        """States of the training images and statements."""
        return self._states(self.train_dataset().table)

    @property
    def validates(self) -> bool:
        """Whether there are validation statements."""
        return bool(self.recipe.data.validation)

    def figures(self, model: PreTrainedModel) -> dict[str, float]:
        """Accuracy and consistency on the validation statements."""
        assert isinstance(model, Nlvr2Model)
        table, states = self._validation
        metrics = metrics_of(self._judge(model, table, states), table)
        return {"accuracy": metrics.accuracy, "consistency": metrics.consistency}

    def predict(self, model: Nlvr2Model, table: Nlvr2Table) -> dict[str, bool]:
        """Whether the model takes each statement for true, by identifier."""
        return self._judge(model, table, self._states(table))

    def evaluate(self, model: Nlvr2Model, folder: Path) -> Nlvr2Result:
        """Judge the test statements; writes ``nlvr2_predictions.csv`` for the official scorer, and ``nlvr2.json``."""
        table = open_nlvr2(self.recipe.data.test)
        predictions = self.predict(model, table)
        write_nlvr2_results(predictions, folder / "nlvr2_predictions.csv")
        result = Nlvr2Result(len(table), {})
        if -1 not in table.statements["label"]:
            result.metrics["model"] = metrics_of(predictions, table)
            result.metrics.update(self._baselines(table))
        (folder / "nlvr2.json").write_text(json.dumps(asdict(result), indent=1), encoding="utf-8")
        return result

    def _baselines(self, table: Nlvr2Table) -> dict[str, Nlvr2Metrics]:
        """What can be had without looking."""
        train = open_nlvr2(self.recipe.data.train).statements
        baseline = TextBaseline(train["sentence"], (str(bool(label)) for label in train["label"]))
        names = list(table.statements["identifier"])
        guesses = (answer == "True" for answer in baseline.answer(list(table.statements["sentence"])))
        return {
            "text alone": metrics_of(dict(zip(names, guesses, strict=True)), table),
            "majority": metrics_of(dict.fromkeys(names, baseline.majority == "True"), table),
        }

    @cached_property
    def _validation(self) -> tuple[Nlvr2Table, States]:
        table = open_nlvr2(self.recipe.data.validation)
        return table, self._states(table)

    def _judge(self, model: Nlvr2Model, table: Nlvr2Table, states: States) -> dict[str, bool]:
        model.eval()
        dataset = self._dataset(table, train=False)
        loader: DataLoader[Any] = DataLoader(dataset, batch_size=self.recipe.batch_size, collate_fn=self.collate)
        said: list[bool] = []
        with counting(f"{len(table):,} statements") as progress:
            for batch in loader:
                batch = batch.to(model.device)
                said += (model.predict(batch, *states(model, batch)) > 0.5).tolist()
                progress(len(said), len(table))
        return dict(zip(table.statements["identifier"], said, strict=True))

    def _dataset(self, table: Nlvr2Table, *, train: bool) -> Nlvr2Dataset:
        transform = None
        if not self.recipe.model.cache_images:
            transform = image_transform(self.preprocessing, self.model, train=train)
        return Nlvr2Dataset(table, transform, seed=self.recipe.loop.seed)

    def _states(self, table: Nlvr2Table) -> States:
        sentences = table.statements["sentence"]
        return task_states(self.recipe.model, self.preprocessing, self.model, table.images, sentences)


def finetune_nlvr2(recipe: Nlvr2Recipe, run_folder: Path, say: Say) -> Nlvr2Result | None:
    """Fine-tune on statements, and judge the test statements with the model that is left.

    Args:
        recipe: everything the run depends on.
        run_folder: where everything goes.
        say: prints a line.

    Returns:
        The result of the test statements; None without such, and on further ranks.
    """
    task = Nlvr2Task.from_checkpoint(recipe)
    say(f"{len(task.train_dataset()):,} training statements")
    _, main = finetune(task, recipe.loop, recipe.optimizer, run_folder)
    return task.evaluate(task.model, run_folder) if main and task.recipe.data.test else None


def evaluate_nlvr2(model_folder: Path, recipe: Nlvr2Recipe, folder: Path) -> Nlvr2Result:
    """Judge the test statements of a recipe with a trained model; files go to ``folder``."""
    recipe = replace(recipe, data=recipe.data.filled())
    task = Nlvr2Task(recipe, load_model(Nlvr2Model, model_folder), Preprocessing.load(model_folder))
    return task.evaluate(task.model, folder)


def metrics_of(predictions: dict[str, bool], table: Nlvr2Table) -> Nlvr2Metrics:
    """Accuracy and consistency of judgements by identifier."""
    labels = (bool(label) for label in table.statements["label"])
    return nlvr2_metrics(predictions, dict(zip(table.statements["identifier"], labels, strict=True)))
