"""Which bytes count as the answer to a question."""

from __future__ import annotations

import dns.message
import dns.name
from hypothesis import given
from hypothesis import strategies as st

from plugin.resolver import forwarder

QUERY = dns.message.make_query("www.Example.org", "A", id=7).to_wire()
ANSWER = dns.message.make_response(dns.message.from_wire(QUERY)).to_wire()


class Watched(bytes):
    """Bytes that remember how far into them somebody looked."""

    furthest = 0

    def __getitem__(self, where):  # type: ignore[no-untyped-def]
        self.furthest = max(self.furthest, where.stop or len(self) if isinstance(where, slice) else where)
        return super().__getitem__(where)


@given(st.binary(max_size=300))
def test_an_answer_is_looked_at_no_further_than_its_question(rest: bytes) -> None:
    for answer, fits in ((ANSWER + rest, True), (ANSWER[:12] + rest, rest.lower().startswith(QUERY[12:].lower()))):
        watched = Watched(answer)
        assert forwarder._fits(watched, b"\0\7", QUERY) == fits
        assert watched.furthest <= len(QUERY)


def test_letters_count_the_same_and_numbers_do_not() -> None:
    assert forwarder._fits(ANSWER.replace(b"Example", b"eXAMPLE"), b"\0\7", QUERY)
    assert not forwarder._fits(ANSWER[:-4] + b"\0\x1c\0\1", b"\0\7", QUERY)
    assert not forwarder._fits(ANSWER, b"\0\x08", QUERY)
    assert not forwarder._fits(ANSWER[:-1], b"\0\7", QUERY)
    assert not forwarder._fits(QUERY, b"\0\7", QUERY)
