"""UnixFS importer: files and directories to blocks, byte for byte as Kubo's. Knows no store: `put` takes each block.

The result is that of `ipfs add -r --cid-version=1 --raw-leaves --chunker=size-262144`: chunks of 256 KiB as raw leaves,
a balanced tree of 174 links a node, directories as one node. Streaming: it holds one chunk and the links in progress.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from node.errors import StorageError
from node.storage.cid import DAG_PB, RAW, cid_of_block
from node.storage.dagpb import Link, encode_directory, encode_file, encode_node

CHUNK = 262_144
WIDTH = 174
MAX_DIRECTORY = 200_000  # bytes of names and CIDs; Kubo shards a directory from 262,144 on, which is not done here
MAX_NESTING = 32

Put = Callable[[bytes, bytes], None]
"""Called with (CID, block), children before their parent, the root last."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file or a directory: root CID, bytes of the whole DAG, bytes of the file (0 for a directory)."""

    cid: bytes
    dag_size: int
    size: int


def import_file(source: BinaryIO, put: Put) -> Imported:
    """Root of the file's DAG after all its blocks went to `put`. `source.read(n)` must fill n bytes until the end."""
    levels: list[list[Imported]] = [[]]
    chunk = source.read(CHUNK)
    _append(levels, 0, _leaf(chunk, put), put)
    while chunk := source.read(CHUNK):
        _append(levels, 0, _leaf(chunk, put), put)
    return _close(levels, put)


def import_directory(files: Mapping[str, bytes | Path], put: Put) -> Imported:
    """Root of a flat directory of these files. A path must be a regular file; raises StorageError."""
    entries = []
    for name, content in files.items():
        with io.BytesIO(content) if isinstance(content, bytes) else open_regular(content) as source:
            entries.append((name, import_file(source, put)))
    return _directory(entries, put)


def import_path(path: Path, put: Put, nesting: int = 0) -> Imported:
    """Root of a file, or of a directory with all below it. Links and special files raise StorageError."""
    if path.is_symlink() or not path.is_dir():
        with open_regular(path) as source:
            return import_file(source, put)
    if nesting >= MAX_NESTING:
        raise StorageError(f"{path} lies {nesting} directories deep: add a directory of at most {MAX_NESTING} levels")
    entries = [(child.name, import_path(child, put, nesting + 1)) for child in path.iterdir()]
    return _directory(entries, put)


def open_regular(path: Path) -> BinaryIO:
    """The file, opened for reading. Raises StorageError if it is not a regular file that can be read."""
    if path.is_symlink() or not path.is_file():
        raise StorageError(f"{path} is not a regular file: add the file that it stands for")
    try:
        return path.open("rb")
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}): check that it is there and readable") from error


def _leaf(chunk: bytes, put: Put) -> Imported:
    cid = cid_of_block(RAW, chunk)
    put(cid, chunk)
    return Imported(cid, len(chunk), len(chunk))


def _append(levels: list[list[Imported]], level: int, child: Imported, put: Put) -> None:
    """A parent is written only when one child more than it holds has come: a lone child has no parent of its own."""
    if level == len(levels):
        levels.append([])
    if len(levels[level]) == WIDTH:
        full, levels[level] = levels[level], []
        _append(levels, level + 1, _parent(full, put), put)
    levels[level].append(child)


def _close(levels: list[list[Imported]], put: Put) -> Imported:
    level = 0
    while level < len(levels) - 1 or len(levels[level]) > 1:
        _append(levels, level + 1, _parent(levels[level], put), put)
        level += 1
    return levels[level][0]


def _parent(children: Sequence[Imported], put: Put) -> Imported:
    links = [Link(child.cid, "", child.dag_size) for child in children]
    return _node(links, encode_file([child.size for child in children]), sum(child.size for child in children), put)


def _directory(entries: Sequence[tuple[str, Imported]], put: Put) -> Imported:
    ordered = sorted(entries, key=lambda entry: entry[0].encode())
    links = [Link(root.cid, name, root.dag_size) for name, root in ordered]
    weight = sum(len(link.name.encode()) + len(link.cid) for link in links)
    if weight > MAX_DIRECTORY:
        raise StorageError(f"directory of {len(links):,} files needs {weight:,} bytes of names: add fewer files")
    return _node(links, encode_directory(), 0, put)


def _node(links: Sequence[Link], data: bytes, size: int, put: Put) -> Imported:
    block = encode_node(links, data)
    cid = cid_of_block(DAG_PB, block)
    put(cid, block)
    return Imported(cid, len(block) + sum(link.size for link in links), size)
