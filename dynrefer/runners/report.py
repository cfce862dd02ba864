"""Reports of an evaluation: metrics (JSON, Markdown), a page of regions, best and worst first."""

import base64
import io
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image

import dynrefer
from dynrefer.config import to_plain
from dynrefer.files import write_text
from dynrefer.processors.images import open_image
from dynrefer.processors.region_image import check_boxes
from dynrefer.tasks.ground_truth import GroundTruth
from dynrefer.tasks.published import SOURCE
from dynrefer.tasks.results import Predictions
from dynrefer.tasks.task import Task

logger = logging.getLogger(__name__)

REGION_AND_IMAGE = (0.0, 1.0)  # views shown where a result file does not say which were looked at
PAGE = "report_page.html"
MOST_LINES, MOST_LETTERS = 6, 300  # of what is said or true of a region
JPEG = {"quality": 82, "subsampling": 0}  # thin coloured outlines need their full resolution
SCALE = 2 / 3  # pictures are drawn for about two pixels a point


@dataclass(frozen=True)
class JudgedTask:
    """A task with its metrics and the predictions (by region id) that they come from.

    ``published`` are the paper's numbers for what was evaluated, by metric.
    """

    task: Task
    metrics: Mapping[str, float]
    predictions: Predictions
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownRegion:
    """One region of a page: ``picture`` of its views, or the ``note`` why there is none.

    ``score`` is None where it has no label.
    """

    title: str
    score: float | None
    picture: Image.Image | None
    note: str
    said: Sequence[str]
    true: Sequence[str]


@dataclass(frozen=True)
class Section:
    """The regions shown of a task by group ("best", ...), after a line about it."""

    title: str
    line: str
    groups: Mapping[str, Sequence[ShownRegion]]


def data_facts(dataset: str, split: str, truth: GroundTruth) -> dict[str, Any]:
    """What is evaluated: names and counts; regions and images that a limit leaves out are not."""
    counts = truth.index.region_counts[truth.positions()]
    facts = {"dataset": dataset, "split": split, "images": int((counts > 0).sum())}
    facts["regions"] = int(counts.sum())
    return facts | {"images left out": len(truth.left_out)} if truth.left_out else facts


def write_results(
    metrics_path: Path,
    page_path: Path,
    config: DictConfig,
    facts: Mapping[str, Any],
    judged: Sequence[JudgedTask],
    truth: GroundTruth,
) -> None:
    """Writes metrics (JSON), a table beside them (.md), and the page of ``run.report_regions``.

    ``facts`` say what was evaluated: ``data_facts`` and more. The metrics stand with them, the
    configuration and the versions that made them.
    """
    numbers = {one.task.name: dict(one.published) for one in judged if one.published}
    content = {
        "metrics": {one.task.name: dict(one.metrics) for one in judged},
        **({"published": {"source": SOURCE, **numbers}} if numbers else {}),
        "evaluated": dict(facts),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "dynrefer": dynrefer.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "config": to_plain(config),
    }
    write_text(metrics_path, json.dumps(content, indent=2) + "\n")
    title = f"{facts['dataset']} {facts['split']}"
    texts = {
        name: str(value) if isinstance(value, str | int | float) else ", ".join(map(str, value))
        for name, value in facts.items()
    }
    write_text(metrics_path.with_suffix(".md"), table(title, texts, judged))
    if config.run.report_regions:
        write_page(page_path, title, texts, judged, truth, config.run.report_regions)


def write_page(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    judged: Sequence[JudgedTask],
    truth: GroundTruth,
    count: int,
) -> None:
    """Writes the page of about ``count`` regions a task: a third the best, a third the worst, the
    rest at random, always the same ones.

    A region whose image cannot be read is shown without its picture, and counted.
    """
    sections = [_section(one, truth, count) for one in judged]
    shown = [region for part in sections for group in part.groups.values() for region in group]
    missing = [region for region in shown if region.picture is None]
    if missing:
        logger.warning(
            "%d of %d regions in %s are without a picture; the first: %s",
            len(missing), len(shown), path, missing[0].note,
        )  # fmt: skip
        facts = {**facts, "regions without a picture": f"{len(missing)} of {len(shown)} shown"}
    write_text(path, page(title, facts, sections))


