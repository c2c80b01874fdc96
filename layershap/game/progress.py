"""One progress bar for everything that a game evaluates, in however many calls."""

from __future__ import annotations

import weakref

from tqdm.auto import tqdm

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class Progress:
    """Shows the fraction of planned work, not of masks: masks differ in what they cost.

    Work that is announced (`expect`) but not planned yet is taken to cost as much per mask as what was planned so far.

    Parameters
    ----------
    shown : bool
        False shows nothing.
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.n_expected = 0
        self.n_planned = 0
        self.work_planned = 0.0
        self._bar: tqdm | None = None

    def expect(self, n_masks: int) -> None:
        """Tell how many masks will be evaluated in all."""
        self.n_expected = n_masks

    def plan(self, n_masks: int, work: float) -> None:
        """Add a plan, just before it is carried out."""
        self.n_planned += n_masks
        self.work_planned += work
        if not self.shown:
            return
        if self._bar is None:
            self._bar = tqdm(total=self.total, desc="masks", bar_format=_FORMAT)
            # A bar that nobody closed would draw itself while the interpreter is taken down (a crash on Python 3.13).
            weakref.finalize(self, self._bar.close)
        self._bar.total = self.total
        self._bar.set_description_str(f"{self.n_planned} of {max(self.n_expected, self.n_planned)} masks")

    @property
    def total(self) -> float:
        """All work, as far as it is known."""
        # The quotient first: it is exactly one at the end, where the total must not be less than what is done.
        return self.work_planned * (max(self.n_expected, self.n_planned) / max(self.n_planned, 1))

    def update(self, work: float) -> None:
        """Add work that is done."""
        if self._bar is not None:
            # Sums of the same numbers in another order may differ in the last digit; tqdm minds that.
            self._bar.update(min(work, self.work_planned - self._bar.n))

    def note(self, text: str) -> None:
        """Say what goes on while the bar stands still."""
        if self._bar is not None:
            self._bar.set_description_str(text)

    def close(self) -> None:
        """End the bar; what was expected and never came is no longer waited for."""
        if self._bar is not None:
            self._bar.total = self.work_planned
            self._bar.set_description_str(f"{self.n_planned} masks")
            self._bar.close()
            self._bar = None
