"""The one training loop: devices, precision, checkpoints and resuming, progress, and a log of every term.

The learning rate and every random draw are functions of the step, so a run that was interrupted and resumed takes the
same steps as one that was not.
"""

import csv
import io
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kfdeploy.data.loader import Loader
from kfdeploy.data.source import ImageSet
from kfdeploy.errors import DeviceError, Interrupted, MissingDependencyError, TrainingError, first_line
from kfdeploy.files import write_file
from kfdeploy.progress import Progress
from kfdeploy.sections import Run, Train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT = "checkpoint.pt"
_FORMAT = 1
_GENTLER = "lower train.lr or set train.clip, and start afresh with --force"


class Term(NamedTuple):
    """One term of an objective: the loss is the sum of weight · value."""

    weight: float
    value: Tensor  # ()


class Learner(nn.Module):
    """A network with its objective. `forward` gives the terms of one step, `evaluate` the logits of images."""

    def forward(self, images: Tensor, labels: Tensor, step: int) -> dict[str, Term]:
        """Return the terms, from uint8 (N, H, W, C) and (N,)."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits (N, C), from uint8 (N, H, W, C)."""
        raise TypeError(f"{type(self).__name__} has no evaluate")


@dataclass
class Fitted:
    """What training did: one row an epoch, and the epoch it went on from (0: from the start)."""

    log: list[dict[str, float]] = field(default_factory=list)
    resumed_at: int = 0

    @property
    def seconds(self) -> float:
        """Time in the loop, over all sittings."""
        return sum(row["seconds"] for row in self.log)


