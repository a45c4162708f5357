"""One process's part in a run: what training works with, and what it writes to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mpt import report
from mpt.console import Console
from mpt.execution import Execution
from mpt.interrupts import Interrupts
from mpt.preparation import Prepared
from mpt.report import RunReport
from mpt.reporting import Clock
from mpt.resuming import Resumption
from mpt.run_folder import RunFolder
from mpt.telemetry import hparams, markdown
from mpt.telemetry.tensorboard import Board


@dataclass
class Session:
    """From the start of training in this process to its report.

    Attributes:
        composed: YAML texts for `.hydra/`.
        board: None where telemetry.tensorboard is off.
        resumed: where the run stood before; None: it begins here.
        interrupted: the signals that asked it to end.
        whole: it is to train to its end, and not to try its first steps only.
        run_dir: the run's folder; `folder` is another one at a member of a team that is not its
            chief, who alone writes there.
    """

    prepared: Prepared
    execution: Execution
    result: RunReport
    folder: RunFolder
    board: Board | None
    console: Console
    clock: Clock
    composed: dict[str, str]
    resumed: Resumption | None
    interrupted: Interrupts
    whole: bool
    run_dir: Path

    def tell(self, text: str) -> None:
        """Warn, and put it into the report, once."""
        if text not in self.result.warnings:
            self.result.warnings.append(text)
        self.console.warning(text)


@contextmanager
def opened_board(
    prepared: Prepared, result: RunReport, folder: RunFolder, composed: dict[str, str], *, new: bool
) -> Iterator[Board | None]:
    """The event file, with the dashboard's layout, and what the run is as settings and text.

    Args:
        composed: YAML texts of the configuration and its overrides.
        new: False where the run goes on: its earlier files say all that, and the recorder begins
            another one where they end.
    """
    if not prepared.config.telemetry.tensorboard:
        yield None
        return
    result.artifacts["tensorboard"] = folder.relative(folder.tensorboard)
    with Board(folder.tensorboard, folder.growing, begin=new) as board:
        if new:
            board.layout()
            reason = f"{result.precision.policy}: {result.precision.reason}"
            board.text("run/precision", markdown.escape(reason))
            layers = report.encode(result.precision.table)
            board.text("run/layers", markdown.table(markdown.LAYER_COLUMNS, layers))
            board.text("run/config", markdown.fenced(composed["config"], "yaml"))
            hparams.begin(board, result, composed.get("overrides", "[]"))
            board.flush()
        yield board
