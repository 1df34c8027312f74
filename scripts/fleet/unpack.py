"""Unpacks what a host sends as its reports: `unpack.py FOLDER <reports.tar`. docs/machines.md.

A host may send anything, so: a tar that is not compressed, of regular files with the names that `on_host.sh reports`
sends, one by one into FOLDER, new, without owners and modes, and not more than LIMIT bytes in all. At the first thing
that is anything else it says so and ends with 1, where the tar is none or breaks off with 3; what came before stays.
"""

import os
import re
import resource
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LIMIT = 2**30  # bytes, of all files together
MOST = 10_000  # files
MEMORY = 2**28  # for headers, which may claim any length
NAMES = re.compile(
    r"status\.json|answer\.json|node\.log|session\.json|session\.toml|evidence/[A-Za-z0-9_-][A-Za-z0-9._-]{0,120}"
)


class Refused(Exception):
    """What a host sent is no set of reports."""


def reports(stream: BinaryIO, limit: int = LIMIT) -> Iterator[tuple[str, int, BinaryIO]]:
    """Name, size and content of each file, as they come. Refused for whatever should not be there."""
    left = limit
    with tarfile.open(fileobj=stream, mode="r|") as archive:  # "r|": never decompressed, never read twice
        for number, entry in enumerate(archive):
            name = entry.name.rstrip("/")
            if entry.isdir() and name == "evidence":
                continue
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):  # no links, devices or pipes, and no holes
                raise Refused(f"{name[:80]!r} is no regular file (type {entry.type!r})")
            if not NAMES.fullmatch(name):
                raise Refused(f"{name[:80]!r} is none of a node's reports")
            left -= entry.size
            if left < 0 or number >= MOST:
                raise Refused(f"there is more than {limit:,} bytes or {MOST:,} files of it")
            content = archive.extractfile(entry)
            assert content is not None
            yield name, entry.size, content


def unpack(stream: BinaryIO, folder: Path, limit: int = LIMIT) -> int:
    """Writes the reports into a folder, each in place of an older one; how many there were."""
    count = 0
    for name, size, content in reports(stream, limit):
        target = folder / name
        target.parent.mkdir(exist_ok=True, mode=0o700)
        if target.parent.is_symlink():
            raise Refused(f"{target.parent} is a link: remove it")
        target.unlink(missing_ok=True)
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(file, "wb") as out:
            while piece := content.read(min(size, 2**20)):
                out.write(piece)
                size -= len(piece)
        if size:
            raise tarfile.ReadError(f"{name!r} ends {size:,} bytes too soon")
        count += 1
    return count


def main() -> None:
    """Exit status 0, or 1 or 3 and a line on standard error."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        count = unpack(sys.stdin.buffer, Path(sys.argv[1]))
    except tarfile.TarError as error:
        print(f"the reports are no tar, or broke off: {error}", file=sys.stderr)
        sys.exit(3)
    except (Refused, OSError, ValueError, MemoryError) as error:
        sys.exit(f"the reports are refused: {str(error) or type(error).__name__}")
    if not count:
        sys.exit("the reports are refused: there are none")


if __name__ == "__main__":
    main()
