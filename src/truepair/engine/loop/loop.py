"""The training loop: batches in, checkpoints, log and a trained model out, for any training step."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

from accelerate.utils import gather_object
from transformers import PreTrainedModel

from truepair.data.pairs import Substitution, SubstitutionLog
from truepair.engine.distributed.accelerator import build_accelerator, prepare_step
from truepair.engine.distributed.gathering import sum_over_ranks
from truepair.engine.distributed.sharding import whole_model
from truepair.engine.logs.log import RunLog
from truepair.engine.logs.measure import RunningMean, Stopwatch, profiled
from truepair.engine.logs.progress import RunProgress
from truepair.engine.loop.average import WeightAverage
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.loader import GroupReader, VisitedDataset
from truepair.engine.loop.optimizer import OptimizerConfig
from truepair.engine.loop.signals import RunStopped, StopSignals
from truepair.engine.loop.step import StepInfo, TrainingBatch, TrainingStep
from truepair.engine.loop.update import BadBatches, OptimizerStep, StepResult
from truepair.engine.loop.validation import Compare, Evaluator, Validation, percentages
from truepair.engine.state.checkpoint import ADVICE, CheckpointSchedule, CheckpointStore, require_same_plan
from truepair.engine.state.identity import Identity
from truepair.engine.state.lock import require_held
from truepair.engine.state.snapshot import Saved, Snapshot, load_average, load_weights, save_anew
from truepair.errors import CheckpointError, ConfigError, TruepairError
from truepair.files import writing_folder
from truepair.randomness import seed_generators
from truepair.sampling.batches import SamplerConfig, build_batches, describe_scaling
from truepair.sampling.plan import Indices
from truepair.sampling.ranks import Ranks

_JUDGED_VISITS = 200  # after which the share of unreadable samples is judged

_LONG_WAIT = 60.0  # seconds for a batch, after which the run says that it waits

_COMMON_STEP = 10.0  # seconds that a stop leaves several processes to meet at the end of a step


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Attributes:
        model_folder: the trained model and its tokenizer, as ``save_pretrained`` writes them.
        steps: optimizer steps of the whole run.
        seconds: wall time of this process's training steps (evaluation and checkpoints left out).
        pairs_per_second: training speed over that time.
        substituted: how many unreadable samples were replaced.
        best_folder: the checkpoint with the best validation figure, where ``loop.best_figure`` names one.
    """

    model_folder: Path
    steps: int
    seconds: float
    pairs_per_second: float
    substituted: int
    best_folder: Path | None = None


