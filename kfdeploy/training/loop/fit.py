"""The one training loop: precision, checkpoints and resuming, progress, and a log of every term.

The learning rate and every random draw are functions of the step, so a run that was interrupted and resumed takes the
same steps as one that was not.
"""

import csv
import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kfdeploy.data.imageset import ImageSet
from kfdeploy.errors import Interrupted, TrainingError, unloaded
from kfdeploy.files import TIMING
from kfdeploy.targets.device.watch import peak_mib
from kfdeploy.training.loop import checkpoint, trial
from kfdeploy.training.loop.devices import has_bf16
from kfdeploy.training.loop.learner import Fitted, Learner, Term, outputs_of
from kfdeploy.training.loop.loader import Batch, Loader
from kfdeploy.training.loop.processes import globalise, rank, total, world
from kfdeploy.training.loop.progress import Progress, is_main
from kfdeploy.training.loop.replay import Live, Replay
from kfdeploy.training.recipe.sections import Run, Train
from kfdeploy.writing import write_file

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_GENTLER = "lower train.lr or set train.clip, and start afresh with --force"


def learning_rate(config: Train, step: int, steps: int) -> float:
    """Return the rate at a step: a linear warm-up, then a cosine or a line that ends at zero."""
    warm = config.warmup * steps
    if step < warm:
        return config.lr * (step + 1) / (warm + 1)
    left = (steps - step) / max(1.0, steps - warm)
    return config.lr * (left if config.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


def make_optimizer(learner: nn.Module, config: Train) -> torch.optim.Optimizer:
    """Return the optimiser; biases and normalisation are not decayed."""
    named = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    # A bank's biases have two dimensions, so the name decides too.
    others = [p for name, p in named if p.ndim <= 1 or name.endswith("bias")]
    weights = [p for name, p in named if p.ndim > 1 and not name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


@dataclass(frozen=True)
class Trainer:
    """What a training runs with: its settings, its device, the folder where it is kept, and who is told of it.

    `teach` is asked about every batch, outside of what is compiled and differentiated.
    """

    config: Train
    run: Run
    fabric: "Fabric"
    folder: Path
    title: str
    teach: "Live | Replay | None" = None
    report: Progress = field(default_factory=Progress)

    def fit(self, learner: Learner, loader: Loader, validation: ImageSet, *, resume: bool = False) -> Fitted:
        """Train `learner` in place; checkpoints, `log.csv` and `timing.csv` go to the folder.

        Raises:
            TrainingError: a term is not finite (the last good checkpoint stays), a checkpoint does not fit, or another
                process died.
            Interrupted: Ctrl-C; the checkpoint holds the very step.
        """
        config, fabric, report = self.config, self.fabric, self.report
        with _peers():
            if world() > 1:
                globalise(learner)
            learner.to(memory_format=torch.channels_last)
            optimizer = make_optimizer(learner, config)
            if self.run.compile:
                learner.compile()
            model, stepper = fabric.setup(learner, optimizer)
            steps, fitted, at = len(loader), Fitted(), _Position()
            same = {"threads": torch.get_num_threads() if fabric.device.type == "cpu" else 0, "processes": world()}
            state = checkpoint.load(self.folder, same, report) if resume else None
            if state is not None:
                learner.load_state_dict(state["learner"])
                optimizer.load_state_dict(state["optimizer"])
                at, fitted = _Position(**state["at"]), Fitted(list(state["log"]), list(state["seconds"]))
                fitted.resumed_at = at.epoch + 1
            self._choose_precision(learner, loader, state)

            def save(at: _Position) -> None:
                if is_main():
                    state = {"learner": learner.state_dict(), "optimizer": optimizer.state_dict(), "at": vars(at)}
                    more = {"log": fitted.log, "seconds": fitted.epoch_seconds, "same": same}
                    more["precisions"] = trial.precisions(fabric, self.teach)
                    checkpoint.save(self.folder, at.epoch * steps + at.batch, state | more)

            report.start(self.title, config.epochs, fitted.resumed_at, at.batch)
            with _interrupts() as interrupted, self._told() as tell:
                for epoch in range(at.epoch, config.epochs):
                    at = at if epoch == at.epoch else _Position(epoch)
                    self._epoch(model, stepper, loader, at, interrupted, save)
                    if at.batch < steps:
                        save(at)
                        raise _stopped(at, config, steps)
                    self._judge(learner, validation, at, steps, fitted)
                    save(_Position(epoch + 1))
                    tell(epoch, fitted)
                    if _any(interrupted.is_set()):
                        raise _stopped(at, config, steps)
            return fitted

    def _choose_precision(self, learner: Learner, loader: Loader, state: Mapping[str, Any] | None) -> None:
        """Go on in the precision of a checkpoint; else, where none was asked for, in the faster one."""
        if state is not None and "precisions" in state:
            trial.restore(self.fabric, self.teach, state["precisions"])
            return
        asked = self.run.precision != "auto" or self.run.compile or self.fabric.device.type != "cpu"
        if state is None and not asked and has_bf16(self.fabric):
            self.report.phase("timing a step in each precision")
            with closing(loader.epoch(0)) as batches:  # processes that decode ahead would be timed too
                batch = next(batches)
            self.report.phase(trial.choose(self.fabric, learner, batch, self.teach))

    def _epoch(
        self, model: Any, optimizer: Any, loader: Loader, at: "_Position", interrupted: threading.Event,
        save: "Callable[[_Position], None]",
    ) -> None:  # fmt: skip
        """Take the steps of an epoch from `at` on, in place, until its end or an interrupt.

        Raises:
            TrainingError: a term or a weight is not finite.
        """
        began = saved = time.perf_counter()
        # Reading a value waits for a GPU: there the check for finite terms runs every so many steps.
        check_every = 1 if self.fabric.device.type == "cpu" else 50
        names: list[str] = []
        pending: list[Tensor] = []
        model.train()
        for batch in loader.epoch(at.epoch, at.batch):
            step = at.epoch * len(loader) + at.batch
            terms, loss = self._loss(model, optimizer, batch, step, len(loader))
            names = [*terms, "loss"]
            pending.append(torch.stack([*(term.value.detach() for term in terms.values()), loss.detach()]).float())
            if len(pending) == check_every:
                at.add(names, _finite(pending, names, step, at.epoch))
                pending = []
            self._descend(model, optimizer, loss)
            at.batch += 1
            self.report.step(at.epoch, at.batch, len(loader))
            if _any(interrupted.is_set()):
                break
            now = time.perf_counter()
            if now - saved > 60 * self.run.checkpoint_minutes and not pending and at.batch < len(loader):
                at.seconds += now - began
                began = saved = now
                save(at)
        if pending:
            at.add(names, _finite(pending, names, step, at.epoch))
        for name, parameter in model.module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise TrainingError(
                    f"the weights '{name}' are not finite in epoch {at.epoch + 1}; a checkpoint before it is kept",
                    hint=_GENTLER,
                )
        at.seconds += time.perf_counter() - began
        if isinstance(self.teach, Replay):
            self.teach.flush()

    def _loss(self, model: Any, optimizer: Any, batch: Batch, step: int, steps: int) -> tuple[dict[str, Term], Tensor]:
        """Set the step's learning rate, and return the terms of a batch and their weighted sum."""
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step, self.config.epochs * steps)
        taught = None if self.teach is None else self.teach(batch)
        terms: dict[str, Term] = model(batch.images, batch.labels, taught, step)
        return terms, torch.stack([term.weight * term.value for term in terms.values()]).sum()

    def _descend(self, model: Any, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.config.clip:
            # What is not finite shows in the next step's terms, where it has a name.
            self.fabric.clip_gradients(model, optimizer, max_norm=self.config.clip, error_if_nonfinite=False)
        optimizer.step()

    def _judge(self, learner: Learner, validation: ImageSet, at: "_Position", steps: int, fitted: Fitted) -> None:
        """Add an epoch's row to the log: the means of its terms, and the accuracy on the validation images."""
        began = time.perf_counter()
        each = evaluate(learner, validation, self.fabric)
        scores = {"validation": sum(each.values()) / len(each)}
        if len(each) > 1:
            scores |= {f"validation/{field}": value for field, value in each.items()}
        # From the step, not from a variable: a resumed run may have no step left in this epoch.
        rate = learning_rate(self.config, (at.epoch + 1) * steps - 1, self.config.epochs * steps)
        fitted.log.append({"epoch": at.epoch + 1.0} | at.means() | scores | {"lr": rate})
        fitted.epoch_seconds.append(at.seconds + time.perf_counter() - began)

    @contextmanager
    def _told(self) -> "Iterator[Callable[[int, Fitted], None]]":
        """Give a function that tells of an epoch: in the log, to TensorBoard, to whoever looks on."""
        writer: Any = None

        def tell(epoch: int, fitted: Fitted) -> None:
            row = fitted.log[-1]
            if is_main():
                write_log(self.folder, fitted)
            if writer is not None:
                for name, value in row.items():
                    if name != "epoch":
                        writer.add_scalar(f"{self.title}/{name}", value, epoch + 1)
            self.report.epoch(epoch, self.config.epochs, row | {"seconds": fitted.epoch_seconds[-1]})

        try:
            writer = _tensorboard(self.folder) if self.run.tensorboard and is_main() else None
            yield tell
        finally:
            self.report.stop()
            if writer is not None:
                writer.close()
                _unname(self.folder / "tensorboard")


_PEER_LOST = ("Connection closed by peer", "Connection reset", "Timed out", "Broken pipe", "gloo", "NCCL")


@contextmanager
def _peers() -> Iterator[None]:
    """Say of a broken exchange that another process is gone.

    Raises:
        TrainingError: as above.
    """
    try:
        yield
    except RuntimeError as error:
        if world() > 1 and (lost := [word for word in _PEER_LOST if word in str(error)]):
            raise TrainingError(
                f"another of the {world()} processes died or does not answer ({lost[0].lower()})",
                hint="go on with --resume",
            ) from None
        raise


def _any(flag: bool) -> bool:
    """Return whether the flag is set in any process: all of them must stop at the same step."""
    return flag if world() == 1 else bool(total(torch.tensor(float(flag))) > 0)


def _stopped(at: "_Position", config: Train, steps: int) -> Interrupted:
    return Interrupted(
        f"stopped in epoch {at.epoch + 1} of {config.epochs}, at step {at.batch} of {steps}; everything is saved",
        hint="go on with --resume",
    )


def evaluate(learner: Learner, data: ImageSet, fabric: "Fabric") -> dict[str, float]:
    """Return the accuracy of a learner on a set, of each field; several processes take a part each."""
    own = data if world() == 1 else data.take(np.arange(rank(), len(data), world()))
    with fabric.autocast():
        logits = outputs_of(learner, own, fabric.device)
    counts = learner.right(logits, own)
    sums = total(torch.tensor(list(counts.values()), dtype=torch.float64, device=fabric.device))  # (F, 2)
    return {field: right / max(1.0, known) for field, (right, known) in zip(counts, sums.tolist(), strict=True)}


def write_log(folder: Path, fitted: Fitted) -> None:
    """Write `log.csv`, one row an epoch, and `timing.csv`: apart, because a log is reproducible and a time is not.

    The peak of memory is this process's so far, the same in every row.
    """
    peak = peak_mib() or 0.0
    times = [
        {"epoch": row["epoch"], "seconds": s, "peak_mib": peak}
        for row, s in zip(fitted.log, fitted.epoch_seconds, strict=True)
    ]
    for name, rows in (("log.csv", fitted.log), (TIMING, times)):
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in rows)
        write_file(folder / name, text.getvalue(), durable=False)  # a log; the folder is seen on the disk when done


@dataclass
class _Position:
    """Where an epoch stands: batches done, the sums of the terms over them, and the time they took."""

    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    seconds: float = 0.0

    def add(self, names: list[str], values: Tensor) -> None:
        """Add the terms of some steps, (steps, terms)."""
        for name, value in zip(names, values.sum(0).tolist(), strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counted += len(values)

    def means(self) -> dict[str, float]:
        """Return the mean of each term over the epoch and over the processes."""
        sums = total(torch.tensor([*self.sums.values(), float(self.counted)], dtype=torch.float64)).tolist()
        return {name: value / max(1.0, sums[-1]) for name, value in zip(self.sums, sums[:-1], strict=True)}


def _finite(pending: list[Tensor], names: list[str], step: int, epoch: int) -> Tensor:
    values = torch.stack(pending).cpu()  # (steps, terms)
    if not bool(torch.isfinite(values).all()):
        row, column = (~torch.isfinite(values)).nonzero()[0].tolist()
        raise TrainingError(
            f"the term '{names[column]}' became {values[row, column].item()} at step {step - len(pending) + 1 + row} "
            f"(epoch {epoch + 1}); the checkpoint of the epoch before it is kept",
            hint=_GENTLER,
        )
    return values


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        absent, hint = "TensorBoard was asked for and is not installed", 'pip install "kfdeploy[tensorboard]"'
        raise unloaded(error, "tensorboard", absent, hint) from None
    return SummaryWriter(str(folder / "tensorboard"))


def _unname(folder: Path) -> None:
    """Take the host, which TensorBoard puts into the names of its files, out of them again."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        began, _, rest = path.name.removeprefix("events.out.tfevents.").partition(".")
        path.rename(path.with_name(f"events.out.tfevents.{began}.{'.'.join(rest.rsplit('.', 2)[1:])}"))


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, read between steps; a second one is the ordinary KeyboardInterrupt."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
