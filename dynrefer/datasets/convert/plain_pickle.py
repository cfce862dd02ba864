"""Pickles of plain data, read without running anything that they name."""

import pickle
from pathlib import Path
from typing import Any, NoReturn

# What broken bytes can raise in an unpickler, by the documentation of pickletools and by trial.
_BROKEN = (pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError)
_BROKEN += (ValueError, OverflowError, MemoryError)


class _ForeignName(Exception):
    """A pickle names a class or function."""


class _PlainUnpickler(pickle.Unpickler):
    """Admits lists, tuples, dicts, sets, texts, bytes, numbers, booleans and None."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise _ForeignName(f"{module}.{name}")


def read_plain_pickle(path: str | Path) -> Any:
    """The data of a pickle that holds only plain containers, texts and numbers.

    Texts of Python 2 are read as UTF-8; bytes that are not stay in them as lone surrogates.

    Raises FileNotFoundError, and ValueError naming the file for one that names any class or
    function (nothing is imported or called) and for one that is no whole pickle.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no file at {source}")
    with source.open("rb") as file:
        try:
            return _PlainUnpickler(file, encoding="utf-8", errors="surrogateescape").load()
        except _ForeignName as error:
            raise ValueError(
                f"{source}: names '{error}'; only a pickle of plain containers, texts and numbers "
                "is read, because others can run code"
            ) from None
        except _BROKEN as error:
            raise ValueError(
                f"{source}: is no whole pickle ({type(error).__name__}: {error})"
            ) from error
