"""TaskModule: the torch side of a task. `forward(batch)` returns named losses, `predict(batch)` answers."""

from __future__ import annotations

from torch import nn

from visloom.task import Batch, Losses, Predictions


class TaskModule(nn.Module):
    """Base of every task's module.

    sparse: True if some steps leave parameters without a gradient (several heads, say).

    `forward` always returns losses, in train and eval mode: the mode drives batch norm and dropout only.
    `predict` returns a dict of columns in original image geometry, `ids` among them, and uses no collectives.
    State of one's own that is JSON-able travels by `get_extra_state` / `set_extra_state`.
    """

    sparse: bool = False

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of one batch."""
        raise TypeError(f"{type(self).__name__} must define forward(batch) -> Losses")

    def predict(self, batch: Batch) -> Predictions:
        """Return predictions as named columns; each column has one entry per sample."""
        raise TypeError(f"{type(self).__name__} must define predict(batch) -> dict of columns")

    def assess(self, batch: Batch) -> tuple[Losses, Predictions]:
        """Return losses and predictions of one evaluation batch; override where one pass can serve both."""
        return self(batch), self.predict(batch)
