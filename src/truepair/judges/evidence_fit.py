"""Fitting the evidence judge on clean pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truepair.data.table import PairTable
from truepair.errors import ConfigError, DataError
from truepair.evaluation.truth import Truth
from truepair.judges.calibration import fit_logistic
from truepair.judges.evidence import EvidenceModel, EvidenceSpaces, EvidenceTables, evidence_of, terms_of, with_products

_ROWS = 256  # rows of a fold looked at together


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """How the evidence model is fitted.

    Attributes:
        image_width: most directions of the image metric.
        text_width: most directions of the text metric.
        shrinkage: share of the identity in the covariances within concepts.
        ridge: penalty of the map from image to caption features.
        l2: penalty of the logistic regression.
        folds: concepts are dealt into so many parts; the evidence on a part comes from spaces fitted on the others.
        hard: nearest false captions of each image that all count; the others are sampled.
        sampled: about how many of the others are taken.
        prior: share of matches among the undeclared pairs to be judged; None takes that of the clean data.
        seed: of dealing and sampling.

    Raises:
        ConfigError: a number out of range.
    """

    image_width: int = 256
    text_width: int = 128
    shrinkage: float = 0.5
    ridge: float = 1.0
    l2: float = 1e-2
    folds: int = 4
    hard: int = 32
    sampled: int = 200_000
    prior: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2 or min(self.image_width, self.text_width, self.hard, self.sampled) < 1:
            raise ConfigError("evidence needs at least 2 folds, and widths, hard and sampled of at least 1")
        if not 0.0 < self.shrinkage <= 1.0 or (self.prior is not None and not 0.0 < self.prior < 1.0):
            raise ConfigError("evidence.shrinkage must be above 0, up to 1, and evidence.prior between 0 and 1")

    def spaces(self, tables: EvidenceTables, groups: Tensor) -> EvidenceSpaces:
        """Fit the spaces on N clean pairs, each of a group, int64 [N]."""
        return EvidenceSpaces.fit(
            tables,
            groups,
            image_width=self.image_width,
            text_width=self.text_width,
            shrinkage=self.shrinkage,
            ridge=self.ridge,
        )


def fit_evidence(tables: EvidenceTables, table: PairTable, config: EvidenceConfig | None = None) -> EvidenceModel:
    """Fit spaces and logistic regression on clean pairs.

    The inputs of the regression come from spaces that never saw the concepts in question: those of the training set
    will be new as well.

    Args:
        tables: features of the clean pairs.
        table: the clean pairs themselves, with a ``group`` column; their first captions count.
        config: how.

    Raises:
        DataError: no groups, too few, or no true pair among the undeclared ones.
    """
    config = config or EvidenceConfig()
    truth = Truth.from_table(table)
    named = table.values("group") if "group" in table.rows.column_names else [None]
    if truth is None or all(name is None for name in named):
        raise DataError(
            f"{table.name} states no groups; give clean pairs whose column 'group' says what each shows, or do without "
            "by 'truepair mine' and 'truepair review'"
        )
    if None in named:
        raise DataError(
            f"{named.count(None):,} of {len(named):,} rows of {table.name} state no group; fill in the column, or "
            "leave them out"
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(named))}
    if len(numbers) == len(named):
        raise DataError(
            f"each of the {len(named):,} rows of {table.name} is a group of its own; the column 'group' should say the "
            "same of rows that show the same"
        )
    groups = torch.tensor([numbers[name] for name in named])  # [N]
    if len(numbers) < 2 * config.folds:
        raise DataError(f"{table.name} has {len(numbers)} groups, too few for {config.folds} folds; give more of them")
    generator = torch.Generator().manual_seed(config.seed)
    fold = (torch.randperm(len(numbers), generator=generator) % config.folds)[groups]  # [N]
    sampler = _Sampler(tables, table, truth, config, generator)
    parts = []
    for number in range(config.folds):
        others, rows = (fold != number).nonzero()[:, 0], (fold == number).nonzero()[:, 0]
        parts.append(sampler.sample(config.spaces(tables.rows(others), groups[others]), rows))
    inputs, labels, weights = (torch.cat(column) for column in zip(*parts, strict=True))
    if not bool(labels.any()):
        raise DataError(f"no undeclared pair of {table.name} is true; evidence needs concepts with several captions")
    prior = sampler.natural_prior if config.prior is None else config.prior
    false = weights * (~labels)
    weights = torch.where(labels, 1.0, false * (labels.sum() / false.sum() * (1 - prior) / prior))
    centre = (inputs * weights[:, None]).sum(dim=0) / weights.sum()
    spread = ((inputs - centre).square() * weights[:, None]).sum(dim=0).div(weights.sum()).sqrt().clamp(min=1e-6)
    found = fit_logistic((inputs - centre) / spread, labels, weights, l2=config.l2).float()
    return EvidenceModel(
        config.spaces(tables, groups), terms_of(tables), centre.float(), spread.float(), found, tables.encoders
    )


class _Sampler:
    """Labelled undeclared pairs of clean rows: all matches, the hardest non-matches, and a sample of the others."""

    def __init__(
        self,
        tables: EvidenceTables,
        table: PairTable,
        truth: Truth,
        config: EvidenceConfig,
        generator: torch.Generator,
    ) -> None:
        self.tables = tables
        self.truth = truth
        self.config = config
        self.generator = generator
        self.image_ids = torch.from_numpy(table.picture_keys.copy())
        self.keys = torch.tensor([table.caption_key(row[0]) for row in table.values("captions")])
        every = torch.arange(len(table))
        matches = sum(int(self._labels(part, every)[0].sum()) for part in every.split(_ROWS))
        self.natural_prior = max(matches, 1) / max(len(table) * (len(table) - 1), 1)

    def sample(self, spaces: EvidenceSpaces, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs among some rows: inputs [P, Q], labels [P], and how many pairs each stands for [P]."""
        projected = spaces.project(self.tables.rows(rows))
        terms = terms_of(self.tables)
        rate = min(1.0, self.config.sampled / self.config.folds / len(rows) ** 2)
        inputs, labels, weights = [], [], []
        for part in torch.arange(len(rows)).split(_ROWS):
            match, open_ = self._labels(rows[part], rows)  # [R, M]
            false = open_ & ~match
            images, texts = (projected[name][part] @ projected[name].T for name in ("image", "text"))  # [R, M]
            nearness = (images + texts).masked_fill(~false, -torch.inf)
            nearest = nearness.topk(min(self.config.hard, len(rows)), dim=1).indices
            hard = torch.zeros_like(false).scatter(1, nearest, True) & false
            drawn = (torch.rand(false.shape, generator=self.generator) < rate) & false & ~hard
            left, right = (match | hard | drawn).nonzero().T
            inputs.append(with_products(evidence_of(projected, terms, part[left], right)).double())
            labels.append(match[left, right])
            weights.append(torch.where(drawn[left, right], 1 / rate, 1.0).double())
        return torch.cat(inputs), torch.cat(labels), torch.cat(weights)

    def _labels(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Undeclared pairs of image rows and caption rows that match, and all undeclared ones, bool [R, M] each."""
        shape = (len(left), len(right))
        keys = self.keys[right].expand(shape)
        true = self.truth.matches(left[:, None].expand(shape).flatten(), keys.flatten()).view(shape)
        same_image = self.image_ids[left][:, None] == self.image_ids[right]
        same_text = self.keys[left][:, None] == self.keys[right]
        undeclared = ~same_image & ~same_text
        return true & undeclared, undeclared
