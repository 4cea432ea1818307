"""The card of a trained model: README.md beside its weights, with the metadata that the hub reads."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from truepair.data.source import SourceConfig
from truepair.data.splits import Tables, build_tables
from truepair.engine.logs.log import read_log
from truepair.errors import CheckpointError, TruepairError
from truepair.files import write_text
from truepair.methods.recipe import PretrainRecipe
from truepair.methods.standing import read_heard
from truepair.relations.detectors import Recorded
from truepair.relations.ledger import PERSON, read_ledger, verdicts_of
from truepair.relations.standing import Standing
from truepair.reports.facts import package_versions
from truepair.reports.results import percent
from truepair.tasks.conversions import read_conversions, rule_counts
from truepair.tasks.pretraining import HELD_OUT

CARD = "README.md"

MARK = "<!-- Written by truepair. Without this line the card is yours, and stays as it is. -->"

NO_PRECISION = "no precision stated"

_DEPTHS = (1, 5, 10)

_DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}

_PROTOCOLS = {
    "naive_": "usual protocol: a picture's own captions alone count",
    "": "truth-aware: every caption and picture that the data know to match counts",
}


@dataclass(frozen=True)
class Finding:
    """Matches among the undeclared pairs that somebody found.

    Attributes:
        who: a rule, a judge, or people.
        count: how many, in words.
        precision: what is known of how many of them are right.
    """

    who: str
    count: str
    precision: str


def write_card(run_folder: Path, recipe: PretrainRecipe, *, command: str) -> Path | None:
    """Write the card of a finished run beside its model.

    Args:
        run_folder: with ``model/``, ``log.jsonl`` and what else the run left.
        recipe: of the run.
        command: what trained it.

    Returns:
        The card; None where the user has written one, which stays.

    Raises:
        CheckpointError: the run has no model.
        DataError: the disk refuses.
    """
    card = run_folder / "model" / CARD
    if not card.parent.is_dir():
        raise CheckpointError(f"{run_folder} has no model yet; run its command to the end first")
    if card.is_file() and MARK not in card.read_text(encoding="utf-8"):
        return None
    facts = _CardFacts(run_folder, recipe, command)
    content = f"---\n{facts.metadata().to_yaml()}\n---\n\n{MARK}\n\n{facts.text()}"
    ModelCard(content)  # the hub's own parser; an error here is ours
    write_text(card, content)
    return card


class _CardFacts:
    """What a card says of a run, read from its folder.

    Args:
        run_folder: of the run.
        recipe: of the run.
        command: what trained it.
    """

    def __init__(self, run_folder: Path, recipe: PretrainRecipe, command: str) -> None:
        self.folder = run_folder
        self.recipe = recipe
        self.command = command
        self.model = run_folder / "model"
        self.log = read_log(run_folder / "log.jsonl")
        self.figures = _read_json(run_folder / HELD_OUT)
        try:
            self.tables: Tables | None = build_tables(recipe.data)
        except TruepairError:
            self.tables = None

    def metadata(self) -> ModelCardData:
        """The block of YAML."""
        library, kind = self.library()
        base = self.recipe.model.checkpoint
        of_base = _card_of(base)
        hub_base = base if base is not None and not Path(base).exists() else of_base.get("base_model")
        return ModelCardData(
            base_model=hub_base,
            datasets=[name for name in self.sources() if _is_hub_name(name)] or None,
            eval_results=list(self.results()) or None,
            library_name=library,
            license=of_base.get("license"),
            model_name=self.name,
            pipeline_tag="feature-extraction" if kind == "truepair-albef" else "zero-shot-image-classification",
            tags=["truepair", "image-text-retrieval", "contrastive-learning", *([kind] if kind else [])],
        )

    @property
    def name(self) -> str:
        """Of the run."""
        return self.folder.resolve().name

    def library(self) -> tuple[str, str]:
        """Which library reads the model, and the kind of model as that library calls it."""
        if (self.model / "adapter_config.json").is_file():
            return "peft", "lora"
        if (self.model / "open_clip_config.json").is_file():
            return "open_clip", "clip"
        return "transformers", str(_read_json(self.model / "config.json").get("model_type", ""))

    def results(self) -> Iterator[EvalResult]:
        """The figures for the hub's index; the protocol stands in the name of each."""
        tested = list(map(_source, self.recipe.data.test or self.recipe.data.sources or ()))
        name = _names(tested)
        for way, metrics in self.figures.get("ways", {}).items():
            for prefix, protocol in _PROTOCOLS.items():
                for direction, words in _DIRECTIONS.items():
                    for depth in _DEPTHS:
                        yield EvalResult(
                            task_type="image-text-retrieval",
                            dataset_type=name if _is_hub_name(name) else "image-text-pairs",
                            dataset_name=name,
                            dataset_split=self.test_split,
                            metric_type="recall",
                            metric_value=round(metrics[prefix + direction][f"recall_at_{depth}"]["value"], 4),
                            metric_name=f"R@{depth}, {words}, ranked by {way} ({protocol})",
                        )

    def sources(self) -> list[str]:
        """All sources of the run, each once."""
        data = self.recipe.data
        named = [source for part in (data.sources, data.train, data.validation, data.test) for source in part or ()]
        return list(dict.fromkeys(map(_source, named)))

    @property
    def test_split(self) -> str:
        """What the figures were measured on, in words of the recipe."""
        return "all" if self.recipe.data.test else self.recipe.data.test_split

    def text(self) -> str:
        """All below the block of YAML."""
        parts = [
            f"# {self.name}",
            self._introduction(),
            "## Data",
            self._data(),
            "## Matches among the undeclared pairs",
            self._matches(),
            "## Figures",
            self._figure_table(),
            "## How it was made",
            f"```\n{self.command}\n```",
            ", ".join(f"{package} {version}" for package, version in package_versions().items()),
        ]
        return "\n\n".join(parts) + "\n"

    def _introduction(self) -> str:
        library, kind = self.library()
        base = self.recipe.model.checkpoint
        came = "trained from scratch" if base is None else f"fine-tuned from {_named(base)}"
        licence = _card_of(base).get("license")
        of_base = f"the licence of the model it came from is {licence}" if licence else (
            "" if base is None else "the licence of the model it came from is not known here"
        )  # fmt: skip
        opened = {
            "transformers": "transformers opens it with `AutoModel.from_pretrained`"
            + (" after `import truepair`" if kind == "truepair-albef" else ""),
            "open_clip": "open_clip opens it as `local-dir:FOLDER` or `hf-hub:NAME`",
            "peft": "peft opens it as an adapter of its base model",
        }[library]
        losses = self._losses()
        lines = [f"An image-text model ({kind or library}), {came} with {losses}", opened, of_base]
        return ". ".join(line[0].upper() + line[1:] for line in lines if line) + "."

    def _losses(self) -> str:
        objectives = self.recipe.objectives
        named = {"ITC": objectives.itc.weight, "ITM": objectives.itm.weight, "MLM": objectives.mlm.weight}
        named["ITG"] = objectives.itg.weight
        return " + ".join(name for name, weight in named.items() if weight) or "no loss"

    def _data(self) -> str:
        if self.tables is None:
            return f"Pairs from {_names(self.sources())}, which could not be read again when this card was written."
        rows = ["| split | pictures | captions |", "| --- | --- | --- |"]
        splits = {
            "training": self.tables.train,
            "validation": self.tables.validation,
            "test": self.tables.test,
            "groups kept unseen": self.tables.unseen,
        }
        for split, table in splits.items():
            if table is not None:
                pictures = len(set(table.pictures.tolist()))
                captions = sum(map(len, table.values("captions")))
                rows.append(f"| {split} | {pictures:,} | {captions:,} |")
        return f"Pairs from {_names(self.sources())}.\n\n" + "\n".join(rows)

    def _matches(self) -> str:
        found = list(self.findings())
        if not found:
            return "None were looked for: every undeclared pair was a negative."
        rows = ["| found by | how many | precision |", "| --- | --- | --- |"]
        rows += [f"| {finding.who} | {finding.count} | {finding.precision} |" for finding in found]
        return "\n".join(rows)

    def findings(self) -> Iterator[Finding]:
        """Who found matches: rules in the batches, ledgers, the run's own judge."""
        for (detector, action), cells in rule_counts(self.log).items():
            count = f"{cells:,} cells of batches, over all epochs"
            yield Finding(f"rule `{detector}`, action `{action}`", count, NO_PRECISION)
        heard = read_heard(self.recipe.relations, self.folder)
        for recorded in heard.relations.detectors:
            if isinstance(recorded, Recorded):
                ledger = heard.names.get(recorded.ledger, recorded.ledger)
                yield from _of_ledger(recorded, Path(ledger).parent.name, heard.standings.get(ledger))
        yield from self._own_judge()

    def _own_judge(self) -> Iterator[Finding]:
        if self.tables is None:
            return
        try:
            found = read_conversions(self.folder, self.tables.train, self.log, self.recipe)
        except TruepairError:  # the pairs have changed since
            return
        if found is not None and len(found):
            precision = NO_PRECISION
            if found.precision is not None:
                precision = f"{percent(found.precision)} of the {found.judged:,} whose truth the data know"
            yield Finding("the run's judge", f"{len(found):,} pairs became matches", precision)

    def _figure_table(self) -> str:
        ways = self.figures.get("ways", {})
        if not ways:
            return "The data had no test split, so nothing was measured."
        own = self.figures.get("own_captions")  # runs of older versions did not state it
        head = f"Retrieval on {self.figures['images']:,} pictures"
        head += "" if own is None else f" with {own:,} captions of their own"
        head += f" ({self.figures['captions']:,} texts are known of them)"
        rows = [f"{head}, split `{self.test_split}`, with 95 % bootstrap intervals over queries.", ""]
        rows += ["| protocol | ranked by | direction | R@1 | R@5 | R@10 |", "| --- | --- | --- | --- | --- | --- |"]
        for prefix, protocol in _PROTOCOLS.items():
            for way, metrics in ways.items():
                for direction, words in _DIRECTIONS.items():
                    cells = [_interval(metrics[prefix + direction][f"recall_at_{depth}"]) for depth in _DEPTHS]
                    rows.append(f"| {protocol} | {way} | {words} | {' | '.join(cells)} |")
        return "\n".join(rows)


