"""Rules: what to look for in a batch and what to do about it, as a recipe states them, applied one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from truepair.errors import ConfigError, nearest
from truepair.relations.actions import Action, Keep, Mask, Relabel, Reweight, Skip, Smooth
from truepair.relations.batch import BatchRelations
from truepair.relations.detectors import (
    Detector,
    GuideSimilarity,
    Judged,
    LowWeight,
    MomentumSimilarity,
    RandomPairs,
    Recorded,
    SameCaption,
    SameGroup,
    SameImage,
    Signals,
)

DETECTORS: dict[str, type[Detector]] = {
    kind.name: kind
    for kind in (
        SameImage,
        SameCaption,
        SameGroup,
        Recorded,
        Judged,
        GuideSimilarity,
        MomentumSimilarity,
        LowWeight,
        RandomPairs,
    )
}
"""What a rule may look for, by name; its fields are those of the class."""

ACTIONS: dict[str, type[Action]] = {kind.name: kind for kind in (Keep, Mask, Relabel, Reweight, Skip, Smooth)}
"""What a rule may do, by name; its fields are those of the class."""

# What recipes of the first edition said, and what to say instead.
_RETIRED = {
    "con_d": "it is called 'judge' now",
    "swap": "it is called 'skip' now",
    "ledger_actions": "a ledger holds probabilities only; choose among them by zone, low and high",
}


def field_types(kind: type) -> dict[str, Any]:
    """Names and types of the fields of a detector or an action."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


@dataclass(frozen=True)
class Rule:
    """One line of a recipe.

    Attributes:
        detector: Finds pairs.
        action: What becomes of them.

    Example:
        >>> Rule.of({"detector": "guide", "margin": 0.1, "action": "mask"})
        Rule(detector=GuideSimilarity(margin=0.1, strategy='absolute', compare='across'), action=Mask())
    """

    detector: Detector
    action: Action

    @classmethod
    def of(cls, stated: Mapping[str, Any]) -> "Rule":
        """The rule that a recipe states: ``detector`` and ``action`` by name, and fields of either.

        Raises:
            ConfigError: There is no such detector, action or field, or a value is of another type.
        """
        if not isinstance(stated, Mapping):
            raise ConfigError(
                f"a rule is a group of fields, {{detector: same_image, action: relabel}} say, not {stated}"
            )
        detector = _kind("detector", stated.get("detector"), DETECTORS)
        action = _kind("action", stated.get("action"), ACTIONS)
        of_detector, of_action = field_types(detector), field_types(action)
        for name in stated:
            if name not in ("detector", "action", *of_detector, *of_action):
                raise ConfigError(_unknown(name, stated, [*of_detector, *of_action]))
        return cls(_made(detector, of_detector, stated), _made(action, of_action, stated))

    def stated(self) -> dict[str, Any]:
        """The rule as a recipe would state it, all of its fields written out but those that are left open."""
        of_detector, of_action = asdict(self.detector), asdict(self.action)  # type: ignore[call-overload]
        stated = {name: value for name, value in (of_detector | of_action).items() if value is not None}
        return {"detector": self.detector.name, "action": self.action.name, **stated}


def apply_rules(rules: Sequence[Rule], signals: Signals, *, symmetric: bool = True) -> BatchRelations:
    """What the rules find in a batch; of several that find a pair the first counts.

    Args:
        rules: In the order of precedence.
        signals: What is known about the batch; only what a rule needs is computed.
        symmetric: Whether a finding holds in both directions whichever side found it.
    """
    relations = BatchRelations(signals.size, (), symmetric)
    for rule in rules:
        relations = relations.adding(rule.detector.name, rule.detector.find(signals), rule.action)
    return relations


def _kind(what: str, name: Any, known: Mapping[str, type]) -> type:
    """The class of a detector or an action.

    Raises:
        ConfigError: There is none of this name.
    """
    if name in known:
        return known[name]
    if name is None:
        raise ConfigError(f"a rule lacks its {what}; give one of {', '.join(known)}")
    hint = f"; {_RETIRED[name]}" if name in _RETIRED else nearest(str(name), known)
    raise ConfigError(f"there is no {what} '{name}'{hint}; give one of {', '.join(known)}")


def _made(kind: type, hints: Mapping[str, Any], stated: Mapping[str, Any]) -> Any:
    """A detector or an action with what a rule states of its fields."""
    return kind(**{name: _checked(name, stated[name], hint) for name, hint in hints.items() if name in stated})


def _unknown(name: str, stated: Mapping[str, Any], own: Sequence[str]) -> str:
    """What is wrong with a field that neither detector nor action has."""
    if name in _RETIRED:
        return f"a rule has no field '{name}' any more: {_RETIRED[name]}"
    rule = f"detector '{stated['detector']}' with action '{stated['action']}'"
    has = f"they have {', '.join(own)}" if own else "they have none"
    return f"{rule} has no field '{name}'{nearest(name, own)}; {has}"


def _checked(name: str, value: Any, hint: Any) -> Any:
    """A value of a field, if it is of the field's type; whole numbers will do for any.

    Raises:
        ConfigError: It is of another type.
    """
    if NoneType in get_args(hint):
        if value is None:
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise ConfigError(f"{name} is {value!r}; give one of {', '.join(map(str, get_args(hint)))}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint):
        return value
    raise ConfigError(f"{name} is {value!r}, which is no {'number' if hint is float else 'text'}")
