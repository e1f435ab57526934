"""How training tells what it does."""

import os
from collections.abc import Mapping


def is_main() -> bool:
    """Return whether this process is the one that writes and speaks: the only one, or number 0 under a launcher."""
    return os.environ.get("RANK", "0") == "0"


class Progress:
    """Hears how far training is, and says nothing. The command line has one that prints."""

    def start(self, title: str, epochs: int, resumed_at: int, step: int) -> None:
        """Training starts, or goes on at epoch `resumed_at` (from 1; 0: afresh) after `step` of its steps."""

    def step(self, epoch: int, done: int, steps: int) -> None:
        """One step of an epoch (from 0) is done."""

    def epoch(self, epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        """An epoch is done; `row` is its line of the log."""

    def phase(self, text: str) -> None:
        """A part of the work begins that takes a while."""

    def note(self, text: str) -> None:
        """Something that the user should know, and that stops nothing."""

    def stop(self) -> None:
        """Training is over."""
