"""The runs of a study: what each trains, where it goes, and what it needs first."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from truepair.errors import ConfigError, nearest
from truepair.methods.recipe import PretrainRecipe
from truepair.tasks.study.config import ArmConfig, LayerConfig, PrepareConfig, StudyConfig

ReadRecipe = Callable[[Sequence[str], Mapping[str, Any], str], PretrainRecipe]
"""Names of recipes, the lowest first; dotted fields over them; and where they come from, for messages."""

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """One run of a study: a cell of its grid, or something that cells need.

    Attributes:
        folder: where everything goes.
        command: pretrain, judge or mine.
        recipe: of the command.
        needs: folders of the runs that come first.
        fingerprint: of everything the run was asked for, and of what it needs. A field at its default does not enter,
            so that fields which a later version adds leave the runs of a study as they are.
        arm: the cell's arm; None for what ``prepare`` asks for.
        data: kind of data.
        data_seed: draw of concepts.
        seed: of initialisation and order.
        judge: for mine: folder of the judge.
        low: for mine: least probability.
        high: for mine: where "relabel" begins.
    """

    folder: Path
    command: str
    recipe: PretrainRecipe
    needs: tuple[Path, ...]
    fingerprint: str
    arm: str | None
    data: str
    data_seed: int
    seed: int
    judge: Path | None = None
    low: float = 0.1
    high: float = 0.5

    @property
    def name(self) -> str:
        """How messages call it."""
        return "/".join(self.folder.parts[-4:])


def runs_of(study: StudyConfig, folder: Path, read: ReadRecipe) -> list[StudyRun]:
    """All runs of a study in an order in which they can be done: what is needed comes first.

    Runs are ordered by seeds first and arms last, so that a study that is stopped early has some of each arm.

    Args:
        study: the study.
        folder: its folder.
        read: reads layers of recipes.

    Raises:
        ConfigError: a placeholder that names nothing, two names that would share a folder, a recipe that cannot be
            read.
    """
    for names in (study.arms, study.data, study.prepare):
        if len({slug(name) for name in names}) < len(names):
            raise ConfigError(f"two of {', '.join(names)} would share a folder; give them names that differ in letters")
    grid = _Grid(study, folder, read)
    cells = [run for name, arm in study.arms.items() for run in grid.cells(name, arm)]
    cells.sort(key=lambda run: (study.seeds.index(run.seed), study.data_seeds.index(run.data_seed)))
    found: dict[Path, StudyRun] = {}
    for cell in cells:
        found |= {run.folder: run for run in grid.with_needs(cell)}
    return list(found.values())


def runs_of_arms(runs: Sequence[StudyRun], arms: Sequence[str]) -> list[StudyRun]:
    """The runs of some arms, and what they need, in order; all without arms.

    Raises:
        ConfigError: an arm that is not there.
    """
    known = dict.fromkeys(run.arm for run in runs if run.arm is not None)
    for name in arms:
        if name not in known:
            raise ConfigError(f"there is no arm '{name}' in the study{nearest(name, known)}")
    wanted: set[Path] = set()
    for run in reversed(runs):
        if not arms or run.arm in arms or run.folder in wanted:
            wanted |= {run.folder, *run.needs}
    return [run for run in runs if run.folder in wanted]


class _Grid:
    """Makes the runs of a study.

    Args:
        study: the study.
        folder: its folder.
        read: reads layers of recipes.
    """

    def __init__(self, study: StudyConfig, folder: Path, read: ReadRecipe) -> None:
        self.study = study
        self.folder = folder.absolute()
        self.read = read
        self.prepared: dict[Path, StudyRun] = {}
        self.recipes: dict[tuple[str, str], PretrainRecipe] = {}

    def cells(self, name: str, arm: ArmConfig) -> Iterator[StudyRun]:
        """Every run of an arm."""
        seeds = self.study.seeds[: arm.seeds]
        for data in arm.data or self.study.data:
            for data_seed in self.study.data_seeds:
                yield from self._seeded(arm, f"arm '{name}'", data, data_seed, seeds, arm_name=name)

    def with_needs(self, run: StudyRun) -> Iterator[StudyRun]:
        """What a run needs, then the run itself."""
        for needed in run.needs:
            yield from self.with_needs(self.prepared[needed])
        yield run

    def _seeded(
        self, layer: LayerConfig, where: str, data: str, data_seed: int, seeds: Sequence[int], *, arm_name: str
    ) -> Iterator[StudyRun]:
        """The runs of an arm that differ in the seed alone."""
        for seed in seeds:
            needs = self._needs(layer.fields, data, data_seed, seed)
            recipe = self._recipe(layer, where, data, data_seed, seed, needs)
            yield StudyRun(
                folder=self.folder / "cells" / slug(data) / str(data_seed) / slug(arm_name) / str(seed),
                command="pretrain",
                recipe=recipe,
                needs=tuple(needs.values()),
                fingerprint=self._fingerprint(recipe, {}, needs.values()),
                arm=arm_name,
                data=data,
                data_seed=data_seed,
                seed=seed,
            )

    def _needs(self, values: Any, data: str, data_seed: int, seed: int) -> dict[str, Path]:
        """Folders of the prepared runs that some fields name."""
        return {name: self._prepared(name, data, data_seed, seed) for name in _placeholders(values)}

    def _prepared(self, name: str, data: str, data_seed: int, seed: int) -> Path:
        """The folder of a prepared run, which is entered into the plan."""
        layer = self._prepare(name)
        seed = seed if layer.per_seed else self.study.seeds[0]
        last = [str(seed)] if layer.per_seed else []
        folder = Path(self.folder, "prepared", slug(data), str(data_seed), slug(name), *last)
        if folder in self.prepared:
            return folder
        needs = self._needs([layer.fields, layer.judge], data, data_seed, seed)
        recipe = self._recipe(layer, f"prepare '{name}'", data, data_seed, seed, needs)
        mining = {"judge": _filled(layer.judge, needs), "low": layer.low, "high": layer.high}
        self.prepared[folder] = StudyRun(
            folder=folder,
            command=layer.command,
            recipe=recipe,
            needs=tuple(needs.values()),
            fingerprint=self._fingerprint(recipe, {"command": layer.command, **mining}, needs.values()),
            arm=None,
            data=data,
            data_seed=data_seed,
            seed=seed,
            judge=None if layer.judge is None else Path(str(mining["judge"])),
            low=layer.low,
            high=layer.high,
        )
        return folder

    def _prepare(self, name: str) -> PrepareConfig:
        if name not in self.study.prepare:
            raise ConfigError(f"'{{{name}}}' names nothing that is prepared{nearest(name, self.study.prepare)}")
        return self.study.prepare[name]

    def _recipe(
        self, layer: LayerConfig, where: str, data: str, data_seed: int, seed: int, needs: Mapping[str, Path]
    ) -> PretrainRecipe:
        """A layer's recipe for one draw and seed; it is read once, with the names of what it needs in place of folders.

        Reading takes an eighth of a second, and a study has hundreds of runs.
        """
        if (where, data) not in self.recipes:
            names = [*layer.presets, *self.study.recipes, *layer.recipes]
            fields = {**self.study.fields, **self.study.data[data], **layer.fields}
            self.recipes[where, data] = self.read(names, fields, where)
        recipe: PretrainRecipe = _filled(self.recipes[where, data], needs)
        drawn = replace(recipe.data, group_seed=data_seed)
        return replace(recipe, data=drawn, loop=replace(recipe.loop, seed=seed))

    def _fingerprint(self, recipe: PretrainRecipe, more: Mapping[str, Any], needs: Iterable[Path]) -> str:
        """Of what a run was asked for, wherever the study's folder is."""
        needed = [self.prepared[folder].fingerprint for folder in needs]
        text = json.dumps([_stated(recipe), more, needed], sort_keys=True, default=str).replace(str(self.folder), "")
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def slug(name: str) -> str:
    """A name as part of a path: letters, digits and some signs stay, anything else becomes a hyphen."""
    return re.sub(r"[^\w.+=%-]+", "-", name).strip("-.") or "-"


def _stated(value: Any) -> Any:
    """Configs as names and values, without the fields that are at their defaults."""
    if is_dataclass(value):
        pairs = [(entry, getattr(value, entry.name)) for entry in fields(value)]
        return {entry.name: _stated(part) for entry, part in pairs if part != _default(entry)}
    if isinstance(value, Mapping):
        return {name: _stated(part) for name, part in value.items()}
    return [_stated(part) for part in value] if isinstance(value, list | tuple) else value


def _default(entry: Field[Any]) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _placeholders(value: Any) -> list[str]:
    """Names in braces, in any text among nested values."""
    if isinstance(value, str):
        return _PLACEHOLDER.findall(value)
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else []
    return [name for part in parts for name in _placeholders(part)]


def _filled(value: Any, folders: Mapping[str, Path]) -> Any:
    """Values, also those within configs, with the names in braces replaced by folders."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: str(folders.get(match[1], match[0])), value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{entry.name: _filled(getattr(value, entry.name), folders) for entry in fields(value)})
    if isinstance(value, Mapping):
        return {name: _filled(part, folders) for name, part in value.items()}
    return [_filled(part, folders) for part in value] if isinstance(value, list) else value