def _of_ledger(detector: Recorded, name: str, standing: Standing | None) -> Iterator[Finding]:
    """What each judge of a ledger found, and people.

    Args:
        detector: the zone meant, and by whom.
        name: of the ledger.
        standing: what it stands on, where it says: its precision is that of the zone "match".
    """
    try:
        verdicts = read_ledger(detector.ledger)
    except TruepairError:
        yield Finding(f"the ledger `{name}`", "it could not be read again", NO_PRECISION)
        return
    if standing is not None:
        verdicts = verdicts_of(verdicts, standing.judge)
    verdicts = verdicts.filter(detector.contains(torch.from_numpy(verdicts["probability"].to_numpy().copy())).numpy())
    counts = Counter(verdicts["judge"].to_pylist())
    people = [judge for judge in counts if judge.startswith(PERSON)]
    precision = standing.sentence() if standing is not None and detector.zone == "match" else NO_PRECISION
    if detector.by != "people":
        for judge in sorted(set(counts) - set(people)):
            found = f"{counts[judge]:,} pairs, zone {detector.zone}"
            yield Finding(f"judge `{judge}` in the ledger `{name}`", found, precision)
    if people and detector.by != "judges":
        persons = "1 person" if len(people) == 1 else f"{len(people)} people"
        found = f"{sum(counts[person] for person in people):,} pairs, zone {detector.zone}"
        yield Finding(f"{persons} in the ledger `{name}`", found, "judged by eye")


