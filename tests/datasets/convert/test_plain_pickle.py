"""Pickles: plain data comes out, everything that names code is refused before anything runs."""

import collections
import pathlib
import pickle
import pickletools

import numpy as np
import pytest

from dynrefer.datasets.convert.plain_pickle import read_plain_pickle

PLAIN = [{"a": (1, -2.5, 10**30), "b": {"é", "x"}, "c": [None, True, b"\xff"]}, frozenset({1})]
# Python 2 wrote texts as bytes.
PYTHON_2 = b"(lp0\n(dp1\nS'sent'\np2\nS'a dog'\np3\nsVraw\np4\nVcaf\\u00e9\np5\nsS'n'\nL7L\nsa."


class Touch:
    """Writes a file when it is unpickled the usual way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.fixture
def write(tmp_path):
    def write_content(content):
        path = tmp_path / "refs.p"
        path.write_bytes(content)
        return path

    return write_content


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_out_as_it_went_in(write, protocol):
    plain = PLAIN if protocol >= 4 else [{"a": (1, -2.5, 10**30), "c": [None, True, "é"]}]
    assert read_plain_pickle(write(pickle.dumps(plain, protocol))) == plain


def test_python_2_pickles(write):
    assert read_plain_pickle(write(PYTHON_2)) == [{"sent": "a dog", "raw": "café", "n": 7}]
    assert read_plain_pickle(write(b"S'caf\\xe9'\n.")) == "caf\udce9"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_not_run(write, tmp_path, protocol):
    target = tmp_path / "touched"
    content = pickle.dumps([Touch(target)], protocol)
    pickle.loads(content)
    assert target.exists()  # it would have run
    target.unlink()
    with pytest.raises(ValueError, match=r"refs.p: names '.*'; only a pickle of plain"):
        read_plain_pickle(write(content))
    assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"cbuiltins\neval\n.",
    ],
    ids=["GLOBAL", "INST", "OBJ", "STACK_GLOBAL", "no call"],
)
def test_every_way_to_name_code_is_refused(write, content):
    assert list(pickletools.genops(content))[-1][0].name == "STOP"  # a well-formed pickle
    with pytest.raises(ValueError, match="names '(os.system|builtins.eval)'"):
        read_plain_pickle(write(content))


@pytest.mark.parametrize(
    "value", [np.ones(2), collections.OrderedDict(a=1), pathlib.Path("x"), range(3), 1j]
)
def test_other_than_plain_data_is_refused(write, value):
    with pytest.raises(ValueError, match="only a pickle of plain containers"):
        read_plain_pickle(write(pickle.dumps([value])))


@pytest.mark.parametrize("content", [b"", b"{}", b"\x89PNG\r\n", b"P1\n.", b"(lp0\n", b"\x82\x01."])
def test_broken_pickles_name_the_file(write, content):
    with pytest.raises(ValueError, match="refs.p: is no whole pickle"):
        read_plain_pickle(write(content))


def test_every_truncation_is_an_error(write):
    content = pickle.dumps(PLAIN)
    for length in range(len(content)):
        with pytest.raises(ValueError, match="refs.p: is no whole pickle"):
            read_plain_pickle(write(content[:length]))


def test_flipped_bytes_never_run_anything_and_never_leave_another_error(write):
    content = bytearray(pickle.dumps(PLAIN))
    for position in range(len(content)):
        for flip in (1, 64, 255):
            changed = bytes(byte ^ (flip if n == position else 0) for n, byte in enumerate(content))
            try:
                read_plain_pickle(write(changed))
            except ValueError as error:
                assert "refs.p" in str(error)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.p"):
        read_plain_pickle(tmp_path / "none.p")
