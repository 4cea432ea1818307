"""From a recipe to the training step it describes."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from truepair.data.identity import concept_labels
from truepair.data.pairs import PairDataset
from truepair.data.preprocessing import OwnPreprocessing, Preprocessing
from truepair.data.table import PairTable
from truepair.data.transforms import ImageTransform, normalisation
from truepair.engine.distributed.accelerator import sharding_plugin
from truepair.engine.distributed.processes import join_processes
from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.truth import ConversionCounter, Truth
from truepair.judges.base import Judge, JudgeInputs
from truepair.judges.coverage import check_coverage
from truepair.judges.dual import DualFeatures
from truepair.judges.open import open_judge
from truepair.methods.caches import StateCaches
from truepair.methods.chance import ChanceWatch
from truepair.methods.ecm import Ecm, EcmConfig
from truepair.methods.encode import BatchEncoder, MicroBatches
from truepair.methods.frozen import FrozenMeans, FrozenModel, FrozenOnPlain, frozen_model
from truepair.methods.held_out import HeldOut
from truepair.methods.momentum import MomentumModel
from truepair.methods.recipe import PretrainRecipe
from truepair.methods.rules import ENCODERS, RuleSet
from truepair.methods.srcl import SrclWeights
from truepair.methods.step import PretrainStep
from truepair.methods.student import Say, require_same_tokenizer
from truepair.models.dual.base import DualEncoder, FusionModel
from truepair.models.encoders.fingerprint import caption_input_key, image_input_key, weights_fingerprint
from truepair.models.encoders.frozen_images import ImageStates
from truepair.models.encoders.images import resize_images
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.blip2 import Blip2FusionModel
from truepair.models.open import OpenedModel, open_model
from truepair.objectives.mlm import TokenMasker
from truepair.relations.detectors import Judged
from truepair.relations.ledger import Ledger
from truepair.sampling.ranks import Ranks


class StepBuilder:
    """Builds the step of a recipe for one training table.

    Args:
        recipe: What the step is composed of.
        student: The model that is trained, and how captions and images reach it.
        caches: States from its frozen encoders.
        table: The training pairs.
        image_cache: States of their images, where the recipe asks for a cache.
        run_folder: Where the ledger goes.
        say: Prints a line.
        held_out: Pairs that the run does not train on, and the states of their images where they are cached.

    Attributes:
        contents: What the step reads beside the pairs, in words -> a fingerprint of it.
    """

    def __init__(
        self,
        recipe: PretrainRecipe,
        student: OpenedModel,
        caches: StateCaches,
        table: PairTable,
        image_cache: ImageStates | None,
        run_folder: Path,
        say: Say,
        held_out: tuple[PairTable, ImageStates | None] | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = student.model
        self.preprocessing = student.preprocessing
        self.collator = student.preprocessing.collator()
        self.caches = caches
        self.table = table
        self.image_cache = image_cache
        self.run_folder = run_folder
        self.say = say
        self.held_out = held_out
        self.contents: dict[str, str] = {}
        sharding_plugin(recipe.loop)  # refuses in time what accelerate was told, before it changes how models are read
        # Processes meet here already: ledger and judge belong to a rank.
        state = join_processes(cpu=recipe.loop.cpu)
        self.device = state.device
        self.ranks = Ranks(state.process_index, state.num_processes)

    def build(self) -> PretrainStep:
        """The step.

        Raises:
            TruepairError: A model that the recipe names is missing, damaged or does not fit.
            ConfigError: MLM is asked for with a tokenizer that has no mask token.
        """
        recipe, ranks = self.recipe, self.ranks
        srcl, relations = recipe.srcl, recipe.relations
        encoder = self._encoder(self.model, self.caches, self.table, self.image_cache)
        truth = Truth.from_table(self.table)
        # Every rank knows the verdicts on all pairs; one writes them.
        ledger = Ledger(self.run_folder / "ledger", say=self.say) if relations.ledger and ranks.rank == 0 else None
        rules = self._rules()
        counts_matches = truth is not None and (recipe.ecm is not None or relations.finds)
        step = PretrainStep(
            self.model,
            encoder,
            recipe.objectives,
            rules,
            masker=self._masker(),
            ecm=None if recipe.ecm is None else self._ecm(recipe.ecm, encoder, rules, ledger),
            srcl=None if srcl is None else SrclWeights(srcl, self._frozen_model(srcl.seed_model)),
            momentum=None if recipe.momentum is None else MomentumModel(encoder, recipe.momentum, len(self.table)),
            guide=self._frozen_model(relations.guide_model),
            ledger=ledger,
            truth=truth,
            conversions=ConversionCounter(truth) if truth is not None and counts_matches else None,
            chance=self._chance(),
            held_out=self._held_out(),
            seed=recipe.loop.seed,
        )
        if recipe.objectives.itg.weight and isinstance(self.model, Blip2FusionModel) and self.model.itg_fresh:
            self.say("the head of ITG starts from random weights: the model has none")
        if step.own_bias is not None:
            self.say(
                f"the model has no bias for the sigmoid loss: the run learns one, from {step.own_bias.item():g} on, "
                "and keeps it in its checkpoints; the saved model has no place for it (rankings need none)"
            )
        return step

    def _chance(self) -> ChanceWatch | None:
        """What says that ITC has not left chance, where it is trained."""
        itc = self.recipe.objectives.itc
        if not itc.weight:
            return None
        return ChanceWatch(itc.chance_steps, self.recipe.optimizer.warmup, softmax=itc.loss == "softmax")

    def _held_out(self) -> HeldOut | None:
        """What a learned hardness is rewarded by, where there is no MLM.

        Raises:
            ConfigError: There are too few pairs to hold out.
        """
        learned = self.recipe.sampler.hardness.learned
        if learned is None or self.recipe.objectives.mlm.weight:
            return None
        if self.held_out is None:
            raise ConfigError(
                "sampler.hardness.learned without MLM learns from validation pairs, and there are none; give "
                "data.validation_split, objectives.mlm.weight, or a fixed sampler.hardness.quantile"
            )
        table, cache = self.held_out
        dataset = PairDataset(table, None if cache is not None else self.preprocessing.images(), captions="first")
        encoder = self._encoder(self.model, self.caches, table, cache)
        seed = self.recipe.loop.seed
        return HeldOut.of(encoder, dataset, self.collator, count=learned.held_out, seed=seed, ranks=self.ranks)

    def _masker(self) -> TokenMasker | None:
        """What hides tokens for MLM, where there is any."""
        mlm = self.recipe.objectives.mlm
        if not mlm.weight or not isinstance(self.model, FusionModel):  # the step refuses MLM of a model that cannot
            return None
        if not isinstance(self.preprocessing, OwnPreprocessing):
            raise ConfigError(f"{self.model.kind} has no vocabulary head for MLM; set objectives.mlm.weight to 0")
        tokenizer = self.preprocessing.tokenizer
        if tokenizer.mask_token_id is None:
            raise ConfigError("the tokenizer has no mask token; set objectives.mlm.weight to 0, or take another one")
        return TokenMasker(tokenizer.mask_token_id, tokenizer.all_special_ids, self.model.vocab_size, mlm.masking)

    def _rules(self) -> RuleSet:
        """The rules of the recipe, and those of a judge that is asked about all pairs; says what ledgers hold."""
        labels = concept_labels(self.table)
        groups = None if labels is None else torch.from_numpy(labels)
        more = [] if self.recipe.ecm is None else self.recipe.ecm.rules()
        pictures = (self.table.image_ids, self.table.picture_keys)
        rules = RuleSet(self.recipe.relations, more, groups, pictures)
        if rules.indices:
            for line in rules.about(self.table.image_ids, self.table.caption_ids):
                self.say(line)
        return rules

    def _ecm(self, config: EcmConfig, encoder: BatchEncoder, rules: RuleSet, ledger: Ledger | None) -> Ecm:
        """The judge of the batches."""
        inputs = JudgeInputs(
            table=self.table,
            preprocessing=self.preprocessing,
            model=self.model,
            image_cache=encoder.image_cache,
            caption_cache=encoder.caption_cache,
            pooled=self.recipe.model.pool_images,
            keep_images=self._images_of_judge,
        )
        judge = open_judge(config.judge, inputs, self.device)
        self.contents[f"the judge {config.judge.checkpoint}"] = judge.fingerprint
        self._check_coverage(judge, config)
        lows = [rule.detector.low for rule in rules.rules if isinstance(rule.detector, Judged)]
        return Ecm(
            config,
            judge,
            rank=self.ranks.rank,
            ranks=self.ranks.count,
            people=rules.people,
            ledger=ledger,
            least=min([config.zones.low, *lows]),
            doubt=self.recipe.sampler.hardness.below,
        )

    def _images_of_judge(self, encoder: nn.Module, transform: ImageTransform) -> ImageStates:
        """What a judge's encoder makes of the plain images of the table; says what is kept."""
        states = self.caches.of_judge(self.table, encoder.to(self.device), transform)
        self.say(f"the judge's states of {len(self.table):,} images are kept: {states.nbytes / 1e9:.3g} GB on disk")
        return states

    def _check_coverage(self, judge: Judge, ecm: EcmConfig) -> None:
        """Warn when a judge would convert next to nothing. Evidence and ledgers know nothing of own pairs."""
        config = ecm.judge
        if config.kind in ("evidence", "recorded"):
            return
        transform = self.preprocessing.images(train=True) if config.view == "batch" else None
        dataset = PairDataset(self.table, transform, captions="first")
        found = check_coverage(
            judge, dataset, self.collator, high=ecm.zones.high, least=config.least_coverage, sample=256
        )
        self.say(found.warning or f"{judge.name} passes {found.share:.0%} of known pairs at {found.high:g}")

    def _frozen_model(self, checkpoint: str | None) -> FrozenModel | None:
        """The frozen dual encoder of a checkpoint.

        On the student's batches where it reads the same tokens and pixels, else on plain images and captions.

        Raises:
            CheckpointError: it is one of ours like the student, and was trained on other tokens or pixel values.
        """
        if checkpoint is None:
            return None
        if checkpoint == ENCODERS:
            return FrozenMeans()
        frozen = open_model(checkpoint, self.say)
        self.contents[f"the model {checkpoint}"] = weights_fingerprint(frozen.model)
        if isinstance(self.preprocessing, OwnPreprocessing) and isinstance(frozen.preprocessing, OwnPreprocessing):
            frozen = self._on_own_batches(checkpoint, frozen.model, frozen.preprocessing)
        elif not _read_alike(frozen.preprocessing, self.preprocessing):
            return FrozenOnPlain(DualFeatures(frozen, self.table, self.device))
        frozen.model.freeze(image=True, text=True)
        caches = StateCaches(self.recipe, frozen, self.caches.left_out)
        table, states = caches.images(self.table)
        if len(table) != len(self.table):
            raise CheckpointError(f"{checkpoint} could not read all training images; see the lines above")
        return frozen_model(self._encoder(frozen.model, caches, self.table, states))

    def _on_own_batches(self, checkpoint: str, model: DualEncoder, own: OwnPreprocessing) -> OpenedModel:
        """One of our models that reads this run's batches.

        Raises:
            CheckpointError: it was trained on other tokens, or on pixel values of another scale.
        """
        runs = self.preprocessing
        assert isinstance(runs, OwnPreprocessing) and isinstance(model, AlbefModel)
        require_same_tokenizer(checkpoint, own.tokenizer, runs.tokenizer)
        resize_images(model, runs.transform.size)
        reads = own if self.recipe.model.cache_images else runs  # a cache is made for the frozen model itself
        if normalisation(runs.transform, reads.statistics) != normalisation(own.transform, own.statistics):
            raise CheckpointError(
                f"{checkpoint} was trained on images of another normalisation; set data.transform.normalisation to its "
                "own, or where that is 'encoder', give a model with this run's image encoder"
            )
        return OpenedModel(model, replace(runs, statistics=own.statistics))

    def _encoder(
        self, model: DualEncoder, caches: StateCaches, table: PairTable, image_cache: ImageStates | None
    ) -> BatchEncoder:
        """Encodes batches with a model, from states of its frozen towers where the recipe asks for caches."""
        return BatchEncoder(
            model,
            image_cache=image_cache,
            caption_cache=caches.captions(table.captions()),
            seed=self.recipe.loop.seed,
            parts=MicroBatches(self.recipe.loop.micro_batch),
        )


def _read_alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two models read the same tokens of every caption and the same pixels of every image."""
    return caption_input_key(one) == caption_input_key(other) and image_input_key(one) == image_input_key(other)
