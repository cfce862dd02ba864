"""Annotation files written record by record, and the report of what went in and what did not."""

import filecmp
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from dynrefer.datasets.annotations.fields import BadRecord, Cases, Identity, printable
from dynrefer.datasets.annotations.records import lies_under, region_row
from dynrefer.files import put_in_place, write_text, writing

Image = dict[str, Any]  # id, file_name, width, height, as annotation files have them
_IMAGE_KEYS = ("id", "file_name", "width", "height")
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class ImageFolder:
    """Where the images of a dataset lie.

    With ``check`` an image that is not there is left out. Raises FileNotFoundError for a missing
    folder.
    """

    def __init__(self, root: str | Path, check: bool = True) -> None:
        self.root, self.check = Path(root), check
        if check and not self.root.is_dir():
            advice = "set --images, or convert without looking for images by --no-image-check"
            raise FileNotFoundError(f"no folder of images at {self.root}; {advice}")

    def find(self, *names: str) -> str:
        """The first of an image's possible names under the root that is there.

        Without ``check`` the first of all. Raises BadRecord where none is there, or one leads out
        of the root.
        """
        for name in names:
            if not lies_under(self.root, name):
                raise BadRecord("file outside the image root", f"{name!r} in {self.root}")
        if not self.check:
            return names[0]
        for name in names:
            try:
                if (self.root / name).is_file():
                    return name
            except (OSError, ValueError) as error:  # a name too long, or with a zero byte
                raise BadRecord("image cannot be read", f"{name!r}: {error}") from error
        raise BadRecord("image absent from disk", f"{' or '.join(names)} under {self.root}")

    def recorded_for(self, out: Path) -> str:
        """The root as an annotation file records it: relative to the file where they lie near."""
        root, folder = self.root.resolve(), out.resolve().parent
        near = os.path.commonpath([root, folder]) != os.sep
        return Path(os.path.relpath(root, folder)).as_posix() if near else str(root)