class TrainingLoop:
    """Runs a training step over a data set, from the first batch or from the newest checkpoint in the run folder.

    Args:
        step: the losses of one batch, a module that holds the model.
        dataset: the training pairs.
        preprocessing: written beside the model.
        collate: makes batches of samples.
        loop: how long and how.
        optimizer: how the weights move.
        run_folder: where checkpoints, logs and the final model go; all ranks see it.
        sampler: who meets in a batch.
        keys: which pairs match each other, int64 [N, K], for grouped sampling; see ``match_keys``.
        apart: further pairs that grouped sampling keeps apart, int64 [P, 2].
        labels: what each pair shows, int64 [N], for the false-negative rate in the log; see ``concept_labels``.
        max_bad_fraction: largest share of unreadable samples that the run puts up with.
        tell_replaced: called at the end of an epoch with the unreadable samples that were new in it, on all ranks.
        evaluator: returns validation figures of the model; called every ``loop.evaluate_every`` epochs.
        describe_figures: what is said of them on the screen.
        compare_figures: a line on figures now against those before training, which are then evaluated, too.

    Raises:
        ConfigError: model and settings do not go together.
    """

    def __init__(
        self,
        step: TrainingStep,
        dataset: VisitedDataset,
        preprocessing: Saved,
        collate: Callable[[Any], TrainingBatch],
        *,
        loop: LoopConfig,
        optimizer: OptimizerConfig,
        run_folder: Path,
        sampler: SamplerConfig | None = None,
        keys: Indices | None = None,
        apart: Indices | None = None,
        labels: Indices | None = None,
        max_bad_fraction: float = 0.05,
        tell_replaced: Callable[[list[Substitution]], None] | None = None,
        evaluator: Evaluator | None = None,
        describe_figures: Callable[[Mapping[str, float]], str] = percentages,
        compare_figures: Compare | None = None,
        identity: Identity | None = None,
    ) -> None:
        self.config = loop
        self.identity = identity
        self.run_folder = run_folder
        self.dataset = dataset
        self.collate = collate
        self.accelerator = build_accelerator(loop, run_folder)
        main, rank = self.accelerator.is_main_process, self.accelerator.process_index

        self.sampler_config = sampler or SamplerConfig()
        self.batches = build_batches(
            self.sampler_config,
            len(dataset),
            loop.batch_size,
            seed=loop.seed,
            ranks=Ranks(rank, self.accelerator.num_processes),
            keys=keys,
            apart=apart,
            labels=labels,
            plan_folder=run_folder / "plans",
        )
        self.steps_per_epoch = -(-self.batches.per_epoch // loop.accumulate)
        # A share is judged after one epoch at the latest, however few samples it has.
        self.substitutions = SubstitutionLog(max_bad_fraction, min(_JUDGED_VISITS, len(dataset)))
        self.tell_replaced = tell_replaced
        self._told_replaced: set[int] = set()
        self.reader = GroupReader(
            dataset,
            collate,
            workers=loop.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            substitutions=self.substitutions,
            timeout=loop.data_timeout,
            poll=self._wait,
        )
        self._said_wait = False

        self.model: PreTrainedModel = step.model
        self.bare_step = step
        self.step, prepared = prepare_step(step, loop, optimizer, self.accelerator)
        self.average = WeightAverage(self.model, loop.average_decay) if loop.average_decay else None
        self.optimizer_step = OptimizerStep(self.step, prepared, self.accelerator, optimizer, self.average)
        self.bad_batches = BadBatches(run_folder, rank, policy=loop.on_non_finite, cap=loop.max_skipped)
        self.done = 0  # optimizer steps
        self._said_null: set[str] = set()  # figures of the log that have been told not to be finite

        self.watch = Stopwatch()
        self.hardest = RunningMean()
        self.snapshot = Snapshot(
            step, preprocessing, prepared, self.batches, self.average, self.accelerator.scaler, main=main
        )
        meet = self.accelerator.wait_for_everyone
        self.store = CheckpointStore(run_folder / "checkpoints", loop.keep_checkpoints, main=main, meet=meet)
        self.schedule = CheckpointSchedule(
            every=loop.checkpoint_every or self.steps_per_epoch, last=self.total_steps, minutes=loop.checkpoint_minutes
        )
        self.validation = Validation(
            evaluator,
            every=loop.evaluate_every,
            epochs=loop.epochs,
            best_figure=loop.best_figure,
            describe=describe_figures,
            compare=compare_figures,
        )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.epochs * self.steps_per_epoch

    def run(self) -> RunResult:
        """Train to the end and save the final model.

        Raises:
            RunStopped: SIGTERM or SIGINT came; a checkpoint has been written.
            NonFiniteError: a loss or gradient is not finite, and the recipe says to stop.
            CheckpointError: the disk is full, say, or no checkpoint is whole.
            ConfigError: the run folder holds a run of another plan.
        """
        joins = {epoch * self.steps_per_epoch: name for epoch, name in self.bare_step.joins().items()}
        with (
            _closed_at_the_end(self.bare_step),
            contextlib.closing(self.reader),
            StopSignals() as self.signals,
            RunLog(self.run_folder, self.accelerator) as self.log,
            RunProgress(self.total_steps, joins=joins, enabled=self.accelerator.is_main_process) as self.progress,
        ):
            lines = [*describe_scaling(self.sampler_config, self.batches), *self.batches.warnings()]
            lines += self._about_rewards()
            lines += self.validation.warnings()
            for line in [*lines, *self.optimizer_step.config.warnings(self.total_steps)]:
                self.progress.say(line)
            self._resume()
            while self.done < self.total_steps:
                self._run_epoch(self.done // self.steps_per_epoch)
            return self._finish()

    def _run_epoch(self, epoch: int) -> None:
        """The rest of an epoch, step by step: batches, step and update, log, checkpoint, evaluation."""
        figures = self.batches.figures(epoch)
        self.step.train()
        start = self.done % self.steps_per_epoch * self.config.accumulate
        ahead = self.batches.ahead(epoch, start, self.config.epochs)
        for group, waited in self.reader.groups(ahead, self.batches.per_epoch - start, self.config.accumulate):
            started = time.perf_counter()
            result = self._take_step(group, epoch)
            seconds = time.perf_counter() - started + waited
            pairs = len(group) * self.batches.global_batch
            self.watch.add(seconds, waited, pairs)
            self.progress.show(self.done, epoch=epoch, speed=pairs / seconds)
            self._log_step(result, epoch)
            epoch_ends = self.done % self.steps_per_epoch == 0
            if epoch_ends:
                self._log_epoch(epoch, figures)
            # A run that is stopped while it evaluates resumes from here, and the best model must be on the disk.
            evaluates = epoch_ends and self.validation.due(epoch)
            if self.schedule.due(self.done) or evaluates or any(result.requests.values()):
                self._save()
            self._stop_if_asked(result.requests["stop"])
            if evaluates:
                self._evaluate(epoch)

    def _take_step(self, group: list[TrainingBatch], epoch: int) -> StepResult:
        """One optimizer step; the global generator is seeded by the step, so that dropout repeats after a resume."""
        seed_generators(self.config.seed, self.done, self.accelerator.process_index, "step")
        logged = self.config.logs(self.done + 1, self.steps_per_epoch)
        rewarded = self.batches.rewarded(self.done) and bool(self.bare_step.reward_loss(epoch))
        info = StepInfo(epoch, self.done, self.total_steps, self.steps_per_epoch, logged, rewarded)
        profiles = self.config.profile == self.done + 1 and self.accelerator.is_main_process
        with profiled(self.run_folder, self.done + 1) if profiles else contextlib.nullcontext():
            result = self.optimizer_step.take(group, info, self._requests)
        self.done += 1
        if not result.finite:
            losses = [output.losses for output in result.outputs]
            self.progress.say(self.bad_batches.record(self.done, group, losses, result.gradient_norm))
        rewards: Sequence[float | None] = result.rewards or [None] * len(group)
        for batch, output, reward in zip(group, result.outputs, rewards, strict=True):
            if result.finite:
                self.batches.trained(batch.index, output.image_feature, output.text_feature, reward, output.probable)
            else:
                self.batches.skipped()
        return result

    def _about_rewards(self) -> list[str]:
        """Say in a line what a learned hardness learns from, and from when on.

        Raises:
            ConfigError: the training step has nothing that it could learn from.
        """
        if self.sampler_config.hardness.learned is None:
            return []
        epochs = range(1, self.config.epochs)  # the first one is random
        names = {epoch: name for epoch in epochs if (name := self.bare_step.reward_loss(epoch))}
        if names:
            first, name = next(iter(names.items()))
            return [f"hardness is learned from the fall of {name} over a step, from epoch {first} on"]
        if not epochs:
            raise ConfigError(
                "sampler.hardness.learned learns from the second epoch on, and this run has one; give loop.epochs 2 or "
                "more, or a fixed sampler.hardness.quantile"
            )
        raise ConfigError(
            "sampler.hardness.learned learns from the fall of the MLM loss, which this run does not train in an epoch "
            "after the first; give objectives.mlm.weight and a later end, or a fixed sampler.hardness.quantile"
        )

    def _requests(self) -> dict[str, float]:
        """What this process asks all of them to do after the step: to stop, or to write a checkpoint."""
        checkpoint = self.accelerator.is_main_process and self.schedule.minutes_are_over()
        return {"stop": float(self.signals.number > 0), "checkpoint": float(checkpoint)}

    def _stop_if_asked(self, stop: float) -> None:
        if stop:
            self.progress.say(f"stopped by a signal after step {self.done}; the same command goes on from there")
            raise RunStopped(self.signals.number or SIGTERM)

    def _wait(self, seconds: float) -> None:
        """Serve a signal while a batch is waited for, and say that it is.

        A checkpoint is written by all processes together. Of several, one alone cannot ask for it here: it waits for
        the end of the step a little longer, and leaves then with the last checkpoint.

        Args:
            seconds: waited so far.

        Raises:
            RunStopped: SIGTERM or SIGINT came.
        """
        if self.signals.number and self.accelerator.num_processes == 1:
            if self.done:
                self._save()
            self._stop_if_asked(1.0)
        if self.signals.seconds > _COMMON_STEP:
            self.progress.say(
                "stopped by a signal while it waited for data; the same command goes on from the last checkpoint"
            )
            raise RunStopped(self.signals.number)
        if seconds >= _LONG_WAIT and not self._said_wait:
            self._said_wait = True
            limit = (
                f"after {self.config.data_timeout:,.0f} s the run ends"
                if self.config.data_timeout
                else "no limit is set"
            )
            self.progress.say(
                f"no batch of data for {seconds:.0f} s: reading is slow, or where the pictures lie does not answer "
                f"({limit}, see loop.data_timeout)"
            )

    def _log_step(self, result: StepResult, epoch: int) -> None:
        if not result.finite:
            self._write("skipped", epoch)
            return
        if not math.isnan(result.hardest_similarity):
            self.hardest.add(result.hardest_similarity)
        if not self.config.logs(self.done, self.steps_per_epoch):
            return
        ranks = self.accelerator.num_processes
        values = sum_over_ranks({name: float(value) / ranks for name, value in result.losses.items()})
        values["gradient_norm"] = result.gradient_norm
        if self.hardest.count:
            values["hardest_similarity"] = result.hardest_similarity
        if result.rewards is not None:
            values["hardness_reward"] = sum(result.rewards) / len(result.rewards)
        self._write("step", epoch, **values)
        self.log.write_timing(self.done, self.watch.lap())
        remark = self.bare_step.remark(self.done, self.total_steps, values)
        if remark is not None:
            self.progress.say(remark)
            self._write("remark", epoch, line=remark)

    def _tell_replaced(self) -> None:
        """Tell of unreadable samples that have not been told of, of all ranks; all call this together."""
        found: list[Substitution] = gather_object(self.substitutions.entries)
        new = {one.index: one for one in found if one.index not in self._told_replaced}
        self._told_replaced |= new.keys()
        if new and self.tell_replaced is not None:
            self.tell_replaced([new[row] for row in sorted(new)])

    def _log_epoch(self, epoch: int, figures: dict[str, float]) -> None:
        self._tell_replaced()
        if self.hardest.count:
            figures["hardest_similarity"] = self.hardest.take()
        self._write("epoch", epoch, **figures, **self.bare_step.epoch_figures(epoch))

    def _write(self, kind: str, epoch: int, **values: Any) -> None:
        """Write a record of the last step; a figure that is not finite is null there, and said the first time."""
        self.log.write(kind, self.done, epoch=epoch, **values)
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value) and name not in self._said_null:
                self._said_null.add(name)
                self.progress.say(f"{name} of step {self.done:,} is {value}, which is null in log.jsonl")

    def _save(self) -> None:
        """Write a checkpoint of the last step, unless there is one."""
        if self.schedule.step == self.done or not self.config.save:
            return
        require_held(self.run_folder)
        self.log.sync()
        state = {
            "run": self._plan(),
            **({} if self.identity is None else {"identity": self.identity.state()}),
            "substitutions": self.substitutions.state(),
            "skipped": self.bad_batches.skipped,
            "average_updates": self.average.updates if self.average else 0,
            "hardest": self.hardest.state(),
        }
        self.store.save(self.done, self._write_checkpoint, state)
        self.schedule.note(self.done)

    def _write_checkpoint(self, folder: Path) -> None:
        """Write this rank's files of a checkpoint.

        Raises:
            OSError: the disk is full, say.
        """
        self.snapshot.write(folder)
        self.log.copy_to(folder)

    def _evaluate(self, epoch: int) -> None:
        """Evaluate on the first process; the others wait, and all learn of a signal that came meanwhile."""
        self.step.eval()
        with self.average.applied() if self.average else contextlib.nullcontext():
            model = whole_model(self.model)
            if self.accelerator.is_main_process:
                self.validation.run(model, self.done, epoch, self.log, self.progress, self.signals)
        self.step.train()
        if self.accelerator.is_main_process:
            self.store.best = self.validation.best_step
            self.store.prune()
        self._stop_if_asked(sum_over_ranks({"stop": float(self.signals.number > 0)})["stop"])

    def _finish(self) -> RunResult:
        """Leave the trained model, in memory and in the run folder."""
        self._tell_replaced()  # of a run that had ended before this call
        if self.average is not None:
            self.average.put()
        self.model = whole_model(self.model)
        folder = self.run_folder / "model"
        if self.accelerator.is_main_process and self.config.save:
            with writing_folder(folder, error=CheckpointError, advice=ADVICE) as aside:
                self.snapshot.write_model(self.model, aside)
        self.accelerator.wait_for_everyone()
        self._stop_if_asked(self.signals.number)
        best = self.validation.best_step
        return RunResult(
            folder,
            self.total_steps,
            self.watch.seconds,
            self.watch.pairs_per_second,
            self.substitutions.count,
            None if best is None else self.store.path(best),
        )

    def _resume(self) -> None:
        """Go on from the newest checkpoint, or begin; the log then holds what led there, and nothing after it."""
        found = self.store.newest(self.progress.say)
        folder, state = found or (None, {"step": -1})
        if folder is not None:
            require_same_plan(self.run_folder, state["run"], self._plan())
            self._require_same(state)
            self.snapshot.read(folder, state)
            self.substitutions.load_state(state["substitutions"])
            self.bad_batches.skipped = state["skipped"]
            self.hardest = RunningMean(*state["hardest"])
            self.done = state["step"]
            self.schedule.note(self.done)
            self.progress.say(f"going on from {folder}")
        else:
            self.bare_step.begin()
        self.log.rewind(state["step"], self.progress.say, folder)
        self.bad_batches.rewind(state["step"], self.progress.say)
        self.validation.restore(self.log.validations())
        for record in self.log.steps():  # what was remarked before is not remarked again
            self.bare_step.remark(record["step"], self.total_steps, record)
        self.store.best = self.validation.best_step
        epoch = self.done // self.steps_per_epoch - 1  # the last whole one; -1 before the first step
        if self.done % self.steps_per_epoch == 0 and self.validation.due(epoch):
            self._evaluate(epoch)

    def _require_same(self, state: dict[str, Any]) -> None:
        """Refuse to go on with what the run did not begin with.

        Raises:
            ConfigError: settings or contents differ.
        """
        if self.identity is not None:
            finished, accept = state["step"] == self.total_steps, self.config.accept_changes
            then = state.get("identity")
            self.identity.require_same(self.run_folder, then, self.progress.say, finished=finished, accept=accept)

    def _plan(self) -> dict[str, Any]:
        """What must not change between a run and its resumption."""
        return {
            "pairs": len(self.dataset),
            "global_batch": self.batches.global_batch,
            "accumulate": self.config.accumulate,
            "seed": self.config.seed,
            "epochs": self.config.epochs,
            "sampler": self.sampler_config.kind,
        }


def take_best(model: PreTrainedModel, run: RunResult) -> None:
    """Put the weights of the best checkpoint into the model and into the run's model folder, if one was chosen.

    Of a run with an average they are the averaged ones, as in the evaluation that chose them.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    if run.best_folder is not None:
        load_weights(model, run.best_folder)
        load_average(model, run.best_folder)
        save_anew(run.model_folder, model.save_pretrained)


@contextlib.contextmanager
def _closed_at_the_end(step: TrainingStep) -> Iterator[None]:
    """Close a step; what ended the run before is what is told, not what goes wrong at that."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(TruepairError):
            step.close()
        raise
    step.close()
