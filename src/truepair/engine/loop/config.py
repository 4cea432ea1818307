"""How long and how a run goes."""

from dataclasses import dataclass, field

from truepair.errors import ConfigError
from truepair.settings import Natural, PartShare, Positive, Weight, check_settings

TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how a run goes.

    Attributes:
        epochs: passes over the training pairs.
        batch_size: pairs of one batch on one rank; losses contrast the pairs of a batch.
        accumulate: batches whose gradients make one optimizer step. The last step of an epoch has what is left.
        seed: seed of everything random in the run.
        workers: data loading processes, which also read the pictures whose states are cached; 0 for none beside the
            run's own. The run is the same for any number.
        data_timeout: seconds that a batch of the loading processes is waited for before the run ends with a line that
            says so; 0 for ever.
        precision: "no" (float32), "bf16" or "fp16".
        cpu: stay on the CPU even where a GPU is present.
        gradient_checkpointing: recompute activations in the backward pass; less memory, more time, same gradients.
        micro_batch: pairs whose activations are held at once, for pre-training; those of others are recomputed in the
            backward pass, so that a large batch fits a small device, with the gradients of the whole batch; 0 for all.
        shard: spread trained weights, gradients and the optimizer's averages over the processes (FSDP2): less memory,
            more exchange, the same run; with one process nothing changes. ``accelerate launch --use_fsdp`` sets it.
        compile: let torch.compile make faster layers; needs a C++ compiler, and minutes at the start.
        average_decay: decay of an exponential moving average of the weights, which is then what is evaluated and what
            the run leaves; 0 for none.
        on_non_finite: what a loss or gradient that is not finite does: "abort" the run, or "skip" the step.
        max_skipped: how many steps may be skipped in all before the run is aborted.
        log_every: steps between two log records; the last step of an epoch is logged, too.
        checkpoint_every: steps between two checkpoints; 0 for one at the end of each epoch.
        checkpoint_minutes: minutes after which a checkpoint is written between the regular ones; 0 for never.
        save: write checkpoints and the final model. Without, a run leaves figures alone, and starts anew when stopped.
        keep_checkpoints: how many of the newest checkpoints stay on disk.
        best_figure: validation figure whose highest value keeps its checkpoint on disk as well; empty for none.
        evaluate_every: epochs between two evaluations on the validation pairs; 0 for never.
        trackers: where the log goes beside its file: tensorboard, wandb, trackio.
        accept_changes: go on with a run though the pairs, pictures, ledgers or models that it reads are not those it
            began with; a line says which.
        profile: step whose profile is written to the run folder, counted from 1; 0 for none.
    """

    epochs: Positive = 30
    batch_size: Positive = 128
    accumulate: Positive = 1
    seed: Natural = 0
    workers: Natural = 2
    data_timeout: Weight = 1800.0
    precision: str = "no"
    cpu: bool = False
    gradient_checkpointing: bool = False
    micro_batch: Natural = 0
    shard: bool = False
    compile: bool = False
    average_decay: PartShare = 0.0
    on_non_finite: str = "abort"
    max_skipped: Natural = 20
    log_every: Positive = 20
    checkpoint_every: Natural = 0
    checkpoint_minutes: Weight = 0.0
    save: bool = True
    keep_checkpoints: Positive = 2
    best_figure: str = ""
    evaluate_every: Natural = 1
    trackers: list[str] = field(default_factory=list)
    accept_changes: bool = False
    profile: Natural = 0

    def __post_init__(self) -> None:
        check_settings(self, "loop")
        if self.precision not in ("no", "bf16", "fp16"):
            raise ConfigError(f"loop.precision is '{self.precision}'; give no, bf16 or fp16")
        if self.on_non_finite not in ("abort", "skip"):
            raise ConfigError(f"loop.on_non_finite is '{self.on_non_finite}'; give abort or skip")
        if self.best_figure and not self.save:
            raise ConfigError("loop.best_figure chooses among checkpoints; set loop.save, or leave best_figure out")
        if self.micro_batch >= self.batch_size:
            raise ConfigError(
                f"loop.micro_batch is {self.micro_batch}; give a part of loop.batch_size {self.batch_size}, or 0"
            )
        for tracker in self.trackers:
            if tracker not in TRACKERS:
                raise ConfigError(f"loop.trackers has '{tracker}'; give {', '.join(TRACKERS[:-1])} or {TRACKERS[-1]}")

    def logs(self, step: int, steps_per_epoch: int) -> bool:
        """Whether a step, counted from 1, leaves a log record: so does the last of an epoch, however short it is."""
        return step % self.log_every == 0 or step % steps_per_epoch == 0
