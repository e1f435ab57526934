"""What the verbs print: paths, sizes, and the progress of training."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from kfdeploy.shown import lines, plain, without_secrets
from kfdeploy.training.loop.progress import Progress, is_main

if TYPE_CHECKING:
    from kfdeploy.training.recipe.sections import Run


POOL = "PATH|URL"  # a folder, or what fsspec opens; text, because a path makes one slash of two
FORCE = typer.Option(False, "--force", help="Replace what is there.")
WAIT = typer.Option(False, "--wait", help="Wait for another kfdeploy that writes there.")
SET = typer.Option([], "--set", metavar="KEY=VALUE…", help="Recipe keys to change, such as train.epochs=5.")
KEY = typer.Option(..., metavar="FILE|URI", help="The private key, from `kfdeploy keygen`, or one in a token or a KMS.")
PASSPHRASE = typer.Option(
    None,
    metavar="ask|env:NAME|file:PATH",
    help="Where the key's passphrase or PIN comes from. Default: $KFDEPLOY_PASSPHRASE, else it is asked for.",
)
PUBLIC = typer.Option(None, metavar="FILE", help="The public half of a key that is named by a URI.")
RESUME = typer.Option(False, "--resume", help="Go on from a checkpoint; afresh where there is none.")


def say(text: str) -> None:
    """Print a line at once; of several processes, one speaks. Names steer no terminal, and URLs keep their secrets."""
    if is_main():
        print(lines(without_secrets(text)), flush=True)


def start_processes(run: "Run") -> int:
    """Start this command line as several processes where the recipe asks for that and nobody has yet.

    Returns 0 where there is nothing to start, else the exit status plus one.

    Raises:
        DeviceError: there are fewer devices than that.
        TrainingError: a process was killed or crashed.
    """
    if run.devices == 1 or "WORLD_SIZE" in os.environ:
        return 0
    from kfdeploy.training.loop.devices import check_devices, launch

    check_devices(run)
    return 1 + launch(run.devices, sys.argv[1:])


def megabytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


DEVICE = typer.Option("", metavar="auto|cpu|cuda", help="Where to train.")
DEVICES = typer.Option(None, min=1, show_default=False, help="How many processes share each batch.")
PRECISION = typer.Option("", metavar="auto|fp32|bf16", help="What to compute in.")
THREADS = typer.Option(None, min=1, show_default=False, help="Threads of each process, on the CPU.")
COMPILE = typer.Option(False, "--compile", help="Use torch.compile: a minute at first, faster steps after.")
REPLAY = typer.Option("", metavar="FOLDER", help="Keep what the teacher says there, for the next run to read.")
TENSORBOARD = typer.Option(False, "--tensorboard", help="Log every term there too.")


def run_settings(**options: str | int | bool | None) -> list[str]:
    """Return the overrides that the options of training stand for; an option left out changes nothing."""
    return [f"run.{key}={json.dumps(value)}" for key, value in options.items() if value]


_MINUTE = 60.0  # between two lines where there is no bar


class TrainingProgress(Progress):
    """A bar with a time estimate on a terminal, a line an epoch elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.began = self.first = self.told = 0.0
        self.epochs = 0

    def start(self, title: str, epochs: int, resumed_at: int, step: int) -> None:
        """Say what is trained, and where it goes on."""
        if resumed_at > epochs:
            say(f"{title}: all {epochs} epochs are done")
        elif resumed_at:
            say(f"{title}: going on at epoch {resumed_at} of {epochs}" + (f", after step {step}" if step else ""))
        else:
            say(f"{title}: {epochs} epochs")
        self.began, self.first, self.epochs = time.perf_counter(), max(0.0, resumed_at - 1.0), epochs
        self.told = self.began
        if sys.stdout.isatty() and is_main():
            from rich import progress

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                transient=True,
            )
            self.task = self.bar.add_task(plain(title).replace("[", "\\["), total=epochs, completed=self.first)
            self.bar.start()

    def step(self, epoch: int, done: int, steps: int) -> None:
        """Move the bar; away from a terminal, print a line a minute."""
        now, at = time.perf_counter(), epoch + done / steps
        if self.bar is not None:
            self.bar.update(self.task, completed=at)
        elif now - self.told >= _MINUTE and is_main():
            self.told = now
            left = (now - self.began) / (at - self.first) * (self.epochs - at)
            say(f"  epoch {epoch + 1}/{self.epochs}, {100 * done / steps:.0f} % of it, about {_span(left)} left")

    def epoch(self, epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        """Print a line; away from a terminal not more than some twenty in all."""
        if self.bar is None and (epoch + 1) % max(1, epochs // 20) and epoch + 1 < epochs:
            return
        self.told = time.perf_counter()
        left = (time.perf_counter() - self.began) / (epoch + 1 - self.first) * (epochs - epoch - 1)
        line = (
            f"  epoch {epoch + 1}/{epochs}  loss {row['loss']:.3f}  validation {100 * row['validation']:.2f} %"
            f"  {row['seconds']:.1f} s" + (f"  about {_span(left)} left" if epoch + 1 < epochs else "")
        )
        if self.bar is None:
            say(line)
        else:
            self.bar.console.print(line, highlight=False, markup=False)

    def phase(self, text: str) -> None:
        """Print it."""
        if is_main():
            say(text)

    def note(self, text: str) -> None:
        """Print it."""
        say(f"note: {text}")

    def stop(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def tasks_text(names: Sequence[str]) -> str:
    """Return names for a sentence."""
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:10])} and {len(names) - 10} more"
