"""Finds the task prior: the ratios of views that serve each task best on a validation split.

    python scripts/calibrate_views.py --checkpoint output/shapes/checkpoints/last --split val \\
        --max-images 100 --out output/shapes/views

Every ascending choice of V - 1 of the ``--ratios`` is evaluated with all tasks of the run, and the
image prior beside them. In ``--out``: ``points.jsonl`` (what is measured; a second call goes on
from there), ``scores.md``, ``scores.png`` (score against ratio) and ``view_selectors.yaml``, which
a configuration takes as a `base:`.
"""

import argparse
from pathlib import Path

from dynrefer.command_line import at_least, config_parser, entry_point
from dynrefer.views.selectors import CANDIDATE_RATIOS


def calibration_parser() -> argparse.ArgumentParser:
    """The arguments of the calibration."""
    parser = config_parser(__doc__, required=False)
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint folder; its own configuration is the default"
    )
    parser.add_argument("--split", default="val", help="split to calibrate on (default: val)")
    parser.add_argument(
        "--ratios",
        nargs="+",
        type=float,
        default=CANDIDATE_RATIOS.tolist(),
        metavar="R",
        help="ratios to choose from, 0 (region) to 1 (image); default: 0.1 0.2 ... 1",
    )
    parser.add_argument("--max-images", type=at_least(1), metavar="N", help="first ones only")
    parser.add_argument("--out", type=Path, help="folder (default: in run.output_dir)")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    return parser


if __name__ == "__main__":  # before the imports that take seconds
    arguments = calibration_parser().parse_args()

import math
from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dynrefer.config import require
from dynrefer.distributed import is_main
from dynrefer.files import check_writable, write_text
from dynrefer.pictures import save_picture
from dynrefer.pictures.blocks import (
    CAPTION,
    DPI,
    FAINT,
    INK,
    LINE,
    PAPER,
    SMALL,
    TEXT,
    pixels_of,
)
from dynrefer.pictures.views import COLORS
from dynrefer.runners.calibration import Point, grid, measure_all, name_of
from dynrefer.runners.entry import (
    evaluation_config,
    prepare_evaluation,
)
from dynrefer.runners.evaluation import evaluated_dataset, ground_truth, tasks_of
from dynrefer.tasks.task import Task

LISTED = 5  # of each task's best points, on the console
CHARTS_PER_LINE = 2


def best(points: Sequence[Point], task: str) -> list[Point]:
    """Points by falling score of a task, the earlier one (smaller ratios) first among equals."""
    return sorted(points, key=lambda point: -point.scores[task])


def table(points: Sequence[Point], tasks: Sequence[Task]) -> str:
    """Markdown: a row a point, a column a task, each task's best score bold."""
    tops = {task.name: best(points, task.name)[0] for task in tasks}
    heads = [f"{task.name}, {task.headline}" for task in tasks]
    rows = [f"| views | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for point in points:
        cells = [
            f"**{point.scores[task]:.2f}**" if point is top else f"{point.scores[task]:.2f}"
            for task, top in tops.items()
        ]
        rows.append(f"| {name_of(point.selector)} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def charts(points: Sequence[Point], tasks: Sequence[Task]) -> Image.Image:
    """A chart of every task."""
    columns, rows = min(CHARTS_PER_LINE, len(tasks)), math.ceil(len(tasks) / CHARTS_PER_LINE)
    figure = Figure((11 * columns, 9 * rows), DPI, facecolor=PAPER, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.5, h_pad=0.5)
    for number, task in enumerate(tasks, start=1):
        plot(figure.add_subplot(rows, columns, number), points, task)
    return pixels_of(figure)


def plot(axes: Axes, points: Sequence[Point], task: Task) -> None:
    """Score against ratio: for each view the best score with a ratio; dots are all points."""
    prior, choices = points[0].scores[task.name], points[1:]
    for view, color in zip(range(len(choices[0].selector.ratios)), cycle(COLORS), strict=False):
        dots = [(point.selector.ratios[view], point.scores[task.name]) for point in choices]
        upper: dict[float, float] = {}
        for ratio, value in dots:
            upper[ratio] = max(value, upper.get(ratio, value))
        axes.scatter(*zip(*dots, strict=True), s=60, color=color, alpha=0.4, linewidths=0)
        label = f"view {view + 1}: best with this ratio"
        axes.plot(
            *zip(*sorted(upper.items()), strict=True),
            color=color,
            lw=4,
            marker="o",
            ms=11,
            label=label,
        )
    level = f"image prior: {prior:.4g}"
    axes.axhline(prior, color=FAINT, lw=3, linestyle="--", zorder=1, label=level)
    axes.set_title(f"{task.name}: {task.headline}", fontsize=CAPTION, loc="left", color=INK)
    axes.set_xlabel("ratio", fontsize=TEXT, color=INK)
    axes.tick_params(labelsize=SMALL, labelcolor=FAINT, length=0)
    axes.ticklabel_format(useOffset=False)
    axes.grid(color=LINE, linewidth=2)
    axes.spines[:].set_visible(False)
    axes.legend(fontsize=TEXT, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14))


def selectors_yaml(points: Sequence[Point], tasks: Sequence[Task], made_from: str) -> str:
    """A configuration with the best selector of each task."""
    lines = [f"# The views that served each task best: {made_from}"]
    lines += ["# Made by scripts/calibrate_views.py.", "run:", "  view_selectors:"]
    prior = points[0]
    for task in tasks:
        top = best(points, task.name)[0]
        ratios = "" if top.selector.ratios is None else f", ratios: {top.selector.ratios}"
        lines.append(
            f"    {task.name}: {{name: {top.selector.name}{ratios}}}  # {task.headline} "
            f"{top.scores[task.name]:.2f}; image prior {prior.scores[task.name]:.2f}"
        )
    return "\n".join(lines) + "\n"


def main(arguments: argparse.Namespace) -> None:
    """Measures the grid and writes the table, the charts and the YAML."""
    config = evaluation_config(arguments)
    dataset, split = evaluated_dataset(config), arguments.split
    if arguments.max_images is not None:
        config.datasets[dataset].build_info.max_imgs = float(arguments.max_images)
    config.run.view_selectors = {}  # what this finds
    selectors = grid(config.model.num_views, arguments.ratios)
    out = arguments.out or Path(require(config, "run.output_dir")) / f"views-{dataset}-{split}"
    model = prepare_evaluation(config, [split], out)
    for name in ("scores.md", "scores.png", "view_selectors.yaml"):
        check_writable(out / name)
    if arguments.fresh and is_main():
        (out / "points.jsonl").unlink(missing_ok=True)
    points = measure_all(config, model, split, selectors, out / "points.jsonl")
    if not is_main():
        return
    tasks = tasks_of(config)
    truth = ground_truth(config, split, model.vocabularies)
    counts = [len(regions) for regions in truth.images()]
    data = f"{dataset} {split}, {len(counts)} images, {sum(counts)} regions"
    weights = config.run.load_ckpt_path or config.model.pretrained
    write_text(out / "scores.md", f"{data}; weights: {weights}\n\n{table(points, tasks)}")
    write_text(out / "view_selectors.yaml", selectors_yaml(points, tasks, data))
    print(f"\n{data}; the best of {len(points)}, and the image prior")
    for task in tasks:
        shown = best(points, task.name)[:LISTED]
        shown += points[:1] if points[0] not in shown else []
        print(f"\n{table(shown, [task])}", end="")
    save_picture(out / "scores.png", [charts(points, tasks)])
    print(f"\n{out}/view_selectors.yaml, scores.md, scores.png")


if __name__ == "__main__":
    entry_point(main, arguments)
