"""The pre-training loop: batches in, checkpoints, log and a trained model out."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor
from torch.utils.data import DataLoader

from truepair.data.collate import PairBatch
from truepair.data.dataset import PairDataset
from truepair.data.randomness import stable_hash
from truepair.data.substitution import SubstitutionLog
from truepair.errors import ConfigError
from truepair.models.albef import AlbefModel
from truepair.training.batches import VisitBatches
from truepair.training.checkpoint import CheckpointStore, load_optimizer, save_optimizer
from truepair.training.moment import Moment
from truepair.training.optimizer import OptimizerConfig, build_optimizer, learning_rate_at, set_learning_rate
from truepair.training.preprocessing import Preprocessing
from truepair.training.progress import RunProgress
from truepair.training.run_log import RunLog
from truepair.training.step import PretrainStep
from truepair.training.training_step import StepOutput

Evaluator = Callable[[AlbefModel], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how a run goes.

    Attributes:
        epochs: passes over the training pairs.
        batch_size: pairs of one optimizer step on one rank.
        seed: seed of everything random in the run.
        workers: data loading processes; the run is the same for any number.
        precision: "no" (float32), "bf16" or "fp16".
        cpu: stay on the CPU even where a GPU is present.
        log_every: steps between two log records.
        checkpoint_every: steps between two checkpoints; 0 for one at the end of each epoch.
        keep_checkpoints: how many of the newest checkpoints stay on disk.
        evaluate_every: epochs between two evaluations on the validation pairs; 0 for never.
    """

    epochs: int = 30
    batch_size: int = 128
    seed: int = 0
    workers: int = 2
    precision: str = "no"
    cpu: bool = False
    log_every: int = 20
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        if self.precision not in ("no", "bf16", "fp16"):
            raise ConfigError(f"loop.precision is '{self.precision}'; give no, bf16 or fp16")
        for name in ("epochs", "batch_size", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"loop.{name} is {getattr(self, name)}; give 1 or more")


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Attributes:
        model_folder: the trained model and its tokenizer, as ``save_pretrained`` writes them.
        steps: optimizer steps of the whole run.
        seconds: wall time of this process's training steps (evaluation and checkpoints left out).
        pairs_per_second: training speed over that time.
        substituted: how many unreadable samples were replaced.
    """

    model_folder: Path
    steps: int
    seconds: float
    pairs_per_second: float
    substituted: int


class PretrainLoop:
    """Runs the steps of a recipe from the first, or from the newest checkpoint in the run folder.

    Args:
        step: the losses of one batch, a module that holds the model.
        dataset: the training pairs.
        preprocessing: tokenization and image size; makes the batches, and is saved beside the model.
        loop: how long and how.
        optimizer: how the weights move.
        run_folder: where checkpoints, log and the final model go.
        max_bad_fraction: largest share of unreadable samples that the run puts up with.
        evaluator: returns validation figures of the model; called every ``loop.evaluate_every`` epochs.
    """

    def __init__(
        self,
        step: PretrainStep,
        dataset: PairDataset,
        preprocessing: Preprocessing,
        *,
        loop: LoopConfig,
        optimizer: OptimizerConfig,
        run_folder: Path,
        max_bad_fraction: float = 0.05,
        evaluator: Evaluator | None = None,
    ) -> None:
        self.config = loop
        self.optimizer_config = optimizer
        self.run_folder = run_folder
        self.preprocessing = preprocessing
        self.evaluator = evaluator
        self.dataset = dataset
        self.collator = preprocessing.collator()
        # The MLM or ITM head gets no gradient in the epochs before its loss starts.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(mixed_precision=loop.precision, cpu=loop.cpu, kwargs_handlers=[unused])
        self.batches = VisitBatches(
            len(dataset),
            loop.batch_size,
            seed=loop.seed,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
        )
        self.model: AlbefModel = step.model
        self.step, self.optimizer = self.accelerator.prepare(step, build_optimizer(step.named_parameters(), optimizer))
        self.store = CheckpointStore(run_folder / "checkpoints", keep=loop.keep_checkpoints)
        self.substitutions = SubstitutionLog(max_bad_fraction)
        self.done = 0
        self.seconds = 0.0
        self.trained_pairs = 0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.epochs * self.batches.per_epoch

    def run(self) -> RunResult:
        """Train to the end and save the final model."""
        main = self.accelerator.is_main_process
        with (
            RunLog(self.run_folder / "log.jsonl", enabled=main) as log,
            RunLog(self.run_folder / "timing.jsonl", enabled=main) as timing,
            RunProgress(self.total_steps, enabled=main) as progress,
        ):
            self._resume(log, timing, progress)
            while self.done < self.total_steps:
                self._run_epoch(self.done // self.batches.per_epoch, log, timing, progress)
        folder = self.run_folder / "model"
        if main:
            self._write_model(folder)
        self.accelerator.wait_for_everyone()
        speed = self.trained_pairs / self.seconds if self.seconds else 0.0
        return RunResult(folder, self.total_steps, self.seconds, speed, self.substitutions.count)

    def _run_epoch(self, epoch: int, log: RunLog, timing: RunLog, progress: RunProgress) -> None:
        main = self.accelerator.is_main_process
        self.step.train()
        for batch, waited in self._loader(epoch):
            started = time.perf_counter()
            losses = self._train_step(batch, epoch)
            seconds = time.perf_counter() - started + waited
            self.done += 1
            self.seconds += seconds
            pairs = len(batch.index) * self.accelerator.num_processes
            self.trained_pairs += pairs
            if self.done % self.config.log_every == 0:
                values = {name: float(value) for name, value in losses.items()}
                log.write("step", self.done, epoch=epoch, **values)
                timing.write("step", self.done, pairs_per_second=pairs / seconds, data_wait=waited / seconds)
            progress.show(self.done, epoch=epoch, speed=pairs / seconds)
            # Before the checkpoint, so that a resumed run need not repeat it.
            if self.done % self.batches.per_epoch == 0:
                self._evaluate(epoch, log, progress)
            if main and self._checkpoint_due():
                self._save()

    def _train_step(self, batch: PairBatch, epoch: int) -> dict[str, Tensor]:
        """One optimizer step; the global generator is seeded by the step, so that dropout repeats after a resume."""
        torch.manual_seed(stable_hash(self.config.seed, self.done, self.accelerator.process_index, "step"))
        set_learning_rate(self.optimizer, learning_rate_at(self.done, self.total_steps, self.optimizer_config))
        moment = Moment(epoch, self.done, self.total_steps, self.batches.per_epoch)
        with self.accelerator.autocast():
            output: StepOutput = self.step(batch.to(self.accelerator.device), moment)
        self.accelerator.backward(output.losses["loss"])
        if self.optimizer_config.clip_norm:
            self.accelerator.clip_grad_norm_(self.step.parameters(), self.optimizer_config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.unwrap_model(self.step).after_update(moment)
        return {name: value.detach() for name, value in output.losses.items()}

    def _loader(self, epoch: int) -> Iterator[tuple[PairBatch, float]]:
        """Yield the epoch's remaining batches, each with the seconds spent waiting for it."""
        visits = self.batches.visits(epoch, start=self.done % self.batches.per_epoch)
        loader = DataLoader(
            self.dataset,
            batch_sampler=visits,
            collate_fn=self.collator,
            num_workers=self.config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        batches = iter(loader)
        for _ in visits:
            asked = time.perf_counter()
            batch: PairBatch = next(batches)
            self.substitutions.update(batch)
            yield batch, time.perf_counter() - asked

    def _evaluate(self, epoch: int, log: RunLog, progress: RunProgress) -> None:
        every = self.config.evaluate_every
        last = self.done == self.total_steps
        if self.evaluator is None or not every or ((epoch + 1) % every and not last):
            return
        if not self.accelerator.is_main_process:
            return
        self.step.eval()
        figures = self.evaluator(self.model)
        self.step.train()
        log.write("validation", self.done, epoch=epoch, **figures)
        shown = {name: value for name, value in figures.items() if name.endswith("r@1") and "naive" not in name}
        text = ", ".join(f"{name.replace('_r@1', ' R@1')} {value:.1%}" for name, value in shown.items())
        progress.say(f"epoch {epoch + 1} of {self.config.epochs}: validation {text}")

    def _checkpoint_due(self) -> bool:
        every = self.config.checkpoint_every or self.batches.per_epoch
        return self.done % every == 0

    def _save(self) -> None:
        def write(folder: Path) -> None:
            self._write_model(folder)
            save_optimizer(self.optimizer, folder)

        self.store.save(self.done, write, {"substitutions": self.substitutions.state(), "plan": self._plan()})

    def _resume(self, log: RunLog, timing: RunLog, progress: RunProgress) -> None:
        found = self.store.newest(progress.say)
        if found is None:
            log.rewind(-1)
            timing.rewind(-1)
            return
        folder, state = found
        if state["plan"] != self._plan():
            raise ConfigError(
                f"{self.run_folder} holds a run of another plan ({state['plan']}, now {self._plan()}); "
                "give another --run-folder, or the old settings"
            )
        self.model.load_state_dict(AlbefModel.from_pretrained(folder).state_dict())
        load_optimizer(self.optimizer, folder)
        self.substitutions.load_state(state["substitutions"])
        self.done = state["step"]
        log.rewind(self.done)
        timing.rewind(self.done)
        progress.say(f"going on from {folder}")

    def _plan(self) -> dict[str, Any]:
        """What must not change between a run and its resumption."""
        return {
            "pairs": len(self.dataset),
            "global_batch": self.batches.global_batch,
            "seed": self.config.seed,
            "epochs": self.config.epochs,
        }

    def _write_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.preprocessing.save(folder)
