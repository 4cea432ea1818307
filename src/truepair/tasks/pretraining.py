"""A whole training run: from a recipe to a trained model and its retrieval figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from truepair.data.caption_check import check_captions, look_step
from truepair.data.fingerprint import table_fingerprints
from truepair.data.identity import concept_labels, match_keys
from truepair.data.left_out import SKIPPED, LeftOut
from truepair.data.pairs import PairCollator, PairDataset
from truepair.data.pixels import DECODER, decoder_line, decoder_name
from truepair.data.preprocessing import Preprocessing
from truepair.data.splits import Tables, build_tables
from truepair.data.table import PairTable
from truepair.engine.distributed.processes import first_process_first, join_processes
from truepair.engine.loop.loop import RunResult, TrainingLoop, take_best
from truepair.engine.loop.validation import percentages
from truepair.engine.state.identity import Identity
from truepair.errors import ConfigError
from truepair.evaluation.reranking import Combination
from truepair.files import write_json
from truepair.methods.apart import pairs_apart
from truepair.methods.build import StepBuilder
from truepair.methods.caches import StateCaches
from truepair.methods.recipe import MODELS_OWN, PretrainRecipe, trains_itm, untrained_losses
from truepair.methods.settings import settings_of
from truepair.methods.standing import Heard, hear
from truepair.methods.step import alone_in_its_batch
from truepair.methods.student import BuildStudent, Say, build_student
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.interpolation import weights_of
from truepair.models.encoders.fingerprint import caption_input_key, combined_key, weights_fingerprint
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.blip2 import Blip2FusionModel
from truepair.models.open import OpenedModel
from truepair.relations.detectors import Recorded
from truepair.relations.ledger import open_index
from truepair.relations.standing import Standing
from truepair.tasks.interpolation import InterpolationCurve, interpolate_run
from truepair.tasks.retrieval import ImageSource, RetrievalResult, RetrievalTask, one_row_a_picture, readable_rows
from truepair.tasks.zero_shot import TOP_1, GuardResult, ZeroShotTask, forgetting

_OTHER_TOKENIZER = "text.tokenizer train learns them from your captions, or start from a model of their language"

HELD_OUT, UNSEEN = "retrieval.json", "retrieval_unseen.json"
"""Files of the figures: on the test split, and on groups that no run trains on."""


@dataclass(frozen=True)
class PretrainOutcome:
    """What a run leaves behind, still in memory.

    Attributes:
        recipe: what the run depended on; its rules have the thresholds that mined ledgers stand on.
        run: steps, speed, and where the model lies.
        retrieval: figures on the test split; None where the data has none.
        model: the trained model.
        collator: its tokenization.
        train_images: the training pictures, for an audit.
        test: the test pictures and their truth; None where the data has none.
        unseen: figures on the groups that no run trains on (``data.unseen_share``); None where there are none.
        zero_shot: what training did to zero-shot classification; None without a ``zero_shot`` section.
        interpolation: the models between the start and the trained one; None without ``model.interpolate``.
        standings: mined ledgers that the run read -> what they stand on.
        left_out: what was left out, cut, merged or replaced, in this call.
    """

    recipe: PretrainRecipe
    run: RunResult
    retrieval: RetrievalResult | None
    model: DualEncoder
    collator: PairCollator
    train_images: ImageSource
    test: RetrievalTask | None
    unseen: RetrievalResult | None = None
    zero_shot: GuardResult | None = None
    interpolation: InterpolationCurve | None = None
    standings: Mapping[str, Standing] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=lambda: LeftOut(lambda _: None))


def pretrain(
    recipe: PretrainRecipe, run_folder: Path, say: Say, *, build: BuildStudent = build_student
) -> PretrainOutcome:
    """Run a recipe to its end, or go on with it where it was stopped.

    Args:
        recipe: everything the run depends on.
        run_folder: where checkpoints, logs, the model, ``retrieval.json`` and ``retrieval_unseen.json`` go.
        say: prints a line.
        build: makes the model before its first step.

    Raises:
        TruepairError: anything in data, recipe or run folder that does not fit, in one line.
    """
    settings = settings_of(recipe)
    state = join_processes(cpu=recipe.loop.cpu)
    queued = recipe.momentum is not None and recipe.momentum.queue_size > 0
    refusal = alone_in_its_batch(recipe.objectives, recipe.loop.batch_size * state.num_processes, queued=queued)
    if refusal is not None:
        raise ConfigError(refusal)
    hardness = recipe.sampler.hardness
    with first_process_first(state):
        also = [] if hardness.ledger is None else [hardness.ledger]
        heard = hear(recipe.relations, run_folder, say, also=also, first=state.is_main_process)
    recipe = replace(recipe, relations=heard.relations)
    left_out = LeftOut(say, run_folder / SKIPPED if state.is_main_process else None)
    tables = build_tables(recipe.data)
    for line in tables.describe():
        say(line)
    left_out.rows(tables.train)
    student = build(recipe, tables.train, say)
    tables = tables.read_by(student.preprocessing.tokenization)
    model, collator = student.model, student.preprocessing.collator()
    contents = _contents(recipe, tables, student, heard)
    model.to(state.device)  # for the states of frozen encoders
    if isinstance(model, AlbefModel):
        model.config.itm_trained = trains_itm(recipe)
    if isinstance(model, Blip2FusionModel) and (trains_itm(recipe) or recipe.model.checkpoint is None):
        model.model.config.itm_trained = trains_itm(recipe)  # else it is as trained as it was
    for line in untrained_losses(recipe):
        say(line)
    say(decoder_line())
    _lost_words(student.preprocessing, tables.train, say, left_out)
    guard = None if recipe.zero_shot is None else _guard(recipe, student.preprocessing, left_out)
    between = recipe.model.interpolate
    start = None if between is None else weights_of(model)

    caches = StateCaches(recipe, student, left_out)
    pictures = _Pictures(recipe, student.preprocessing, collator, caches)
    train_images = pictures.of(tables.train, recipe.model.image_views)
    validation, test, unseen = (pictures.task(table) for table in (tables.validation, tables.test, tables.unseen))
    held_out = None if validation is None else (validation.images.table, validation.images.cache)
    builder = StepBuilder(recipe, student, caches, train_images.table, train_images.cache, run_folder, say, held_out)
    step = builder.build()
    apart = None
    if hardness.ledger is not None and hardness.below is not None:
        verdicts = open_index(heard.place(hardness.ledger))
        apart, line = pairs_apart(hardness.ledger, verdicts, train_images.table, recipe.data.captions, hardness.below)
        say(line)
    loop = TrainingLoop(
        step,
        _dataset(recipe, train_images, student.preprocessing),
        student.preprocessing,
        collator,
        loop=recipe.loop,
        optimizer=recipe.optimizer,
        run_folder=run_folder,
        sampler=recipe.sampler,
        keys=match_keys(train_images.table, recipe.data.captions),
        apart=apart,
        labels=concept_labels(train_images.table),
        max_bad_fraction=recipe.data.max_bad_fraction,
        tell_replaced=partial(left_out.replaced, train_images.table),
        evaluator=partial(_figures, validation, guard) if validation is not None or guard is not None else None,
        describe_figures=_recalls,
        compare_figures=_comparison(recipe),
        identity=Identity(*settings, contents | builder.contents, {DECODER: decoder_name()}),
    )
    run = loop.run()
    outcome = PretrainOutcome(
        recipe, run, None, loop.model, collator, train_images, test, standings=heard.standings, left_out=left_out
    )
    if not loop.accelerator.is_main_process:
        return outcome
    take_best(loop.model, run)
    if between is not None and start is not None:
        figures = partial(_figures, validation, guard)
        curve = interpolate_run(loop.model, start, between, figures, run_folder, say)
        outcome = replace(outcome, interpolation=curve)
    if guard is not None:
        before = loop.validation.before or {}
        outcome = replace(outcome, zero_shot=guard.conclude(loop.model, before, run_folder, say))
    combination = None if validation is None else validation.choose_combination(loop.model)
    retrieval = _evaluate(loop.model, test, combination, run_folder / HELD_OUT)
    return replace(outcome, retrieval=retrieval, unseen=_evaluate(loop.model, unseen, combination, run_folder / UNSEEN))


def _contents(recipe: PretrainRecipe, tables: Tables, student: OpenedModel, heard: Heard) -> dict[str, str]:
    """What a run reads, in words -> a fingerprint of it; that of its step comes to these."""
    found = {f"{name} of the training pairs": key for name, key in table_fingerprints(tables.train).items()}
    if tables.validation is not None and recipe.loop.best_figure:
        chosen_by = table_fingerprints(tables.validation)
        found |= {f"{name} of the validation pairs": key for name, key in chosen_by.items()}
    start = recipe.model.checkpoint or recipe.model.image_checkpoint or recipe.model.text_checkpoint
    if start is not None:
        found[f"the model {start}"] = weights_fingerprint(student.model)
    found["the tokenizer"] = caption_input_key(student.preprocessing)
    found["the preprocessing of pictures"] = combined_key(**student.preprocessing.image_settings(train=True))
    for detector in recipe.relations.detectors:
        if isinstance(detector, Recorded):
            found[f"the ledger {heard.names.get(detector.ledger, detector.ledger)}"] = detector.verdicts.fingerprint
    ledger = recipe.sampler.hardness.ledger
    if ledger is not None:
        found[f"the ledger {ledger}"] = open_index(heard.place(ledger)).fingerprint
    return found


def _lost_words(preprocessing: Preprocessing, train: PairTable, say: Say, left_out: LeftOut) -> None:
    """Tell what the tokenizer loses of the training captions; those that are cut are listed."""
    among = train.caption_count
    step = look_step(among)
    captions = list(train.captions(step))
    owners = np.repeat(train.numbers, train.caption_counts)[::step]
    check, cut = check_captions(preprocessing.tokenization, preprocessing.max_length, captions, among)
    for line in check.lines(length="text.max_length", tokenizer=_OTHER_TOKENIZER, cut=False):
        say(line)
    rows = {place: int(owners[place]) for place in cut}
    left_out.cut(train.name, captions, rows, preprocessing.max_length, among)


class _Pictures:
    """The pictures of the splits of a run."""

    def __init__(
        self, recipe: PretrainRecipe, preprocessing: Preprocessing, collator: PairCollator, caches: StateCaches
    ) -> None:
        self.recipe = recipe
        self.preprocessing = preprocessing
        self.collator = collator
        self.caches = caches

    def of(self, table: PairTable, views: int = 1) -> ImageSource:
        """Pictures of a split, or their states."""
        table, cache = self.caches.images(table, views)
        size = self.recipe.evaluation.batch_size
        return ImageSource(table, transform=self.preprocessing.images(), cache=cache, batch_size=size)

    def task(self, table: PairTable | None) -> RetrievalTask | None:
        """Retrieval on the pictures of a split that can be read."""
        if table is None:
            return None
        left_out, readable = self.caches.left_out, table
        if not self.recipe.model.cache_images:  # else the caches leave them out
            most = self.recipe.data.max_bad_fraction
            readable = readable_rows(table, self.preprocessing.images(), left_out, most)
        images = self.of(one_row_a_picture(readable, left_out))
        return RetrievalTask(
            self.collator,
            images,
            self.recipe.evaluation,
            cache=self.caches.captions,
            source=self.recipe.data.named("+".join(table.splits)),
            unreadable=int(table.pictures.max()) + 1 - len(images.table),
            lost=partial(left_out.pictures, most=self.recipe.data.max_bad_fraction),
        )


def _evaluate(
    model: DualEncoder, task: RetrievalTask | None, combination: Combination | None, file: Path
) -> RetrievalResult | None:
    """Figures on a table, also in a file; None without the table."""
    if task is None:
        return None
    result = task.evaluate(model, combination)
    write_json(file, result.as_dict())
    return result


def _guard(recipe: PretrainRecipe, preprocessing: Preprocessing, left_out: LeftOut) -> ZeroShotTask:
    """The guard against forgetting.

    Raises:
        ConfigError: a model would be chosen by its figures on a test split.
    """
    assert recipe.zero_shot is not None
    guard = ZeroShotTask(recipe.zero_shot, preprocessing, left_out)
    between = recipe.model.interpolate
    chosen_by = [recipe.loop.best_figure, *(between.choose if between is not None else [])]
    unfair = next((name for name in chosen_by if name.startswith("zero_shot_")), None)
    if unfair is not None and "test" in guard.images.table.splits:
        raise ConfigError(
            f"{unfair} would choose a model by the test split of {guard.images.table.name}; give another "
            "zero_shot.split"
        )
    return guard


def _figures(validation: RetrievalTask | None, guard: ZeroShotTask | None, model: DualEncoder) -> dict[str, float]:
    """All validation figures of a model."""
    retrieval = {} if validation is None else validation.figures(model)
    return retrieval | ({} if guard is None else guard.figures(model))


def _comparison(recipe: PretrainRecipe) -> Callable[[Mapping[str, float], Mapping[str, float]], str | None] | None:
    """What is said of figures beside those before training."""
    return None if recipe.zero_shot is None else partial(forgetting, largest_fall=recipe.zero_shot.largest_fall)


def _recalls(figures: Mapping[str, float]) -> str:
    """R@1 of both directions, of all that retrieval measures, and top-1 of zero-shot classification."""
    shown = {name: value for name, value in figures.items() if name.endswith("r@1") and "naive" not in name}
    named = {name.replace("_r@1", " R@1"): value for name, value in shown.items()}
    return percentages(named | ({"zero-shot top-1": figures[TOP_1]} if TOP_1 in figures else {}))


def _dataset(recipe: PretrainRecipe, images: ImageSource, preprocessing: Preprocessing) -> PairDataset:
    transform = None if images.are_states else preprocessing.images(train=True)
    captions = "first" if recipe.data.captions == "pairs" else recipe.data.captions
    return PairDataset(images.table, transform, captions=captions, seed=recipe.loop.seed)


def finetune_retrieval(recipe: PretrainRecipe, run_folder: Path, say: Say) -> PretrainOutcome:
    """Fine-tune on retrieval, and measure the model that is left on the test split.

    The recipe is one of pre-training, so that everything that can be composed there can be here: SRCL with its own
    weights, a momentum model, conversion. The tokenization is the checkpoint's; images may have another size. Two
    pre-trained encoders will do as well: what reads both then starts fresh.

    Args:
        recipe: with ``model.checkpoint``, or with ``model.image_checkpoint`` and ``model.text_checkpoint``.
        run_folder: where everything goes.
        say: prints a line.

    Returns:
        What the run leaves behind, with figures on the test split if there is one.

    Raises:
        ConfigError: the recipe names nothing pre-trained.
    """
    model = recipe.model
    if model.checkpoint is not None:
        recipe = replace(recipe, text=replace(recipe.text, tokenizer=MODELS_OWN))
    elif model.image_checkpoint is None or model.text_checkpoint is None:
        raise ConfigError("model.checkpoint names nothing to start from; give the 'model' folder of a pre-training run")
    return pretrain(recipe, run_folder, say)
