"""``dynrefer caption``: the regions of many images, by one process or several, resumable."""

import argparse
import logging
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from dynrefer import distributed
from dynrefer.captioning import RegionCaptioner
from dynrefer.captioning.output import ResumableLines, missing, size_of
from dynrefer.captioning.regions import WantedRegion, images_at, of_one_image, read_regions
from dynrefer.files import check_writable
from dynrefer.predictor import PredictionOptions
from dynrefer.progress import Progress
from dynrefer.runners.logs import set_up_logging

logger = logging.getLogger(__name__)


def main(arguments: argparse.Namespace) -> None:
    """Describes the regions that have no line yet, and joins the lines."""
    PredictionOptions(arguments.decoders)
    images = images_at(arguments.images)
    read_regions(arguments.regions, images)
    check_writable(arguments.out)
    device = distributed.start(arguments.device)
    set_up_logging()
    lines = ResumableLines(arguments.out, _job(arguments), distributed.rank())

    def names() -> Iterator[Any]:
        return (region.name for region in read_regions(arguments.regions, images))

    if arguments.out.exists():
        if lacking := missing(arguments.out, names()):
            raise ValueError(
                f"--out {arguments.out} is there and lacks {lacking} regions of "
                f"{arguments.regions}; name another file"
            )
        logger.info("%s has every region of %s already", arguments.out, arguments.regions)
        return
    if distributed.is_main():
        lines.begin()
    distributed.barrier()
    done = lines.done()
    distributed.barrier()  # before anybody writes

    def left() -> Iterator[list[WantedRegion]]:
        groups = of_one_image(read_regions(arguments.regions, images))
        for group in islice(groups, distributed.rank(), None, distributed.world_size()):
            if new := [region for region in group if region.name not in done]:
                yield new

    captioner = RegionCaptioner(
        arguments.checkpoint,
        arguments.images,
        str(device),
        arguments.options,
        decoders=arguments.decoders,
        top=arguments.top,
        threads=arguments.threads,
    )
    if arguments.batch_size:
        captioner.predictor.chunk_size = arguments.batch_size
    began = time.perf_counter()
    with lines:
        count, bad = _describe(captioner, left(), lines, sum(map(len, left())))
    seconds = time.perf_counter() - began
    counts = distributed.gather_objects((count, bad))
    if distributed.is_main():
        lines.join(names())
        count, bad = (sum(values) for values in zip(*counts, strict=True))
        logger.info(
            "%d regions in %.0f s (%.1f a second), %d before; %d of the new ones could not be used",
            *(count, seconds, count / max(seconds, 1e-9), len(done), bad),
        )
        logger.info("lines of all regions: %s", arguments.out)
    distributed.barrier()


def _job(arguments: argparse.Namespace) -> dict[str, Any]:
    """What makes lines belong together."""
    named = ("checkpoint", "images", "regions")
    return {
        **{name: str(getattr(arguments, name).resolve()) for name in named},
        "regions file": size_of(arguments.regions),
        "decoders": sorted(arguments.decoders),
        "top": arguments.top,
        "options": arguments.options,
    }


def _describe(
    captioner: RegionCaptioner,
    groups: Iterable[list[WantedRegion]],
    lines: ResumableLines,
    total: int,
) -> tuple[int, int]:
    """Writes the lines of this process's regions; how many there were, and how many had errors."""
    count = bad = 0
    with Progress(desc="describe", unit="region", total=total) as bar:
        for part in captioner.describe(groups):
            lines.write(part)
            for line in part:
                if "error" in line:
                    bad += 1
                    logger.warning("region %s: %s", line["id"], line["error"])
            count += len(part)
            bar.update(len(part))
    return count, bad
