"""Fills in the tags of an annotation file's captions, for training.

python scripts/convert/add_tags.py --annotations data/vg/vg1.2_train.json \\
    --tags data/ram_tag_list.txt --out data/vg/vg1.2_train.json --processes 2

``--out`` may be the same file: it is put in place when it is whole.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynrefer.command_line import plain_parser
from dynrefer.datasets.annotations.tagging import (
    Annotation,
    captions_to_tag,
    read_annotations,
    tag_annotations,
    write_annotations,
)
from dynrefer.datasets.convert.command import add_parser_arguments, exit_code
from dynrefer.progress import Progress
from dynrefer.vocabulary import load_tags

_CHUNK_BYTES = 1 << 24
_MARK = b'"image_id"'


@dataclass
class Counts:
    """What came out."""

    tagged: int = 0
    without_caption: int = 0
    subject_tags: int = 0
    other_tags: int = 0
    without_tags: int = 0

    def count(self, annotations: Iterable[Annotation]) -> Iterator[Annotation]:
        """The annotations, counted."""
        for annotation in annotations:
            if captions_to_tag(annotation):
                subject, others = annotation["extra_info"]["parser_result"].values()
                self.tagged += 1
                self.subject_tags += len(subject)
                self.other_tags += len(others)
                self.without_tags += not (subject or others)
            else:
                self.without_caption += 1
            yield annotation

    def table(self, out: Path) -> str:
        """Counts as text."""
        each = max(self.tagged, 1)
        return (
            f"{out}\n  regions with tags parsed  {self.tagged:>12,}\n"
            f"  whose captions name none  {self.without_tags:>12,}\n"
            f"  regions without a caption {self.without_caption:>12,}\n"
            f"  subject tags a region     {self.subject_tags / each:>12.2f}\n"
            f"  other tags a region       {self.other_tags / each:>12.2f}"
        )


def about_how_many(path: Path) -> int:
    """Regions of a file, for the time left: how often "image_id" stands in it, as each has one."""
    count, rest = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            text = rest + chunk
            count += text.count(_MARK)
            rest = text[-(len(_MARK) - 1) :]
    return count


def add_tags(arguments: argparse.Namespace) -> Counts:
    """Tags the file; raises what ``tag_annotations`` and ``read_annotations`` raise."""
    vocabulary = load_tags(arguments.tags)
    members, annotations = read_annotations(arguments.annotations)
    counts = Counts()
    total = about_how_many(arguments.annotations)
    tagged = tag_annotations(
        annotations, vocabulary, arguments.parser, arguments.processes, arguments.synonyms
    )
    with Progress(counts.count(tagged), total=total, unit=" regions", unit_scale=True) as progress:
        write_annotations(arguments.out, members, progress)
    return counts


def main(arguments: argparse.Namespace) -> int:
    """Tags and prints the counts; an error that the user can mend is one line and exit code 1."""
    return exit_code(lambda: print(add_tags(arguments).table(arguments.out)))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    parser.add_argument("--annotations", type=Path, required=True, help="file with captions")
    parser.add_argument("--tags", type=Path, required=True, help="tag list, one a line")
    parser.add_argument("--out", type=Path, required=True, help="may be the same file")
    add_parser_arguments(parser)
    parser.add_argument("--synonyms", type=Path, help="table of your own, before the built-in one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(parse()))
