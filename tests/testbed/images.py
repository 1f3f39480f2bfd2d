"""Everything a node loads: the plugin's root filesystem, the ingress image, and images to run containers of."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.builder import Builder, archive, digest
from tests.testbed.shell import ROOT, cache, run, say, step

TEST = "stackpad/test:latest"
EXAMPLE = "stackpad/example-web:latest"
INGRESS = "stackpad/ingress:latest"
PLUGIN = "stackpad/plugin:latest"

PUBLIC = {"postgres:15": "postgres", "redis:7": "redis", "caddy:2": "caddy"}
"""What Compose files of the examples call by its public name, and its part of ``tests/images/public``."""

LIMIT = 250_000_000
"""Bytes the plugin's root filesystem may have."""

_SOURCES = [ROOT / "plugin", ROOT / "ingress", ROOT / "stackpad"]
# Not the README, though it is in a wheel's metadata: no image behaves otherwise for a word changed in it.
_PACKAGING = [ROOT / name for name in ("pyproject.toml", "requirements.lock")]
_PYTHON = "3.13"


@dataclass(frozen=True, slots=True)
class Images:
    """Files to load into a node's engine, and the directory ``docker plugin create`` takes."""

    plugin: Path
    archives: tuple[Path, ...]


def build(*, only_plugin: bool = False) -> Images:
    """Build what has changed since the last time; what has not costs nothing, not even an engine.

    One build at a time: whoever comes second finds it done.
    """
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(only_plugin=only_plugin)


def public() -> Path:
    """One file with the example's image and all of :data:`PUBLIC`, which share their layers."""
    context, example = ROOT / "tests" / "images" / "public", ROOT / "examples" / "guestbook"
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        key = digest([context, example])
        kept = _kept("stackpad/public:latest", key)
        if not kept.exists():
            with step("build images of public names"), Builder() as builder:
                builder.base("debian:bookworm-slim")
                builder.build(EXAMPLE, example / "Dockerfile", example)
                for tag, target in PUBLIC.items():
                    builder.build(tag, context / "Dockerfile", context, f"--target={target}")
                archive(builder, "stackpad/public:latest", key, EXAMPLE, *PUBLIC)
        return kept


def _build(*, only_plugin: bool) -> Images:
    key = digest([*_SOURCES, *_PACKAGING, ROOT / "Dockerfile", ROOT / "config.json"])
    plugin = ROOT / "build" / "plugin"
    contexts = {TEST: ROOT / "tests" / "images" / "test", EXAMPLE: ROOT / "examples" / "guestbook"}
    wanted = {} if only_plugin else {INGRESS: key, **{tag: digest([path]) for tag, path in contexts.items()}}
    kept = {tag: _kept(tag, digested) for tag, digested in wanted.items()}
    current = (plugin / ".key").exists() and (plugin / ".key").read_text() == key
    if not current or not all(path.exists() for path in kept.values()):
        with step("build images"), Builder() as builder:
            if not current:
                _wheels()
                builder.base("debian:trixie-slim")
                _plugin(builder, plugin, key)
            if INGRESS in kept and not kept[INGRESS].exists():
                _wheels()
                builder.base("debian:trixie-slim")
                builder.build(INGRESS, ROOT / "Dockerfile", ROOT, "--target=ingress")
                archive(builder, INGRESS, key)
            for tag, context in contexts.items():
                if tag in kept and not kept[tag].exists():
                    builder.base("debian:bookworm-slim")
                    builder.build(tag, context / "Dockerfile", context)
                    archive(builder, tag, wanted[tag])
    return Images(plugin, tuple(kept.values()))


def _kept(tag: str, key: str) -> Path:
    return cache() / "images" / f"{tag.replace('/', '_').replace(':', '_')}-{key}.tar"


def _wheels() -> None:
    """Fill ``build/wheels`` for the image's Python: ``own`` with ours, ``locked`` with what it depends on.

    Apart, so that a change of ours neither downloads the others nor installs them again in the image.
    """
    with _fresh("locked", digest(_PACKAGING)) as locked:
        if locked:
            platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "2014", "_2_17")]
            run(
                sys.executable, "-m", "pip", "download", "--quiet", "--dest", locked, "--only-binary=:all:",
                f"--python-version={_PYTHON}", "--implementation=cp", f"--abi=cp{_PYTHON.replace('.', '')}", *platforms,
                "--constraint", _constraints(), *_dependencies(),
            )  # fmt: skip
    with _fresh("own", digest([*_SOURCES, *_PACKAGING])) as own:
        if own:
            run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", own, ROOT)


@contextlib.contextmanager
def _fresh(part: str, key: str) -> Iterator[Path | None]:
    """An empty directory for one kind of wheels, to be filled; None where it is filled already."""
    wheels = ROOT / "build" / "wheels" / part
    mark = ROOT / "build" / f"wheels-{part}.key"
    if wheels.exists() and mark.exists() and mark.read_text() == key:
        yield None
        return
    with step(f"{part} wheels"):
        mark.unlink(missing_ok=True)
        shutil.rmtree(wheels, ignore_errors=True)
        wheels.mkdir(parents=True)
        yield wheels
        mark.write_text(key)


def _dependencies() -> list[str]:
    """What an image needs to run our code; neither the command line's packages nor the tools."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [str(word) for word in project["dependencies"]]


def _constraints() -> Path:
    """The lock file as constraints: hashes and extras do not go with those."""
    kept = ROOT / "build" / "constraints.txt"
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = (line.split(";")[0].split("\\")[0].strip() for line in lines if "==" in line and line[0] not in " #-")
    kept.write_text("".join(f"{pin}\n" for pin in pins))
    return kept


def _plugin(builder: Builder, plugin: Path, key: str) -> None:
    builder.build(PLUGIN, ROOT / "Dockerfile", ROOT, "--target=plugin")
    with step("plugin root filesystem"):
        shutil.rmtree(plugin, ignore_errors=True)
        (plugin / "rootfs").mkdir(parents=True)
        container = builder.docker("create", PLUGIN).strip()
        part = plugin / "rootfs.tar"
        builder.docker("export", "--output", part, container)
        builder.docker("rm", container)
        run("tar", "-C", plugin / "rootfs", "-xf", part)
        part.unlink()
        shutil.copy(ROOT / "config.json", plugin)
    size = sum(file.lstat().st_size for file in (plugin / "rootfs").rglob("*") if not file.is_symlink())
    say(f"plugin root filesystem: {size / 1e6:.0f} MB")
    if size > LIMIT:
        raise SystemExit(f"the plugin's root filesystem has {size / 1e6:.0f} MB, over the limit of {LIMIT / 1e6:.0f}")
    (plugin / ".key").write_text(key)