def _names(sources: Iterable[str]) -> str:
    """Sources, without the folders of this machine."""
    return ", ".join(name if _is_hub_name(name) else Path(name).name for name in sources)


def _source(source: str | SourceConfig) -> str:
    return source if isinstance(source, str) else source.source


def _is_hub_name(name: str) -> bool:
    """Whether a source names a data set of the hub, with its owner."""
    return name.count("/") == 1 and not Path(name).exists() and not Path(name).suffix and name[0] not in "./~"


def _named(base: str) -> str:
    """A base model: its name on the hub, or that of its folder alone."""
    return f"the folder `{Path(base).name}`" if Path(base).exists() else f"[{base}](https://huggingface.co/{base})"


def _card_of(base: str | None) -> Mapping[str, Any]:
    """The metadata of a base model's card, where it lies beside the model; empty where it does not."""
    card = None if base is None else Path(base) / CARD
    if card is None or not card.is_file():
        return {}
    try:
        return dict(ModelCard.load(card).data.to_dict())
    except (ValueError, OSError, yaml.YAMLError):  # somebody else's, and broken
        return {}


def _interval(figure: Mapping[str, float]) -> str:
    return f"{percent(figure['value'])} ({100 * figure['low']:.1f}\N{EN DASH}{100 * figure['high']:.1f})"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
