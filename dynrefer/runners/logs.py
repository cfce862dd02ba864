"""What a run says: the console, a JSONL file, and wandb where it is asked for."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynrefer.distributed import is_main, rank
from dynrefer.files import sync, write_text, writing
from dynrefer.tasks.published import SOURCE


def set_up_logging() -> None:
    """Messages of the main process; of the others, warnings only."""
    logging.basicConfig(
        level=logging.INFO if is_main() else logging.WARNING,
        format=f"%(asctime)s [{rank()}] %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for noisy in ("httpx", "transformers", "timm"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class RunLog:
    """Appends records to ``log.jsonl`` and passes them to wandb; the main process alone writes.

    ``use_wandb`` asks for wandb (``pip install dynrefer[wandb]``), which gets the whole ``config``.
    The run begins or goes on at ``begins_at`` (epoch, step): records from there on are of steps
    that come again and are taken out, as is a line that was cut off.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        use_wandb: bool,
        begins_at: tuple[int, int] = (0, 0),
    ) -> None:
        self.path = path
        self._wandb = None
        if is_main() and path.is_file():
            write_text(path, "".join(_lines_before(path, begins_at)))
        if use_wandb and is_main():
            try:
                import wandb
            except ImportError as error:
                needed = "run.wandb is true but wandb is missing: pip install wandb"
                raise ImportError(needed) from error
            self._wandb = wandb.init(project="dynrefer", dir=path.parent, config=dict(config))

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record."""
        if not is_main():
            return
        with writing(self.path), self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        if self._wandb is not None:
            self._wandb.log(dict(record))

    def sync(self) -> None:
        """Returns when all records are on the disk."""
        if is_main() and self.path.is_file():
            sync(self.path)

    def close(self) -> None:
        """Ends the wandb run."""
        if self._wandb is not None:
            self._wandb.finish()


def _lines_before(path: Path, place: tuple[int, int]) -> Iterator[str]:
    """The lines of a log up to (epoch, step); an evaluation comes after its epoch's last step."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the process ended while it wrote
        if line.endswith("\n") and (record["epoch"], record.get("step", math.inf)) < place:
            yield line


def metric_table(
    metrics: Mapping[str, Mapping[str, float]],
    breakdown: bool = False,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Metrics of tasks as aligned text; the many AP lines of a breakdown only on request.

    ``published`` are the paper's numbers, which stand beside the metrics of the same name.
    """
    lines = []
    for task, values in metrics.items():
        numbers = (published or {}).get(task, {})
        lines.append(f"{task:<30}{'':8}{'published':>12}" if numbers else task)
        for name, value in values.items():
            if breakdown or not name.startswith("AP "):
                beside = f"{numbers[name]:12.1f}" if name in numbers else ""
                lines.append(f"  {name:<28}{value:8.2f}{beside}")
    if any((published or {}).values()):
        lines.append(f"({SOURCE})")
    return "\n".join(lines)
