"""What a run says: the console, a JSONL file, and wandb where it is asked for."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynrefer.distributed import is_main, rank
from dynrefer.files import write_text
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

    Args:
        output_dir: folder of the run.
        config: the whole configuration, for wandb.
        use_wandb: also log to wandb (``pip install dynrefer[wandb]``).
    """

    def __init__(self, output_dir: Path, config: Mapping[str, Any], use_wandb: bool) -> None:
        self.path = output_dir / "log.jsonl"
        self._wandb = None
        if use_wandb and is_main():
            try:
                import wandb
            except ImportError as error:
                raise ImportError(
                    "run.wandb is true but wandb is missing: pip install wandb"
                ) from error
            self._wandb = wandb.init(project="dynrefer", dir=output_dir, config=dict(config))

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds one record."""
        if not is_main():
            return
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        if self._wandb is not None:
            self._wandb.log(dict(record))

    def close(self) -> None:
        """Ends the wandb run."""
        if self._wandb is not None:
            self._wandb.finish()


def make_output_dir(path: Path) -> Path:
    """Makes the folder of a run and checks that files can be written there.

    Raises:
        PermissionError: it cannot; the message names run.output_dir.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"run.output_dir '{path}' cannot be written ({error}); choose another folder with "
            "--options run.output_dir=DIR"
        ) from error
    return path


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


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
