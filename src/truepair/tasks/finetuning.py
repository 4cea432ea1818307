"""Fine-tuning on any downstream task: the engine of pre-training, with a task's data, loss and figures."""

from pathlib import Path
from typing import Any, cast

from truepair.models.downstream import DownstreamModel
from truepair.tasks.downstream_task import DownstreamTask, Result
from truepair.training.build import Say
from truepair.training.finetune_step import FinetuneStep
from truepair.training.loop import TrainingLoop
from truepair.training.selection import take_best


def finetune(task: DownstreamTask[Any, Any, Result], run_folder: Path, say: Say) -> Result | None:
    """Train a task's model to the end of the run, or go on where it was stopped; then answer the test texts.

    The model that is left, in memory and in ``run_folder/model``, is the best on the validation data where
    ``loop.best_figure`` says so.

    Args:
        task: what is trained.
        run_folder: where checkpoints, logs, the model and the answers go.
        say: prints a line.

    Returns:
        The result of the test texts; None without such, and on further ranks.

    Raises:
        TruepairError: anything that does not fit, in one line.
    """
    dataset = task.train_dataset()
    say(f"{len(dataset):,} training {task.texts_name}")
    engine = TrainingLoop(
        FinetuneStep(task.model, task.train_states()),
        dataset,
        task.preprocessing,
        task.collate,
        loop=task.recipe.loop,
        optimizer=task.recipe.optimizer,
        run_folder=run_folder,
        evaluator=task.figures if task.validates else None,
    )
    run = engine.run()
    if not engine.accelerator.is_main_process:
        return None
    task.model = cast(DownstreamModel, engine.model)
    take_best(task.model, run)
    return task.evaluate(run_folder) if task.tests else None
