"""What a training shows while it runs: a bar on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)
STYLES = ("auto", "bar", "lines", "none")


class Progress:
    """A bar of optimizer steps (style `bar`, or `auto` on a terminal), or a plain line an epoch, or nothing."""

    def __init__(self, style: str, max_epochs: int, max_steps: int, done_steps: int = 0):
        self._width, self._max_epochs, self._style, self.bar = len(str(max_epochs)), max_epochs, style, None
        if style == "bar" or (style == "auto" and sys.stderr is not None and sys.stderr.isatty()):
            from tqdm import tqdm

            self.bar = tqdm(total=max_steps, initial=done_steps, unit="step", dynamic_ncols=True, leave=False)

    def epoch_done(self, row: Mapping[str, Any], is_best: bool) -> None:
        """Writes the line of an epoch, above the bar where there is one."""
        if self._style == "none":
            return
        accuracy = "" if row["val_accuracy"] is None else f"  val_accuracy {row['val_accuracy']:.4f}"
        line = (
            f"epoch {row['epoch']:>{self._width}}/{self._max_epochs}  train_loss {row['train_loss']:<8.4g}  "
            f"val_loss {row['val_loss']:<8.4g}{accuracy}  lr {row['lr']:<8.3g}  {row['seconds']:.1f} s{'  best' if is_best else ''}"
        )
        try:
            if self.bar is not None:
                self.bar.write(line, file=sys.stdout or sys.stderr)
            else:
                print(line, flush=True)
        except (OSError, ValueError) as error:  # the terminal, or who read the output, is gone; the training is not
            self._style = "none"
            log.info("no more progress is shown: %s", error)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