def page(title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The HTML of a page; every text is escaped, and long ones are cut."""
    strict = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, **strict)
    environment.filters |= {"cut": _cut, "jpeg": _jpeg}
    numbers = {"most_lines": MOST_LINES, "scale": SCALE}
    template = environment.get_template(PAGE)
    return template.render(title=title, facts=facts, sections=sections, **numbers) + "\n"


def _cut(text: str) -> str:
    """Not too long, and without lone surrogates (JSON may hold them), which UTF-8 cannot write."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} ..."


def _jpeg(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "JPEG", **JPEG)
    return base64.b64encode(content.getvalue()).decode("ascii")


def _section(judged: JudgedTask, truth: GroundTruth, count: int) -> Section:
    task, metrics = judged.task, judged.metrics
    scores = task.region_scores(judged.predictions, truth)
    ids = [region.id for region in truth.regions()]
    places = truth.region_positions()
    labelled = [position for position, id_ in enumerate(ids) if id_ in scores]
    line = (
        f"{task.headline} {metrics[task.headline]:.2f}. {len(labelled)} of {len(ids)} regions have "
        f"a label. Score of a region: {task.score_name}."
    )
    if labelled:
        groups = sample([scores[ids[position]] for position in labelled], count)
    else:  # LVIS knows classes of images, not of a detector's boxes
        labelled = range(len(ids))
        groups = {"at random": np.random.default_rng(0).permutation(len(ids))[:count].tolist()}
    groups = {name: [labelled[index] for index in group] for name, group in groups.items()}
    shown = {
        name: [_shown(judged, places[index], scores.get(ids[index]), truth) for index in group]
        for name, group in groups.items()
    }
    return Section(task.name, line, shown)


def sample(scores: Sequence[float], count: int) -> dict[str, list[int]]:
    """Indices of the best, the worst and some other regions, none twice; the same every time.

    A third of ``count`` each, and less where there are fewer. Equal scores come in random order, so
    that not all of them are of the first images.
    """
    rng, third = np.random.default_rng(0), -(-count // 3)
    shuffled = rng.permutation(len(scores))
    order = shuffled[np.argsort(-np.asarray(scores)[shuffled], kind="stable")]
    best, rest = order[:third], order[third:]
    worst = rest[::-1][: min(third, count - len(best))]
    others = rng.permutation(rest[: len(rest) - len(worst)])[: count - len(best) - len(worst)]
    groups = {"best": best, "worst": worst, "at random": others}
    return {name: group.tolist() for name, group in groups.items()}


def _shown(
    judged: JudgedTask, position: int, score: float | None, truth: GroundTruth
) -> ShownRegion:
    from dynrefer.pictures import draw_views  # matplotlib, which no training waits for

    region = truth.index.region(position)
    image = truth.index.image(truth.index.image_of_region(position))
    ratios = judged.predictions[region.id].get("ratios") or REGION_AND_IMAGE
    note = ""
    try:
        pixels = open_image(image.path)
        box = check_boxes([region.box], *pixels.size, f"region {region.id!r}: box")[0]
        picture = draw_views(pixels, box, ratios)
    except ValueError as error:  # an image that is missing or damaged, or a box outside it
        picture, note = None, str(error)
    words = judged.task.region_words(judged.predictions, region, truth)
    title = f"region {region.id}, {image.file_name}"
    return ShownRegion(title, score, picture, note, words.said, words.true)


def table(title: str, facts: Mapping[str, str], judged: Sequence[JudgedTask]) -> str:
    """Markdown: what was evaluated, then the metrics of each task, its headline first."""
    lines = [f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(fact)} |" for name, fact in facts.items()]
    for one in judged:
        names = sorted(one.metrics, key=lambda name, task=one.task: name != task.headline)
        listed = [name for name in names if not name.startswith("AP ")]
        beside = " published |" if one.published else ""
        lines += ["", f"## {one.task.name}", "", f"| metric | value |{beside}"]
        lines.append("|---|---:|" + "---:|" * bool(beside))
        for name in listed:
            bold = "**" if name == one.task.headline else ""
            row = f"| {bold}{_cell(name)}{bold} | {bold}{one.metrics[name]:.2f}{bold} |"
            lines.append(row + (f" {one.published.get(name, '')} |" if beside else ""))
        if beside:
            lines += ["", f"({SOURCE})"]
        if len(listed) < len(names):
            lines += ["", f"{len(names) - len(listed)} single APs are in the metrics' JSON file."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
