"""Bytes from bytes: the changes that a fuzzer makes, from a seed, so that a failure is found again.

As AFL's: bits and bytes turned, pieces left out, doubled, moved or put in from another seed, and words of the trade.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

WORDS = (
    b"\0", b"\n", b"\r\n", b"\x1b[2J", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", "²".encode(), "ß.example".encode(),
    "\u202e".encode(), b'"', b"\\u0000", b"\\ud800", b"null", b"true", b"{}", b"[]", b"[[[[", b'{"a":', b"-1", b"0",
    b"1e308", b"1e999", b"4294967296", b"18446744073709551616", b"9" * 40, b"%", b"%eth0", b"::", b"0.0.0.0/0",
    b"fd00::/8", b"10.192.0.0/10", b"127.0.0.1", b"169.254.169.254", b"..", b"/", b"*.", b"{env.HOME}", b"xn--a",
    b"x" * 64, b"a." * 127, b"=" * 5, b"$2y$10$", b"\xc0\x0c", b"\x3f" + b"a" * 63, b"\0\0\x29", b"A" * 600,
)  # fmt: skip

LARGEST = 4096
"""Bytes of a mutated input."""


def mutations(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """``count`` inputs that follow from ``seeds``; the same for the same ``seed``."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    for _ in range(count):
        data = bytearray(chance.choice(seeds))
        for _ in range(1 << chance.randrange(4)):
            _change(data, seeds, chance)
        yield bytes(data[:LARGEST])


def _change(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    to = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 64)))
    match chance.randrange(8):
        case 0 if data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        case 1 if data:
            data[at % len(data)] = chance.randrange(256)
        case 2:
            del data[at:to]
        case 3:
            data[at:at] = data[at:to] * chance.choice((1, 2, 30))
        case 4:
            data[at:to] = chance.choice(WORDS)
        case 5:
            data[at:at] = chance.choice(WORDS)
        case 6:
            other = chance.choice(seeds)
            start = chance.randrange(len(other) + 1)
            data[at:to] = other[start : start + chance.choice((4, 16, 64, 256))]
        case _ if data:
            piece = bytes(data[at:to])
            del data[at:to]
            place = chance.randrange(len(data) + 1)
            data[place:place] = piece
