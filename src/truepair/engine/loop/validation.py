"""Evaluation between epochs, and the model that a run leaves: the last, or the best."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedModel

from truepair.engine.logs.log import RunLog
from truepair.engine.logs.progress import RunProgress
from truepair.engine.loop.signals import StopSignals
from truepair.errors import ConfigError

Evaluator = Callable[[PreTrainedModel], dict[str, float]]
"""Returns the validation figures of a model."""

Compare = Callable[[Mapping[str, float], Mapping[str, float]], str | None]
"""(figures before training, figures now) -> a line for people, or None."""


def percentages(figures: Mapping[str, float]) -> str:
    """All figures as percentages, for one line on the screen."""
    return ", ".join(f"{name} {value:.1%}" for name, value in figures.items())


class Validation:
    """Evaluates the model at the end of epochs, on one process.

    The log tells what has been evaluated, so that a run that was stopped in an evaluation starts it again.

    Args:
        evaluator: returns the figures of a model; None for no evaluation.
        every: epochs between two evaluations; 0 for never.
        epochs: epochs of the run.
        best_figure: the figure whose highest value names the best checkpoint; empty for none.
        describe: what is said on the screen of the figures.
        compare: a line on figures now against those before training, or None; with it, the model is evaluated before
            its first step as well.

    Attributes:
        before: the figures before training, where they were asked for and are known.
    """

    def __init__(
        self,
        evaluator: Evaluator | None,
        *,
        every: int,
        epochs: int,
        best_figure: str,
        describe: Callable[[Mapping[str, float]], str] = percentages,
        compare: Compare | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.every = every
        self.epochs = epochs
        self.best_figure = best_figure
        self.describe = describe
        self.compare = compare
        self.before: Mapping[str, Any] | None = None
        self._scores: dict[int, float] = {}

    def warnings(self) -> list[str]:
        """A line if the best model is asked for, and nothing says which one it is."""
        if not self.best_figure or (self.evaluator is not None and self.every):
            return []
        return [
            f"loop.best_figure is '{self.best_figure}', but nothing is evaluated (no validation split, or "
            "loop.evaluate_every is 0); the last model is kept"
        ]

    def due(self, epoch: int) -> bool:
        """Whether an epoch ends with an evaluation; the last one does, unless there is none at all.

        Epoch -1 is what was before the first step.
        """
        if epoch < 0:
            return self.evaluator is not None and self.compare is not None
        if self.evaluator is None or not self.every:
            return False
        return (epoch + 1) % self.every == 0 or epoch + 1 == self.epochs

    def run(
        self,
        model: PreTrainedModel,
        step: int,
        epoch: int,
        log: RunLog,
        progress: RunProgress,
        signals: StopSignals,
    ) -> None:
        """Evaluate, unless it has been done; a signal breaks it off, and it is done when the run goes on.

        Raises:
            ConfigError: the best figure is none of those that are evaluated.
        """
        if self.evaluator is None or step in self._scores:
            return
        evaluate = self.evaluator
        figures = signals.interruptibly(lambda: evaluate(model))
        if figures is None:
            return
        self._scores[step] = self._score(figures)
        log.write("validation", step, epoch=epoch, **figures)
        when = f"epoch {epoch + 1} of {self.epochs}" if step else "before training"
        progress.say(f"{when}: validation {self.describe(figures)}")
        if not step:
            self.before = figures
        elif self.compare is not None and self.before is not None:
            line = self.compare(self.before, figures)
            if line is not None:
                progress.say(line)

    def restore(self, records: dict[int, dict[str, Any]]) -> None:
        """Take in what was evaluated before the run was stopped."""
        self._scores = {step: self._score(figures) for step, figures in records.items()}
        self.before = records.get(0)

    @property
    def best_step(self) -> int | None:
        """The step with the highest ``best_figure``, the first of equals; None without one.

        What was before training is no step: it has no checkpoint.
        """
        steps = sorted(step for step in self._scores if step)
        return max(steps, key=self._scores.__getitem__) if self.best_figure and steps else None

    def _score(self, figures: dict[str, Any]) -> float:
        if not self.best_figure:
            return 0.0
        if self.best_figure not in figures:
            names = ", ".join(name for name in figures if name not in ("kind", "step", "epoch"))
            raise ConfigError(f"loop.best_figure is '{self.best_figure}', which is not evaluated; give one of {names}")
        value = figures[self.best_figure]
        return float(value) if value is not None and math.isfinite(value) else -math.inf
