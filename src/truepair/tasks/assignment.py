"""Text assignment: a short pre-training of NLVR2's model on pairs, before the statements."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from truepair.data.dataset import PairDataset
from truepair.data.preprocessing import Preprocessing
from truepair.models.image_transform import image_transform
from truepair.models.nlvr2 import Nlvr2Model
from truepair.models.resize import resize_images
from truepair.tasks.start import StartConfig
from truepair.training.assignment_step import AssignmentStep
from truepair.training.build import Say, build_tables
from truepair.training.loop import TrainingLoop
from truepair.training.loop_config import LoopConfig
from truepair.training.optimizer import OptimizerConfig
from truepair.training.recipe import DataConfig
from truepair.training.task_states import States


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """Text assignment before NLVR2 (ALBEF, section 3.5): pairs, mostly those of pre-training.

    Attributes:
        data: where the pairs come from; their transform states the image size of this stage.
        optimizer: how the weights move.
        loop: how long and how; one epoch in the papers.
    """

    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def assign_texts(
    model: Nlvr2Model,
    preprocessing: Preprocessing,
    config: AssignmentConfig,
    start: StartConfig,
    run_folder: Path,
    say: Say,
) -> Nlvr2Model:
    """Train a model on text assignment, or go on where that was stopped.

    Args:
        model: with ``assignment_head``; changed in place.
        preprocessing: tokenization.
        config: pairs, and how to train on them.
        start: says which encoders are frozen.
        run_folder: where checkpoints, log and model of this stage go.
        say: prints a line.

    Returns:
        The trained model, whose assignment head is gone: the one that was given, or where ``loop.shard`` spread that
        over processes, another.

    Raises:
        TruepairError: anything that does not fit, in one line.
    """
    table = build_tables(config.data).train
    say(f"text assignment on {len(table):,} pairs from {table.name}")
    size = model.image_encoder.image_size
    resize_images(model, config.data.transform.size)
    own = Preprocessing(
        preprocessing.tokenizer,
        preprocessing.max_length,
        preprocessing.add_sep,
        preprocessing.normalise,
        config.data.transform,
    )
    transform = image_transform(own.transform, model.image_encoder, train=True)
    captions = "first" if config.data.captions == "pairs" else config.data.captions
    states = States(freeze_image=start.freeze_image, freeze_text=start.freeze_text)
    engine = TrainingLoop(
        AssignmentStep(model, states, seed=config.loop.seed),
        PairDataset(table, transform, captions=captions, seed=config.loop.seed),
        own,
        own.collator(),
        loop=config.loop,
        optimizer=config.optimizer,
        run_folder=run_folder,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    engine.run()
    trained = cast(Nlvr2Model, engine.model)
    trained.drop_assignment()
    resize_images(trained, size)
    return trained