def make_fabric(run: Run) -> "Fabric":
    """Return Lightning Fabric for one device, with `auto` resolved.

    Raises:
        DeviceError: cuda was asked for and is not there.
    """
    from lightning_fabric import Fabric

    if run.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "run.device is 'cuda', and this machine has no CUDA device that torch can use",
            allowed=("auto", "cpu"),
            hint="--device auto, or see 'kfdeploy doctor'",
        )
    device = ("cuda" if torch.cuda.is_available() else "cpu") if run.device == "auto" else run.device
    fast = torch.cuda.is_bf16_supported() if device == "cuda" else cpu_has_bf16()
    precision = ("bf16" if fast else "fp32") if run.precision == "auto" else run.precision
    return Fabric(accelerator=device, devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")


def cpu_has_bf16() -> bool:
    """Return whether the processor multiplies bfloat16 itself; where it does not, bf16 is slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


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


def fit(
    learner: Learner,
    loader: Loader,
    validation: ImageSet,
    config: Train,
    *,
    fabric: "Fabric",
    folder: Path,
    title: str,
    resume: bool = False,
    tensorboard: bool = False,
    report: Progress | None = None,
) -> Fitted:
    """Train `learner` in place; checkpoints and `log.csv` go to `folder`.

    Raises:
        TrainingError: a term is not finite (the last good checkpoint stays), or a checkpoint does not fit.
        Interrupted: Ctrl-C; the checkpoint holds the very step.
    """
    learner.to(memory_format=torch.channels_last)
    model, optimizer = fabric.setup(learner, make_optimizer(learner, config))
    fitted, at = Fitted(), _Position()
    if resume:
        at = _load(folder / CHECKPOINT, learner, optimizer, fitted)
    report = report or Progress()
    report.start(title, config.epochs, fitted.resumed_at, at.batch)
    writer = _tensorboard(folder) if tensorboard else None
    try:
        with _interrupts() as interrupted:
            for epoch in range(at.epoch, config.epochs):
                at = at if epoch == at.epoch else _Position(epoch)
                _epoch(model, optimizer, loader, config, fabric, at, report, interrupted)
                if at.batch < len(loader):
                    _save(folder / CHECKPOINT, learner, optimizer, fitted, at)
                    raise _stopped(at, config, len(loader))
                began = time.perf_counter()
                accuracy = evaluate(learner, validation, fabric)
                # From the step, not from a variable: a resumed run may have no step left in this epoch.
                rate = learning_rate(config, (epoch + 1) * len(loader) - 1, config.epochs * len(loader))
                row = at.means() | {"validation": accuracy, "lr": rate}
                seconds = at.seconds + time.perf_counter() - began
                fitted.log.append({"epoch": epoch + 1.0} | row | {"seconds": seconds})
                _save(folder / CHECKPOINT, learner, optimizer, fitted, _Position(epoch + 1))
                write_log(folder / "log.csv", fitted.log)
                if writer is not None:
                    for name, value in row.items():
                        writer.add_scalar(f"{title}/{name}", value, epoch + 1)
                report.epoch(epoch, config.epochs, fitted.log[-1])
                if interrupted.is_set():
                    raise _stopped(at, config, len(loader))
    finally:
        report.stop()
        if writer is not None:
            writer.close()
    return fitted


def _epoch(
    model: Any,
    optimizer: Any,
    loader: Loader,
    config: Train,
    fabric: "Fabric",
    at: "_Position",
    report: Progress,
    interrupted: threading.Event,
) -> None:
    """Take the steps of an epoch from `at` on, in place, until its end or an interrupt.

    Raises:
        TrainingError: a term or a weight is not finite.
    """
    began = time.perf_counter()
    # Reading a value waits for a GPU: there the check for finite terms runs every so many steps.
    check_every = 1 if fabric.device.type == "cpu" else 50
    names: list[str] = []
    pending: list[Tensor] = []
    model.train()
    for batch in loader.epoch(at.epoch, at.batch):
        step = at.epoch * len(loader) + at.batch
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, config.epochs * len(loader))
        terms: dict[str, Term] = model(batch.images, batch.labels, step)
        loss = torch.stack([term.weight * term.value for term in terms.values()]).sum()
        names = [*terms, "loss"]
        pending.append(torch.stack([*(term.value.detach() for term in terms.values()), loss.detach()]).float())
        if len(pending) == check_every:
            at.add(names, _finite(pending, names, step, at.epoch))
            pending = []
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if config.clip:
            # What is not finite shows in the next step's terms, where it has a name.
            fabric.clip_gradients(model, optimizer, max_norm=config.clip, error_if_nonfinite=False)
        optimizer.step()
        at.batch += 1
        report.step(at.epoch, at.batch, len(loader))
        if interrupted.is_set():
            break
    if pending:
        at.add(names, _finite(pending, names, step, at.epoch))
    for name, parameter in model.module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise TrainingError(
                f"the weights '{name}' are not finite in epoch {at.epoch + 1}; a checkpoint before it is kept",
                hint=_GENTLER,
            )
    at.seconds += time.perf_counter() - began


def _stopped(at: "_Position", config: Train, steps: int) -> Interrupted:
    return Interrupted(
        f"stopped in epoch {at.epoch + 1} of {config.epochs}, at step {at.batch} of {steps}; everything is saved",
        hint="go on with --resume",
    )


@torch.no_grad()
def logits_of(learner: Learner, data: ImageSet, device: torch.device, batch: int = 512) -> np.ndarray[Any, Any]:
    """Return float32 logits (N, C) of a whole set, in `eval()`."""
    learner.eval()
    out = []
    for start in range(0, len(data), batch):
        images = torch.from_numpy(data.load(slice(start, start + batch))).to(device)
        out.append(learner.evaluate(images).float().cpu().numpy())
    return np.concatenate(out)


def evaluate(learner: Learner, data: ImageSet, fabric: "Fabric") -> float:
    """Return the accuracy of a learner on a set."""
    with fabric.autocast():
        logits = logits_of(learner, data, fabric.device)
    return float((logits.argmax(1) == data.labels).mean())


def write_log(path: Path, rows: list[dict[str, float]]) -> None:
    """Write one CSV row an epoch."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in rows)
    write_file(path, text.getvalue())


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
        """Return the mean of each term over the epoch."""
        return {name: value / max(1, self.counted) for name, value in self.sums.items()}


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


def _save(path: Path, learner: Learner, optimizer: torch.optim.Optimizer, fitted: Fitted, at: _Position) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    state = {
        "format": _FORMAT,
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
        "log": fitted.log,
        "at": vars(at),
    }
    try:
        torch.save(state, beside)
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        beside.unlink(missing_ok=True)
        raise TrainingError(
            f"the checkpoint '{path}' cannot be written: {first_line(error)}",
            hint="free some space, then go on with --resume",
        ) from None


def _load(path: Path, learner: Learner, optimizer: torch.optim.Optimizer, fitted: Fitted) -> _Position:
    if not path.is_file():
        return _Position()
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a truncated archive, a foreign pickle: all mean the same to the user
        raise TrainingError(
            f"the checkpoint '{path}' cannot be read: {first_line(error)}", hint="start afresh with --force"
        ) from None
    if state.get("format") != _FORMAT:
        raise TrainingError(
            f"the checkpoint '{path}' is of format {state.get('format')}, this version reads {_FORMAT}",
            hint="start afresh with --force",
        )
    learner.load_state_dict(state["learner"])
    optimizer.load_state_dict(state["optimizer"])
    fitted.log = list(state["log"])
    at = _Position(**state["at"])
    fitted.resumed_at = at.epoch + 1
    return at


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError(
            "TensorBoard was asked for and is not installed", hint='pip install "kfdeploy[tensorboard]"'
        ) from None
    return SummaryWriter(str(folder / "tensorboard"))


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
