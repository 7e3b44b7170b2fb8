"""Where the numbers of a run go: metrics.jsonl and TensorBoard."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from swinkit.train.run import Run


class Log:
    """Call it with a record; each number in it is also a TensorBoard scalar such as train/loss, by optimiser step."""

    def __init__(self, run: Run, resumed_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run = run
        purge = resumed_at + 1 if resumed_at else None
        self.board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge)

    def __call__(self, record: dict[str, Any]) -> None:
        """Write one record: its kind ("train", "val"), step, epoch, and numbers by name."""
        self.run.log(record)
        for name, value in record.items():
            if name not in ("kind", "step", "epoch"):
                self.board.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.board.close()
