"""Arguments of commands."""

import pytest

from dynrefer.command_line import at_least, plain_parser


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "x", "1e400"])
def test_numbers_that_arguments_do_not_take(text, capsys):
    parser = plain_parser("usage")
    parser.add_argument("--count", type=at_least(1))
    parser.add_argument("--rate", type=at_least(0, float))
    assert vars(parser.parse_args(["--count", "1", "--rate", "0"])) == {"count": 1, "rate": 0.0}
    with pytest.raises(SystemExit):
        parser.parse_args(["--count", text])
    assert "argument --count: " in capsys.readouterr().err
    if text in ("nan", "-1", "1e400"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--rate", text])
        assert f"{text}; valid is a number from 0 on" in capsys.readouterr().err
