"""A virtual machine with Debian's own kernel, for what the machine's kernel lacks: WireGuard.

Emulated in software, since nothing else can be relied on; it boots in about ten seconds. Its root file system is the
machine's, read-only over 9p with a layer of memory above, so that the checkout and its Python are there as they are. The
kernel's package is downloaded and unpacked into the cache, never installed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.testbed.shell import Failed, cache, run

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "modprobe": "kmod",
    "apt-get": "apt",
}
"""What it takes, by the package that has it."""

MODULES = (
    "wireguard", "veth", "bridge", "9p", "9pnet_virtio", "virtio_pci", "overlay", "nf_tables", "nft_ct",
    "nft_chain_nat", "nft_nat", "nft_meta_bridge", "nft_fib_inet", "nft_reject_inet", "nft_masq", "nft_redir",
    "nf_conntrack_netlink",
)  # fmt: skip

_WITHOUT = "cryptomgr.notests"
"""The kernel's tests of its own cryptography, which take minutes here, and on a loaded machine do not end."""

_INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /modules/*; do insmod $module; done
mkdir -p /host /memory /new
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /host
mount -t tmpfs memory /memory
mkdir -p /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /new
mount -t proc proc /new/proc
mount -t sysfs sys /new/sys
mount -t devtmpfs dev /new/dev
ln -sfn /proc/self/fd /new/dev/fd
ln -sf /proc/self/fd/0 /new/dev/stdin
ln -sf /proc/self/fd/1 /new/dev/stdout
ln -sf /proc/self/fd/2 /new/dev/stderr
mount -t tmpfs run /new/run
chroot /new /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /bin/sh -c "$(cat /command)"
echo "the command ended with $?"
poweroff -f
"""


def missing() -> list[str]:
    """The packages that are missing on this machine."""
    return sorted(package for program, package in PROGRAMS.items() if shutil.which(program) is None)


def execute(command: list[str], work: Path, timeout: float = 1500) -> tuple[int, str]:
    """Run ``command`` as root in a machine of its own; returns its exit status and all it printed.

    Raises :class:`Failed` if the machine ends without saying how the command did.
    """
    kernel, modules = _kernel()
    root = work / "root"
    for part in ("bin", "dev", "proc", "sys", "modules"):
        (root / part).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    for applet in ("sh", "mount", "insmod", "mkdir", "chroot", "poweroff", "echo", "cat", "ln"):
        (root / "bin" / applet).symlink_to("busybox")
    for number, module in enumerate(modules):
        shutil.copy(module, root / "modules" / f"{number:03}-{module.name}")
    (root / "command").write_text(shlex.join(command))
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    image = work / "initrd"
    with image.open("wb") as file:
        listing = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
        words = ["cpio", "--create", "--format=newc", "--quiet"]
        subprocess.run(words, cwd=root, input=listing.encode(), stdout=file, check=True)
    share = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
    done = run(
        "timeout", "--kill-after=5", str(timeout), "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1536",
        "-smp", "2", "-nographic", "-no-reboot", "-nic", "none", "-kernel", kernel, "-initrd", image,
        "-append", f"console=ttyS0 quiet panic=-1 {_WITHOUT}", "-virtfs", share,
        check=False, timeout=timeout + 30,
    )  # fmt: skip
    ended = re.search(r"the command ended with (\d+)", done.stdout)
    if ended is None:
        raise Failed(f"the machine ended without a word of the command:\n{done.stdout[-2000:]}{done.stderr[-500:]}")
    return int(ended[1]), done.stdout[: ended.start()]


def _kernel() -> tuple[Path, list[Path]]:
    """The kernel, and the modules it needs in the order they are loaded; fetched at the first use."""
    kept = cache() / "kernel"
    depends = run("apt-cache", "depends", "linux-image-amd64").stdout
    named = re.search(r"Depends: (linux-image-\S+)", depends)
    if named is None:
        raise Failed("the package lists name no kernel; run apt-get update")
    version = named[1].removeprefix("linux-image-")
    tree = kept / version
    if not (tree / "complete").exists():
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        run("sh", "-c", f"cd {shlex.quote(str(kept))} && apt-get download -qq -o APT::Sandbox::User=root {named[1]}")
        (archive,) = kept.glob("*.deb")
        run("dpkg-deb", "--extract", archive, tree)
        archive.unlink()
        run("depmod", "-b", tree, version)
        (tree / "complete").touch()
    modules: dict[str, Path] = {}
    for module in MODULES:
        shown = run("modprobe", "-d", tree, "-S", version, "--show-depends", module, check=False).stdout
        for line in shown.splitlines():
            if line.startswith("insmod "):
                path = Path(line.split()[1])
                modules.setdefault(path.name, path)
    return tree / "boot" / f"vmlinuz-{version}", list(modules.values())