class AnnotationWriter:
    """One annotation file: images as they are first used, then their regions in the order added.

    A context manager: on leaving it without an error the file is put in place, with
    ``<out>.report.json`` and, where records were dropped, ``<out>.dropped.jsonl``, which names
    every one. A file that would come out the same is not touched, so that its index stays good.
    After an error nothing has changed.

    ``sources`` are the files that are read. ``expected`` are published counts ("images", "regions",
    ...) to be shown beside the converted ones; ``sections`` are further top-level members.

    Raises ValueError where ``out`` is a source, and on leaving where not a single region was added.
    """

    def __init__(
        self,
        out: str | Path,
        images: ImageFolder,
        sources: Iterable[Path] = (),
        expected: Mapping[str, int] | None = None,
        sections: Mapping[str, Any] | None = None,
    ) -> None:
        self.out, self.images, self.expected = Path(out), images, dict(expected or {})
        for source in sources:
            if source.exists() and self.out.exists() and source.samefile(self.out):
                raise ValueError(f"{self.out} is read and would be written; choose another --out")
        self.counts: Counter[str] = Counter(images=0, regions=0)
        self._head = {"dataset": {"image_root": images.recorded_for(self.out)}, **(sections or {})}
        self._images: dict[Identity, list] = {}
        self._ids: set[Identity] = set()
        self._dropped, self._changed = Cases(), Cases()
        self._regions_file: TextIO
        self._drops_file: TextIO

    def __enter__(self) -> "AnnotationWriter":
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._regions_file = self._part("regions").open("w", encoding="utf-8")
        self._drops_file = self._part("dropped").open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        try:
            with writing(self.out):
                self._regions_file.close()
                self._drops_file.close()
                if error is None:
                    self._finish()
        finally:
            for name in ("regions", "dropped", "whole"):
                self._part(name).unlink(missing_ok=True)

    def add(self, image: Image, annotation: Mapping[str, Any]) -> None:
        """Adds a region, unless an earlier one has its id or no reader could use it.

        ``image`` has id, file_name, width and height; further keys are kept.
        """
        row = self._images.get(image["id"]) or [image[key] for key in _IMAGE_KEYS]
        with self.dropping(f"region {annotation['id']!r}"):
            if annotation["id"] in self._ids:
                raise BadRecord("duplicate id", "an earlier region has it")
            region_row(annotation, row[:4], require_caption=False)
            line = _encode(annotation)
            if not line.isascii() and printable(line) != line:
                raise BadRecord("text is not UTF-8", printable(line))
            if image["id"] not in self._images:
                self._images[image["id"]] = [*row, _encode(dict(image))]
                self.counts["images"] += 1
            self._ids.add(annotation["id"])
            self._regions_file.write(_separator(self.counts["regions"]) + line)
            self.counts["regions"] += 1

    @contextmanager
    def dropping(self, record: str) -> Iterator[None]:
        """Drops a record of the source where what is done with it raises BadRecord."""
        try:
            yield
        except BadRecord as error:
            self.drop(record, error)

    def drop(self, record: str, error: BadRecord) -> None:
        """Notes that a record of the source was left out, and why."""
        self._dropped.add_bad(record, error)
        line = {"record": record, "reason": error.reason, "detail": str(error)}
        self._drops_file.write(printable(_encode(line)) + "\n")

    def change(self, record: str, what: str | None) -> None:
        """Notes that a record went in, but not as it was; None for no change."""
        if what:
            self._changed.add(what, record)

    def table(self) -> str:
        """Counts beside the expected ones, then drops and changes by reason with first cases."""
        lines = [str(self.out), f"  {'':24}{'converted':>12}{'expected':>12}"]
        for name in dict.fromkeys([*self.counts, *self.expected]):
            expected = self.expected.get(name)
            shown = "-" if expected is None else f"{expected:,}"
            note = "  differs" if expected not in (None, self.counts[name]) else ""
            lines.append(f"  {name:24}{self.counts[name]:>12,}{shown:>12}{note}")
        for title, cases in (("dropped", self._dropped), ("changed", self._changed)):
            for reason, count in cases.counts.most_common():
                lines.append(f"  {title}: {count:,} x {reason}, e.g. {cases.named[reason][0]}")
        return "\n".join(lines)

    def check(self) -> None:
        """Raises ValueError with the reasons where not a single region was added."""
        if not self.counts["regions"]:
            raise ValueError(f"no usable region for\n{self.table()}")

    def _finish(self) -> None:
        self.check()
        whole = self._part("whole")
        with whole.open("w", encoding="utf-8") as file:
            file.write("{" + _encode(self._head)[1:-1] + ',"images":[')
            for number, image in enumerate(self._images.values()):
                file.write(_separator(number) + image[-1])
            file.write('\n],"annotations":[')
            with self._part("regions").open(encoding="utf-8") as regions:
                shutil.copyfileobj(regions, file, 1 << 20)
            file.write("\n]}\n")
        if not (self.out.is_file() and filecmp.cmp(whole, self.out, shallow=False)):
            put_in_place(whole, self.out)
        dropped = self.out.with_name(f"{self.out.name}.dropped.jsonl")
        if self._dropped.counts:
            put_in_place(self._part("dropped"), dropped)
        else:
            dropped.unlink(missing_ok=True)
        report = {"converted": self.counts, "expected": self.expected}
        for title, cases in (("dropped", self._dropped), ("changed", self._changed)):
            report[title] = {
                reason: {"count": count, "first": cases.named[reason]}
                for reason, count in cases.counts.most_common()
            }
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        write_text(self.out.with_name(f"{self.out.name}.report.json"), text)

    def _part(self, name: str) -> Path:
        return self.out.with_name(f".{self.out.name}.{name}.part")


@contextmanager
def split_writers(
    outs: Mapping[str, Path],
    images: ImageFolder,
    sources: Iterable[Path],
    expected: Mapping[str, Mapping[str, int]],
) -> Iterator[dict[str, AnnotationWriter]]:
    """Writers by split, which put their files in place together, after each has a region."""
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(AnnotationWriter(out, images, sources, expected[split]))
            for split, out in outs.items()
        }
        yield writers
        for writer in writers.values():
            writer.check()


def _separator(number: int) -> str:
    return ",\n" if number else "\n"
