"""What a run does beside its loop: before the first epoch its records and a look at its signal, before each what thaws."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelfactory.api.signal_check import check_signal
from modelfactory.config.compose import to_yaml
from modelfactory.config.files import write_text
from modelfactory.data.dataset import Data
from modelfactory.planning.materialize import Built
from modelfactory.planning.run_spec import RunSpec
from modelfactory.training.result import Result

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunHooks:
    """What the training of a config's model calls.

    Attributes:
        folder: the run directory; None: nothing is written.
        warnings: of the model, known before.
        pictures: whether signal.png is drawn.
    """

    spec: RunSpec
    built: Built
    data: Data
    folder: Path | None
    warnings: Sequence[str]
    pictures: bool

    def before_epoch(self, epoch: int) -> None:
        """Thaws what is due in the model."""
        thawed = self.built.before_epoch(epoch)
        if thawed:
            log.info("epoch %d: %d tensors train from here on, %s to %s", epoch, len(thawed), thawed[0], thawed[-1])

    def begin(self, result: Result, recorded: Mapping[str, Any]) -> list[str]:
        """Writes config.yaml and ledger.csv, checks the signal of a model that is not trained yet; returns all warnings."""
        if self.folder is not None:
            write_text(self.folder / "config.yaml", to_yaml(recorded))
            if result.init_hash == self.built.ledger.fingerprint:  # else the ledger of the run that is resumed stays
                self.built.ledger.to_csv(self.folder / "ledger.csv")
        if self.spec.training.trainer.resume is not None:  # trained weights are nothing to warn of
            return list(self.warnings)
        said, hints = check_signal(self.built.model, self.data, self.spec, self.folder, self.pictures)
        result.hints.extend(hints)
        for hint in hints:
            log.info("hint: %s", hint)
        for warning in said:
            log.warning(warning)
        return [*self.warnings, *said]
