"""The model that a run leaves: the last, or the best on the validation data."""

from transformers import PreTrainedModel

from truepair.training.run_result import RunResult
from truepair.training.snapshot import load_average, load_weights


def take_best(model: PreTrainedModel, run: RunResult) -> None:
    """Put the weights of the best checkpoint into the model and into the run's model folder, if one was chosen.

    Of a run with an average they are the averaged ones, as in the evaluation that chose them.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    if run.best_folder is not None:
        load_weights(model, run.best_folder)
        load_average(model, run.best_folder)
        model.save_pretrained(run.model_folder)
