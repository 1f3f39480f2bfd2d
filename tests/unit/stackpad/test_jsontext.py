"""Whatever is wrong with JSON of others, it is told in one way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stackpad import jsontext


class Known(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"{", Any, "truncated"),
        (b'"\xff"', Any, "not UTF-8: invalid start byte at byte 1"),
        (b'{"other":"\xff"}', dict[str, Any], "not UTF-8"),
        (b"[" * 100_000, Any, "nested too deeply"),
        (b'{"a":' * 100_000, dict[str, msgspec.Raw], "nested too deeply"),
        (b'{"name":5}', Known, "Expected `str`"),
        (b'{"a\\u001b[2Jb":5}', Known, r"unknown field `a\\x1b\[2Jb`"),
        (b"1e999", Any, "out of range"),
    ],
)
def test_a_mistake_is_one_kind_of_error(data: bytes, kind: Any, words: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=words) as caught:
        jsontext.decode(data, type=kind)
    assert str(caught.value).isprintable()


def test_what_is_not_asked_for_is_text_all_the_same() -> None:
    """It may be passed on as it is: to the ingress, which reads it again."""
    with pytest.raises(msgspec.DecodeError, match="not UTF-8"):
        jsontext.decode(b'{"name":"a","more":"\xff"}', type=dict[str, msgspec.Raw])


def test_a_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        jsontext.decode(b'{"%s":1}' % (b"x" * 100_000), type=Known)
    assert len(str(caught.value)) <= jsontext.LONGEST


def test_values_and_text() -> None:
    assert jsontext.decode(b'{"name":"\xc3\xa4"}', type=Known) == Known("ä")
    assert jsontext.decode("[1, 2]") == [1, 2]
    assert jsontext.decode(b'"5"', type=int, strict=False) == 5
