"""Tags for training, parsed from the captions of an annotation file."""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any

from dynrefer.datasets.annotations.fields import BadRecord, captions_of, members_of
from dynrefer.datasets.annotations.json_stream import iterate_items, read_members
from dynrefer.files import whole_file
from dynrefer.tags.parser import ParsedTags, TagParser, build_tag_parser
from dynrefer.vocabulary import TagVocabulary
from dynrefer.workers import worker_pool

Annotation = dict[str, Any]

CHUNK_REGIONS = 2_000  # what a worker parses at a time; some tens of milliseconds
CHUNKS_AHEAD = 3  # for each worker, so that none waits and memory stays small
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def tag_annotations(
    annotations: Iterable[Annotation],
    vocabulary: TagVocabulary,
    parser: str | TagParser = "rules",
    processes: int = 1,
    synonyms: str | Path | None = None,
) -> Iterator[Annotation]:
    """Copies of annotations, in their order, with ``extra_info.parser_result`` filled in.

    A region with several captions gets the tags of all of them; one without a caption (none, null
    or blank) comes out as it went in. ``parser`` is the name of a registered one, which may have a
    table of the user's own ``synonyms``, or one of the vocabulary, which tag_set1 (of the subject)
    and tag_set2 (of others) index. With one of ``processes`` this one parses.

    Raises ValueError naming the id for a caption or an extra_info of the wrong type, for
    ``processes`` below 1 and for an empty vocabulary, ChildProcessError where a worker dies, and
    what ``build_tag_parser`` raises.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes}; valid is 1 or more")
    # Built here even for workers, so that an unknown name is not their traceback.
    built = build_tag_parser(parser, vocabulary, synonyms) if isinstance(parser, str) else parser
    if processes > 1:
        return _tag_in_workers(annotations, built, processes)
    texts = ((annotation, captions_to_tag(annotation)) for annotation in annotations)
    return (_with_tags(annotation, _parse_all(built, captions)) for annotation, captions in texts)


def captions_to_tag(annotation: Annotation) -> list[str]:
    """References of a region, as the index reads them; ValueError names one that it would refuse.

    ``extra_info``, where the tags go, is checked too.
    """
    try:
        members_of(annotation.get("extra_info"), "extra_info")
        return captions_of(annotation)
    except BadRecord as error:
        raise ValueError(f"annotation {annotation.get('id')!r}: {error}") from error


def _tag_in_workers(
    annotations: Iterable[Annotation], parser: TagParser, processes: int
) -> Iterator[Annotation]:
    pool = worker_pool(processes, _start_worker, (parser,))
    running: deque[tuple[list[Annotation], Future]] = deque()
    source = iter(annotations)
    try:
        while True:
            chunk = list(islice(source, CHUNK_REGIONS))
            if chunk:
                texts = [captions_to_tag(annotation) for annotation in chunk]
                running.append((chunk, pool.submit(_parse_chunk, texts)))
            if not running:
                return
            if not chunk or len(running) >= CHUNKS_AHEAD * processes:
                done, future = running.popleft()
                yield from map(_with_tags, done, future.result())
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process that parses captions died (killed for memory?); try fewer --processes"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker_parser: TagParser | None = None


def _start_worker(parser: TagParser) -> None:
    global _worker_parser
    _worker_parser = parser


def _parse_chunk(texts: list[list[str]]) -> list[ParsedTags | None]:
    return [_parse_all(_worker_parser, captions) for captions in texts]


def _parse_all(parser: TagParser, captions: list[str]) -> ParsedTags | None:
    if not captions:
        return None
    results = [parser(caption) for caption in captions]
    subject = dict.fromkeys(tag for result in results for tag in result.subject)
    others = dict.fromkeys(tag for result in results for tag in result.others)
    return ParsedTags(list(subject), list(others))


def _with_tags(annotation: Annotation, tags: ParsedTags | None) -> Annotation:
    if tags is None:
        return annotation
    result = {"tag_set1": tags.subject, "tag_set2": tags.others}
    extra_info = annotation.get("extra_info") or {}
    return {**annotation, "extra_info": {**extra_info, "parser_result": result}}


def read_annotations(path: str | Path) -> tuple[dict[str, Any], Iterator[Annotation]]:
    """The other members of an annotation file, and its annotations one by one.

    Raises FileNotFoundError, and ValueError naming the file for one that is no annotation file;
    a record that is no object on reaching it.
    """

    def objects() -> Iterator[Annotation]:
        for number, record in enumerate(iterate_items(path, "annotations")):
            if not isinstance(record, dict):
                raise ValueError(f"{path}: annotations[{number}] is {record!r}; valid is an object")
            yield record

    return read_members(path, without=("annotations",)), objects()


def write_annotations(
    out: str | Path, members: dict[str, Any], annotations: Iterable[Annotation]
) -> None:
    """Writes an annotation file as annotations come, and puts it in place when whole.

    ``members`` are written first. Where they end in an error, what was at
    ``out`` stays as it was.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Half a surrogate pair, which UTF-8 cannot hold, becomes the escape that JSON has for it.
    with (
        whole_file(out) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write("{" + "".join(f"{_encode(k)}:{_encode(v)},\n" for k, v in members.items()))
        file.write('"annotations":[')
        for number, annotation in enumerate(annotations):
            file.write((",\n" if number else "\n") + _encode(annotation))
        file.write("\n]}\n")
