"""Reading guides: which commands are run, and what fits."""

from __future__ import annotations

import pytest

from tests.guide import Step, sections
from tests.testbed.shell import ROOT

TEXT = """# A guide

```console
$ one
```

## Second

```console
worker1# two --with words
printed …
$ three
```

```sh
not this
```
"""


def test_commands_in_their_sections() -> None:
    first, second = sections(TEXT)
    assert (first.heading, first.steps) == ("# A guide", [Step("", "one")])
    assert second.heading == "Second"
    assert second.steps == [Step("worker1", "two --with words", ("printed …",)), Step("", "three")]


def test_output_before_any_command_is_a_slip() -> None:
    with pytest.raises(ValueError, match="printed by no command"):
        list(sections("```console\nsomething\n$ command\n```\n"))


@pytest.mark.parametrize(
    ("printed", "output", "fits"),
    [
        (("hello",), "well hello\n", True),
        (("hello",), "hallo\n", False),
        (("a…b",), "a, later\nb", True),
        (("…503…", "…after: 1…"), "HTTP 503\nx: y\nRetry-after: 120\n", True),
        (("a", "b"), "a\r\nb\r\n", True),
        (("a", "b"), "a\nc\nb\n", False),
        (("a.c",), "abc", False),
        (("…",), "", True),
    ],
)
def test_what_fits(printed: tuple[str, ...], output: str, *, fits: bool) -> None:
    assert Step("", "curl", printed).fits(output) is fits


def test_only_what_reads_is_asked_again() -> None:
    assert Step("", "curl https://x/", ("…",)).only_reads
    assert not Step("", "curl https://x/").only_reads
    assert not Step("", "docker-compose up", ("…",)).only_reads


def test_every_example_is_listed_and_has_commands() -> None:
    there = {path.parent.name for path in (ROOT / "examples").glob("*/README.md")}
    listed = (ROOT / "examples" / "README.md").read_text()
    assert there
    for name in there:
        assert f"({name}/README.md)" in listed
        assert list(sections((ROOT / "examples" / name / "README.md").read_text()))
