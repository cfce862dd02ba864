"""Ablation of the views on the shapes world, three seeds each, as a table and a plot.

    python scripts/ablate_views.py --out output/ablation                  # the whole, resumable
    python scripts/ablate_views.py --out output/ablation --table-only     # of what is finished

It asks what the paper claims: that several views are better than one, that views drawn at random
in training serve at other views too, that priors choose better views than chance, and that three
decoders can learn together. Everything of a seed starts from one pretrained encoder. Whatever is
finished is found again in ``--out``: a call that was stopped goes on with the next training. Needs
the shapes world (bash scripts/quickstart.sh).
"""

import argparse
from pathlib import Path

from dynrefer.command_line import at_least, entry_point, plain_parser


def ablation_parser() -> argparse.ArgumentParser:
    """The arguments of the ablation."""
    parser = plain_parser(__doc__)
    parser.add_argument("--cfg-path", type=Path, default=Path("configs/train/shapes.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder of runs, table and plot")
    parser.add_argument("--seeds", nargs="+", type=at_least(0), default=[0, 1, 2])
    parser.add_argument("--epochs", type=at_least(1), default=1, help="of every training")
    parser.add_argument("--processes", type=at_least(1), default=2)
    parser.add_argument("--only", nargs="+", metavar="RUN", help="trainings to do, by name")
    parser.add_argument("--table-only", action="store_true", help="of what is finished")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="for all runs"
    )
    return parser


if __name__ == "__main__":  # before the imports that take seconds
    arguments = ablation_parser().parse_args()

import json
import logging
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from dynrefer.files import write_text
from dynrefer.pictures import save_picture
from dynrefer.pictures.blocks import pixels_of
from dynrefer.runners.logs import set_up_logging

logger = logging.getLogger("ablate_views")

STOCHASTIC = "{name: stochastic, ratios: null}"
TASK_PRIOR = "{name: task_prior, ratios: [0.5, 1.0]}"
BATCH = 16
CAPTIONS = "run.tasks=[region_captioning, caption_words]"
LABELS = "run.tasks=[attribute_detection, region_recognition]"
ALL = "run.tasks=[region_captioning, caption_words, attribute_detection, region_recognition]"


def fixed(*ratios: float) -> str:
    """The selector of the same views for every region."""
    return f"{{name: fixed, ratios: {list(ratios)}}}"


def evaluated_with(selector: str) -> tuple[str, str]:
    """Options that make every task look with one selector."""
    own = f"run.view_selectors.region_recognition={selector}"  # the configuration has one for it
    return f"run.view_selector={selector}", own


@dataclass(frozen=True)
class Evaluation:
    """A view selector to evaluate with; ``name`` is that of its row."""

    name: str
    selector: str


@dataclass(frozen=True)
class Training:
    """A model: what it is trained with, and how it is evaluated (first: with its own views)."""

    name: str
    selector: str
    evaluations: tuple[Evaluation, ...]
    options: tuple[str, ...] = (ALL,)


def _alone(name: str, selector: str) -> Training:
    return Training(name, selector, (Evaluation(name, selector),))


TRAININGS = (
    _alone("view 0 alone", fixed(0, 0, 0)),
    _alone("a wide view alone", fixed(1, 1, 1)),
    _alone("two fixed views (0, 1)", fixed(0, 1, 1)),
    Training(
        "three fixed views (0, 0.5, 1)",
        fixed(0, 0.5, 1),
        (
            Evaluation("three fixed views (0, 0.5, 1)", fixed(0, 0.5, 1)),
            Evaluation("  the same, evaluated at 0, 0.2, 0.7", fixed(0, 0.2, 0.7)),
        ),
    ),
    Training(
        "stochastic views",
        STOCHASTIC,
        (
            Evaluation("stochastic views, evaluated at 0, 0.5, 1 (task prior)", TASK_PRIOR),
            Evaluation("  the same, evaluated at 0, 0.2, 0.7", fixed(0, 0.2, 0.7)),
            Evaluation("  the same, image prior", "{name: image_prior, ratios: null}"),
            Evaluation("  the same, random views", STOCHASTIC),
        ),
    ),
    Training(
        "captions alone",
        STOCHASTIC,
        (Evaluation("caption decoder alone", TASK_PRIOR),),
        # An untrained tag decoder must not steer captions.
        (CAPTIONS, "model.loss.tag=0", "model.loss.region_text=0", "model.tag_threshold=1.0"),
    ),
    Training(
        "tags and captions",
        STOCHASTIC,
        (Evaluation("caption and tag decoders", TASK_PRIOR),),
        (CAPTIONS, "model.loss.region_text=0"),
    ),
    Training(
        "region-text alone",
        STOCHASTIC,
        (Evaluation("region-text decoder alone", TASK_PRIOR),),
        (LABELS, "model.loss.caption=0", "model.loss.tag=0"),
    ),
)

# task, metric, heading
COLUMNS = (
    ("region_recognition", "accuracy", "accuracy"),
    ("attribute_detection", "mAP all", "attributes"),
    ("attribute_detection", "mAP pattern", "textures"),
    ("region_captioning", "CIDEr", "CIDEr"),
    ("caption_words", "place right", "place"),
    ("caption_words", "ground right", "ground"),
    ("caption_words", "relation right", "relation"),
    ("caption_words", "texture right", "texture"),
)


def folder_name(name: str) -> str:
    """A training's or evaluation's folder: its letters and digits, joined by "_"."""
    return "_".join("".join(c if c.isalnum() else " " for c in name).split())


