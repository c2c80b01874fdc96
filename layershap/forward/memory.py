"""How much memory this process may use: the machine's, or what its control group allows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def host_memory() -> int:
    """Bytes: the machine's physical memory, or the least limit of the control groups that this process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *cgroup_limits(_OWN_CGROUPS, _CGROUPS)])


def cgroup_limits(own: Path, root: Path) -> Iterator[int]:
    """Memory limits of a process's control groups and of those above them, in both versions of Linux's interface.

    Parameters
    ----------
    own : Path
        The process's groups, as ``/proc/self/cgroup`` lists them.
    root : Path
        Where the groups' files are, ``/sys/fs/cgroup``.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            folder, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's, which isn't there: the root is then the container's own group.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            try:
                text = folder.joinpath(*parts[:depth], name).read_text().strip()
            except OSError:
                continue
            if text.isdecimal() and int(text) > 0:
                yield int(text)
