"""What one tar file lacks of another, so that who has the one need not be sent the whole of the other.

tar_delta.py NEW OLD writes a tar archive of that, or of NEW itself; plugins/action/stream.py makes NEW of it again.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Bytes of members in a row from which they are worth a process on the host.
LEAST = 64 * 1024
# Each piece takes some of a command's length.
MOST_PIECES = 100
# What is written in place of a file: what it lacks, and how it is made of that.
LACKING, PIECES = ".lacking", ".pieces"


@dataclass(frozen=True)
class Delta:
    name: str
    digest: str
    # What is sent.
    lacking: bytes
    # The whole in its order: of which file (the one that the host has, or what is sent), from where, how many bytes.
    pieces: list[tuple[str, int, int]]

    @property
    def lacking_name(self) -> str:
        return f"{self.name}{LACKING}"

    def join(self, folder: str) -> str:
        """For a host's shell, in the folder of the file that it has: the whole, made in another folder of what lies
        there. Its status is 0 where that has every byte."""
        pick = "dd iflag=skip_bytes,count_bytes bs=1M status=none"
        whole, lacking = f"{folder}/{shlex.quote(self.name)}", f"{folder}/{shlex.quote(self.lacking_name)}"
        parts = [
            f"{pick} if={lacking if file == self.lacking_name else shlex.quote(file)} skip={start} count={count}"
            for file, start, count in self.pieces
        ]
        return (
            f"( umask 077; {{ {'; '.join(parts)}; }} 2>/dev/null >{whole} ); rm -f {lacking}; "
            f'echo "{self.digest}  "{whole} | sha256sum --check --status'
        )


def members(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """The digest, beginning and end of each, with its header; the end of the archive belongs to the last."""
    with tarfile.open(path) as tar, path.open("rb") as file:
        starts = [member.offset for member in tar]
        for start, end in zip(starts, [*starts[1:], path.stat().st_size], strict=True):
            file.seek(start)
            yield hashlib.sha256(file.read(end - start)).digest(), start, end


def delta(new: Path, old: Path) -> Delta | None:
    """None where one of them is damaged or gone, or they have little in common: then the whole is to be sent."""
    try:
        one = compared(new, old)
    except (OSError, tarfile.TarError, ValueError):
        return None
    return one if len(one.pieces) <= MOST_PIECES else None


def compared(new: Path, old: Path) -> Delta:
    there = {digest: start for digest, start, _ in members(old)}
    # (begins, ends, begins in the old file, or None where that lacks it) of members in a row.
    runs: list[tuple[int, int, int | None]] = []
    for digest, start, end in members(new):
        found = there.get(digest)
        if runs:
            begun, ended, of_old = runs[-1]
            if found == (of_old if of_old is None else of_old + ended - begun):
                runs[-1] = (begun, end, of_old)
                continue
        runs.append((start, end, found))
    whole = new.read_bytes()
    name, lacking, pieces = f"{new.name}{LACKING}", b"", []
    for start, end, found in runs:
        if found is not None and end - start >= LEAST:
            pieces.append((old.name, found, end - start))
        else:
            pieces.append((name, len(lacking), end - start))
            lacking += whole[start:end]
    return Delta(new.name, hashlib.sha256(whole).hexdigest(), lacking, pieces)


def made_whole(described: bytes, lacking: bytes, folder: Path) -> bytes:
    """NEW, of what was written of it and the files of a folder."""

    def piece(file: str, start: int, count: int) -> bytes:
        if file.endswith(LACKING):
            return lacking[start : start + count]
        with (folder / file).open("rb") as there:
            there.seek(start)
            return there.read(count)

    told = json.loads(described)
    content = b"".join(piece(*one) for one in told["pieces"])
    if hashlib.sha256(content).hexdigest() != told["digest"]:
        old = next(file for file, *_ in told["pieces"] if not file.endswith(LACKING))
        raise ValueError(f"{folder / old} is damaged: remove it, and run the same command again.")
    return content


def main() -> None:
    new, old = map(Path, sys.argv[1:])
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        if not (one := delta(new, old)):
            tar.add(new, new.name)
            return
        described = json.dumps({"digest": one.digest, "pieces": one.pieces}).encode()
        for name, content in ((one.lacking_name, one.lacking), (f"{one.name}{PIECES}", described)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main()
