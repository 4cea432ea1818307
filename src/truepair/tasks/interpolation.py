"""The models between the start of a run and its end: measured on validation data, and one of them saved if told to."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from truepair.engine.state.snapshot import save_anew
from truepair.errors import ConfigError
from truepair.files import write_json
from truepair.methods.recipe import InterpolateConfig
from truepair.methods.student import Say
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.interpolation import interpolate, weights_of

INTERPOLATION = "interpolation.json"
"""File of a run's curve from the start to the trained model."""


@dataclass(frozen=True)
class InterpolationPoint:
    """A model between start and end.

    Attributes:
        alpha: share of the trained weights.
        figures: its validation figures, by the names of the log.
    """

    alpha: float
    figures: dict[str, float]


@dataclass(frozen=True)
class InterpolationCurve:
    """The models between start and end.

    Attributes:
        points: from the start to the end.
        saved: share of the trained weights of the model that is saved.
    """

    points: list[InterpolationPoint]
    saved: float

    def as_dict(self) -> dict[str, Any]:
        """The curve, ready for JSON."""
        return asdict(self)


def interpolate_run(
    model: DualEncoder,
    start: Mapping[str, Tensor],
    config: InterpolateConfig,
    evaluate: Callable[[DualEncoder], dict[str, float]],
    folder: Path,
    say: Say,
) -> InterpolationCurve:
    """Measure the models between the start and the trained one, and leave the wanted one in memory and in the folder.

    Args:
        model: trained; its folder is ``model`` in the run folder.
        start: its weights before training, from `weights_of`.
        config: what is measured and what is saved.
        evaluate: validation figures of a model; empty without validation data.
        folder: the run folder; ``interpolation.json`` goes there.
        say: prints a line.

    Raises:
        ConfigError: a figure to choose by that is not evaluated, or an adapter.
    """
    trained = weights_of(model)
    alphas = sorted({*config.alphas, *([] if config.alpha is None else [config.alpha])})
    points = []
    for alpha in alphas:
        model.load_state_dict(interpolate(start, trained, alpha))
        points.append(InterpolationPoint(alpha, evaluate(model)))
    if not points or not points[0].figures:
        say("models between start and trained one are not measured: no alphas, or no validation split and no zero_shot")
    saved = 1.0 if config.alpha is None else config.alpha
    reason = "as model.interpolate.alpha says"
    if config.choose:
        saved = _chosen(points, config.choose)
        reason = f"where the mean of {', '.join(config.choose)} on validation data is highest"
    model.load_state_dict(interpolate(start, trained, saved))
    if config.alpha is None and not config.choose:
        say(f"models between start and trained one: see {folder / INTERPOLATION}; the trained one is saved")
    else:
        save_anew(folder / "model", model.save_pretrained)
        say(f"the saved model is {1 - saved:.0%} start and {saved:.0%} trained, {reason}")
    curve = InterpolationCurve(points, saved)
    write_json(folder / INTERPOLATION, curve.as_dict())
    return curve


def _chosen(points: list[InterpolationPoint], names: list[str]) -> float:
    """The share at the point with the highest mean of some figures, the largest share of equals.

    Raises:
        ConfigError: one of them is not evaluated.
    """
    known = points[0].figures
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise ConfigError(
            f"model.interpolate.choose names '{missing}', which is not evaluated; give one of "
            f"{', '.join(known) or 'the figures of a validation split, which the data has not'}"
        )
    return max(points, key=lambda point: (sum(point.figures[name] for name in names), point.alpha)).alpha
