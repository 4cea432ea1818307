"""The tasks that a model is fine-tuned on and evaluated by; what computes is imported when a task is called."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truepair.cli.fields import RecipeClass
from truepair.cli.run_folder import PRETRAIN, data_of_run, say
from truepair.engine.distributed.launch import is_first_process
from truepair.errors import ConfigError, nearest

if TYPE_CHECKING:
    from rich.table import Table

    from truepair.methods.student import Say


@dataclass(frozen=True)
class TaskActions:
    """What a task does.

    Attributes:
        finetune: (recipe, run folder, say, what it was called by where a page is asked for) -> result of the test data,
            or None; absent for a task of evaluation alone.
        evaluate: (folder or name of a model, what it is evaluated by, folder of the files or None for the usual one) ->
            result.
        tables: the result for the terminal.
    """

    finetune: "Callable[[Any, Path, Say, Called | None], Any] | None"
    evaluate: Callable[[str, Any, Path | None], Any]
    tables: "Callable[[Any], list[Table]]"


@dataclass(frozen=True)
class Called:
    """What a run was called by, for its page.

    Attributes:
        command: the whole command.
        title: command and recipes.
    """

    command: str
    title: str


@dataclass(frozen=True)
class TaskCommand:
    """A task.

    Attributes:
        recipe: dataclass of its fine-tuning recipes; None for a task of evaluation alone.
        evaluation: dataclass of what a model is evaluated by; that of its recipes where the recipe of the model's run
            says it.
        load: imports what computes.
    """

    recipe: RecipeClass[Any] | None
    evaluation: RecipeClass[Any]
    load: Callable[[], TaskActions]


def task_command(name: str, *, trained: bool = False) -> TaskCommand:
    """The command of a task.

    Args:
        name: of the task.
        trained: only those that a model can be fine-tuned on.

    Raises:
        ConfigError: there is no such task.
    """
    tasks = trained_tasks() if trained else TASKS
    if name not in tasks:
        raise ConfigError(f"there is no task '{name}'{nearest(name, tasks)}; give {', '.join(tasks)}")
    return tasks[name]


def trained_tasks() -> dict[str, TaskCommand]:
    """The tasks that a model can be fine-tuned on."""
    return {name: command for name, command in TASKS.items() if command.recipe is not None}


def _retrieval() -> TaskActions:
    from truepair.cli.tables import coco_table, retrieval_table
    from truepair.tasks.evaluation import evaluate_model
    from truepair.tasks.pretraining import finetune_retrieval

    def finetune(recipe: Any, folder: Path, say: "Say", called: Called | None) -> Any:
        """Figures, and the page of a pre-training run."""
        outcome = finetune_retrieval(recipe, folder, say)
        if called is not None and is_first_process():
            from truepair.reports.run import report_run

            page = report_run(outcome, folder, command=called.command, title=called.title).page
            say(f"the page of what it found: {page}")
        return outcome.retrieval

    return TaskActions(
        finetune,
        lambda model, config, _: evaluate_model(
            model, config, say, data_of_run(model) if config.data is None else None
        ),
        lambda result: [retrieval_table(result), *(coco_table(way, one) for way, one in result.coco.items())],
    )


def _vqa() -> TaskActions:
    from truepair.tasks.vqa import evaluate_vqa, finetune_vqa

    return _with_one_table(finetune_vqa, evaluate_vqa)


def _nlvr2() -> TaskActions:
    from truepair.tasks.nlvr2 import evaluate_nlvr2, finetune_nlvr2

    return _with_one_table(finetune_nlvr2, evaluate_nlvr2)


def _captioning() -> TaskActions:
    from truepair.tasks.captioning import evaluate_captioning, finetune_captioning

    return _with_one_table(finetune_captioning, evaluate_captioning)


def _with_one_table(
    finetune: "Callable[[Any, Path, Say], Any]", evaluate: "Callable[[Path, Any, Path, Say], Any]"
) -> TaskActions:
    """The actions of a task whose figures are one table, and whose answers for a server go beside the model."""
    from truepair.cli.tables import figures_table
    from truepair.models.open import model_folder

    def measure(model: str, recipe: Any, output: Path | None) -> Any:
        """Figures, and the file for the evaluation server."""
        folder = Path(model_folder(model))
        beside = folder.parent if folder.exists() else Path()  # one of the hub: here
        return evaluate(folder, recipe, output or beside, say)

    def tables(result: Any) -> "list[Table]":
        """The figures, where there are some."""
        table = result.table()
        return [] if table is None else [figures_table(table)]

    return TaskActions(partial(_finetune, finetune), measure, tables)


def _finetune(
    run: "Callable[[Any, Path, Say], Any]", recipe: Any, folder: Path, say: "Say", called: Called | None
) -> Any:
    """Fine-tune on a task with one figure table, which is the head of its page."""
    result = run(recipe, folder, say)
    if called is not None and is_first_process():
        from truepair.reports.downstream import report_downstream

        table = None if result is None else result.table()
        page = report_downstream(table, folder, command=called.command, title=called.title)
        say(f"the page of what it found: {page}")
    return result


def _zero_shot() -> TaskActions:
    from truepair.cli.tables import zero_shot_tables
    from truepair.tasks.zero_shot import evaluate_zero_shot

    return TaskActions(None, lambda model, config, _: evaluate_zero_shot(model, config, say), zero_shot_tables)


_VQA: RecipeClass[Any] = RecipeClass("truepair.tasks.vqa_recipe", "VqaRecipe")
_NLVR2: RecipeClass[Any] = RecipeClass("truepair.tasks.nlvr2", "Nlvr2Recipe")
_CAPTIONING: RecipeClass[Any] = RecipeClass("truepair.tasks.captioning", "CaptionRecipe")

TASKS = {
    "retrieval": TaskCommand(PRETRAIN, RecipeClass("truepair.tasks.evaluation", "EvaluateConfig"), _retrieval),
    "zero-shot": TaskCommand(None, RecipeClass("truepair.tasks.zero_shot", "EvaluateZeroShotConfig"), _zero_shot),
    "vqa": TaskCommand(_VQA, _VQA, _vqa),
    "nlvr2": TaskCommand(_NLVR2, _NLVR2, _nlvr2),
    "captioning": TaskCommand(_CAPTIONING, _CAPTIONING, _captioning),
}
