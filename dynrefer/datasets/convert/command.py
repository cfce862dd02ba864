"""What the scripts of ``scripts/convert/`` share: arguments, reports, errors as one line."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from dynrefer.command_line import USER_ERRORS, at_least, plain_parser
from dynrefer.datasets.annotations.tagging import tag_annotations
from dynrefer.datasets.convert.visual_genome import AnnotationStep
from dynrefer.datasets.convert.writing import AnnotationWriter, ImageFolder
from dynrefer.vocabulary import load_tags


def converter_parser(usage: str | None, images: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that converters share; ``images`` is the folder by default.

    None stands for the folder that another file records.
    """
    parser = plain_parser(usage)
    parser.add_argument(
        "--images", type=Path, default=images and Path(images), help=f"folder ({images})"
    )
    parser.add_argument(
        "--no-image-check", action="store_true", help="do not look whether the images are there"
    )
    return parser


def add_tag_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of converters of captions: tags for training, read off the captions."""
    parser.add_argument("--tags", type=Path, help="tag list; fills in parser_result")
    add_parser_arguments(parser)


def add_parser_arguments(parser: argparse.ArgumentParser) -> None:
    """How captions are parsed into tags."""
    parser.add_argument("--parser", default="rules", help="rules (default), or spacy")
    parser.add_argument("--processes", type=at_least(1), default=1, help="that parse (1)")


def tag_step(arguments: argparse.Namespace) -> AnnotationStep:
    """What fills in the tags that ``--tags`` asks for; nothing without it."""
    if arguments.tags is None:
        return iter
    vocabulary = load_tags(arguments.tags)
    return lambda annotations: tag_annotations(
        annotations, vocabulary, parser=arguments.parser, processes=arguments.processes
    )


def image_folder(arguments: argparse.Namespace) -> ImageFolder:
    """The folder that ``--images`` and ``--no-image-check`` describe."""
    return ImageFolder(arguments.images, check=not arguments.no_image_check)


def run_converter(
    convert: Callable[[argparse.Namespace], Iterable[AnnotationWriter]],
    arguments: argparse.Namespace,
) -> None:
    """Converts and prints the reports; an error that the user can mend ends it with exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    def print_tables() -> None:
        for writer in convert(arguments):
            print(writer.table())

    if code := exit_code(print_tables):
        sys.exit(code)


def exit_code(action: Callable[[], None]) -> int:
    """0 once the action is done; 1 after an error that the user can mend, printed as one line."""
    try:
        action()
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
