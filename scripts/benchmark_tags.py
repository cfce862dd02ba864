"""Measures tag parsers: precision and recall on hand-made phrases, and phrases a second.

    python scripts/benchmark_tags.py --tags data/ram_tag_list.txt --processes 1 2

Without ``--tags`` the vocabulary is made of the tags of the hand-made phrases. Speed is that of
``tag_annotations``, workers' start included, over these phrases again and again; nothing is kept
from one to the next.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dynrefer.command_line import at_least, plain_parser
from dynrefer.datasets.annotations.tagging import Annotation, tag_annotations
from dynrefer.tags.parser import ParsedTags, build_tag_parser
from dynrefer.vocabulary import TagVocabulary, load_tags

PHRASES = Path(__file__).resolve().parents[1] / "tests/data/tag_phrases.json"
HALVES = ("development", "held_out")
SIDES = ("subject", "others")
Row = dict[str, Any]  # phrase, and the names of its subject's and its other tags


def load_phrases() -> dict[str, Any]:
    """The hand-made phrases: rows of both halves, and tags that none of them names."""
    return json.loads(PHRASES.read_text(encoding="utf-8"))


def vocabulary_of(phrases: dict[str, Any]) -> TagVocabulary:
    """Every tag of the phrases, and the distractors."""
    rows = [row for half in HALVES for row in phrases[half]]
    names = (name for row in rows for side in SIDES for name in row[side])
    return TagVocabulary(tuple(dict.fromkeys([*phrases["distractors"], *names])))


def precision_and_recall(
    parser: Callable[[str], ParsedTags], vocabulary: TagVocabulary, rows: Sequence[Row]
) -> dict[str, tuple[float, float]]:
    """Of each side: right tags by all found, and by all there are, summed over the phrases."""
    results = {}
    for side in SIDES:
        right = found = wanted = 0
        for row in rows:
            tags = {vocabulary.names[tag] for tag in getattr(parser(row["phrase"]), side)}
            right += len(tags & set(row[side]))
            found += len(tags)
            wanted += len(row[side])
        results[side] = right / max(found, 1), right / max(wanted, 1)
    return results


def annotations(rows: Sequence[Row], count: int) -> Iterator[Annotation]:
    """As many annotations as wanted."""
    for number in range(count):
        yield {"id": number, "caption": rows[number % len(rows)]["phrase"]}


def phrases_a_second(
    parser: str, vocabulary: TagVocabulary, rows: Sequence[Row], count: int, processes: int
) -> float:
    """Speed of parsing ``count`` phrases."""
    start = time.perf_counter()
    done = sum(1 for _ in tag_annotations(annotations(rows, count), vocabulary, parser, processes))
    return done / (time.perf_counter() - start)


def main(arguments: argparse.Namespace) -> None:
    """Prints both tables."""
    phrases = load_phrases()
    vocabulary = load_tags(arguments.tags) if arguments.tags else vocabulary_of(phrases)
    parser = build_tag_parser(arguments.parser, vocabulary)
    print(f"parser {arguments.parser}, {len(vocabulary):,} tags\n")
    print(f"{'half':14}{'phrases':>8}{'tags of':>10}{'precision':>11}{'recall':>9}")
    for half in HALVES:
        scores = precision_and_recall(parser, vocabulary, phrases[half])
        for side, (precision, recall) in scores.items():
            count = len(phrases[half])
            print(f"{half:14}{count:8}{side:>10}{100 * precision:10.1f}%{100 * recall:8.1f}%")
    print(f"\n{'processes':14}{'phrases/s':>12}{'3.8 M phrases':>16}")
    rows = [row for half in HALVES for row in phrases[half]]
    for processes in arguments.processes:
        speed = phrases_a_second(arguments.parser, vocabulary, rows, arguments.count, processes)
        print(f"{processes:<14}{speed:12,.0f}{3.8e6 / speed / 60:12.1f} min")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = plain_parser(__doc__)
    parser.add_argument("--tags", type=Path, help="tag list, one a line")
    parser.add_argument("--parser", default="rules", help="rules (default), or spacy")
    parser.add_argument("--count", type=at_least(1), default=200_000, help="phrases to time")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(parse())