class Ablation:
    """Runs what is not finished yet, below one folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def encoder(self, seed: int) -> Path:
        """The pretrained encoder of a seed, made where it is not there yet."""
        out = self.options.out / f"seed{seed}" / "encoder"
        if not (out / "trainable.safetensors").is_file():
            self._run("scripts/pretrain_encoder.py", f"run.seed={seed}", out=out)
        return out

    def train(self, training: Training, seed: int) -> None:
        """One training and its evaluations."""
        folder = self.options.out / f"seed{seed}" / folder_name(training.name)
        common = [*training.options, "run.test_splits=[test]", "run.report_regions=0"]
        own = training.evaluations[0]
        if not metrics_file(folder).is_file():
            self._run(
                "train.py",
                *common,
                f"run.seed={seed}",
                f"run.max_epoch={self.options.epochs}",
                f"run.batch_size_train={BATCH // self.options.processes}",
                f"run.train_view_selector={training.selector}",
                *evaluated_with(own.selector),
                f"run.output_dir={folder}",
                f"model.pretrained={self.encoder(seed)}",
                "run.resume=auto",
            )
        for evaluation in training.evaluations[1:]:
            place = folder / folder_name(evaluation.name)
            if not metrics_file(place).is_file():
                self._run(
                    "evaluate.py",
                    *common,
                    f"model.pretrained={self.encoder(seed)}",
                    f"run.load_ckpt_path={folder / 'checkpoints' / 'last'}",
                    *evaluated_with(evaluation.selector),
                    f"run.output_dir={place}",
                    split="test",
                )

    def _run(
        self, script: str, *options: str, out: Path | None = None, split: str | None = None
    ) -> None:
        """One of the project's scripts under torchrun; ChildProcessError where it fails."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={self.options.processes}", script]
        command += ["--cfg-path", str(self.options.cfg_path)]
        command += ["--out", str(out)] if out else []
        command += ["--split", split] if split else []
        command += ["--options", *options, *self.options.options]
        if code := subprocess.run(command).returncode:
            raise ChildProcessError(
                f"{script} ended with {code}, its own message stands above; what is finished is "
                "kept, the same command goes on from there"
            )


def metrics_file(folder: Path) -> Path:
    """Where training or evaluation leave the test split's metrics."""
    return next(iter(sorted(folder.glob("metrics-*-test-*.json"))), folder / "metrics.json")


def results(options: argparse.Namespace) -> Iterator[tuple[str, list[list[float]]]]:
    """Every row's name, and for each column its values over the finished seeds."""
    for training in TRAININGS:
        for number, evaluation in enumerate(training.evaluations):
            columns: list[list[float]] = [[] for _ in COLUMNS]
            for seed in options.seeds:
                folder = options.out / f"seed{seed}" / folder_name(training.name)
                place = folder / folder_name(evaluation.name) if number else folder
                if not metrics_file(place).is_file():
                    continue
                metrics = json.loads(metrics_file(place).read_text())["metrics"]
                for column, (task, metric, _) in zip(columns, COLUMNS, strict=True):
                    if metric in metrics.get(task, {}):
                        column.append(metrics[task][metric])
            yield evaluation.name, columns


def cell(values: Sequence[float]) -> str:
    """Mean and, of several seeds, half of the distance between the least and the largest."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.1f}"


def table(rows: Sequence[tuple[str, list[list[float]]]]) -> str:
    """Markdown: a row an evaluation, mean and half range over the seeds."""
    header = ["", *(heading for _, _, heading in COLUMNS)]
    lines = [header, ["---", *("---:" for _ in COLUMNS)]]
    lines += [[name.replace("  ", "– "), *map(cell, columns)] for name, columns in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(rows: Sequence[tuple[str, list[list[float]]]]) -> Figure:
    """Bars of every row, a panel a column; a line as long as the range of the seeds."""
    figure = Figure(figsize=(16, 1 + 0.3 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(COLUMNS), sharey=True)
    for index, (panel, (_, _, heading)) in enumerate(zip(panels, COLUMNS, strict=True)):
        for place, (_, columns) in enumerate(rows):
            if values := columns[index]:
                panel.barh(place, statistics.fmean(values), color="#4878a8")
                panel.plot([min(values), max(values)], [place, place], color="black")
        panel.set_title(heading, fontsize=10)
    panels[0].set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=9)
    panels[0].invert_yaxis()
    return figure


def main(options: argparse.Namespace) -> None:
    """Trains and evaluates what is missing, then writes ``table.md`` and ``plot.png``."""
    set_up_logging()
    names = [training.name for training in TRAININGS]
    if unknown := set(options.only or ()) - set(names):
        raise ValueError(f"--only {', '.join(sorted(unknown))}: valid are {', '.join(names)}")
    if BATCH % options.processes:
        raise ValueError(f"--processes {options.processes}: must divide the batch of {BATCH}")
    options.out.mkdir(parents=True, exist_ok=True)
    ablation = Ablation(options)
    chosen = [t for t in TRAININGS if options.only is None or t.name in options.only]
    for seed in () if options.table_only else options.seeds:
        for training in chosen:
            logger.info("seed %d: %s", seed, training.name)
            ablation.train(training, seed)
    rows = list(results(options))
    if not any(any(columns) for _, columns in rows):
        raise ValueError(f"{options.out} holds no finished run of seeds {options.seeds}")
    write_text(options.out / "table.md", table(rows))
    save_picture(options.out / "plot.png", [pixels_of(plot(rows))])
    print(table(rows))


if __name__ == "__main__":
    entry_point(main, arguments)
