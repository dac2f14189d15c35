"""Published files: kept below the data folder, downloaded where they are missing, checked."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..files import atomic

_DAMAGED = (
    ValueError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def folder() -> Path:
    """Where data files are kept: ``SPARSEMAT_DATA``, or the user's cache folder."""
    if named := os.environ.get("SPARSEMAT_DATA"):
        return Path(named)
    import pooch  # warns in a notebook without widgets, so only where it is needed

    return Path(pooch.os_cache("sparsemat"))


@dataclass(frozen=True)
class PublishedFile:
    """A file of a public release, or the folder of one that is published as a zip archive.

    An address that ends in ``.gz`` gives the file gzipped, unless ``path`` does so too. One that
    ends in ``.zip`` or ``.tgz`` gives an archive that holds ``path``; it is unpacked below the data
    folder, and files that are already there stay as they are.

    Args:
        path: Where it is kept, below the data folder.
        urls: Where it can be had, in the order to be tried.
        sha256: Checksum of the kept file; None accepts whatever lies there.
        md5: Checksum of what the addresses give; None if none is published.
        size: Bytes of the kept file, where no checksum of it is published.
        part: sha256 of a documented part of the release that is accepted in its place.
        mirrors: Further addresses, to be tried after the others, whose archives are packed in
            another way: they have the kept file's checksum, and not ``md5``.
    """

    path: str
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    part: str | None = None
    mirrors: tuple[str, ...] = ()

    def fetch(self) -> Path:
        """The path of the file, downloaded if it is missing and checked in any case.

        A download that breaks off is kept beside it as ``.part``, and the next call goes on from
        there.

        Raises:
            ValueError: The file does not have its checksum. It is left where it is.
            FileNotFoundError: It is missing and no address gives it.
            OSError: It is missing and cannot be written, for want of permission or room.
        """
        path = folder() / self.path
        if not path.exists():
            self._download(path)
        self._check_content(path, ": delete it, and it is downloaded again")
        return path

    def _check_content(self, path: Path, advice: str = "") -> None:
        if self.part is not None and _digest(path, "sha256") == self.part:
            return
        if self.sha256 is not None:
            _check(path, "sha256", self.sha256, advice)
        elif self.part is not None:  # then the addresses give the file as it is kept
            _check(path, "md5", self.md5, advice)
        if self.size is not None and path.stat().st_size != self.size:
            raise ValueError(
                f"{path} must have {self.size} bytes, got {path.stat().st_size}{advice}"
            )

    def _download(self, path: Path) -> None:
        import requests

        reasons = []
        try:
            with locked():
                for url in (*self.urls, *self.mirrors):
                    if path.exists():  # another process had the lock and was faster
                        return
                    part = path.with_name(f"{url.rpartition('/')[2]}.part")
                    part.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        _continue(url, part)
                        self._unpack(url, part, path)
                        part.unlink(missing_ok=True)
                        return
                    except requests.RequestException as error:
                        reasons.append(f"{url}: {error}{_kept(part)}")
                    except _DAMAGED as error:
                        reasons.append(f"{url}: {error}")
                        part.unlink()
        except OSError as error:
            raise OSError(
                error.errno,
                f"{path} is missing and cannot be written: the data folder must be writable and "
                f"have room for it, or SPARSEMAT_DATA name another ({error})",
            ) from error
        raise FileNotFoundError(
            f"{path} is missing and could not be downloaded. By hand: get it from one of the "
            f"addresses, or from anywhere that has it, and put it there, unpacked; or name the "
            f"folder that has it by SPARSEMAT_DATA. Tried {'; '.join(reasons) or 'no address'}"
        )

    def _unpack(self, url: str, part: Path, path: Path) -> None:
        if self.md5 is not None and url in self.urls:
            _check(part, "md5", self.md5)
        if url.endswith((".zip", ".tgz")):
            for left in path.parent.glob("unpack-*"):  # by a process that was killed
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix="unpack-") as scratch:
                names = _extract(part, Path(scratch), url.endswith(".tgz"))[:5]
                unpacked = Path(scratch) / self.path
                if not unpacked.exists():
                    raise ValueError(f"the archive must hold {self.path}, it begins with {names}")
                if unpacked.is_file():
                    self._check_content(unpacked)
                _move_missing(Path(scratch), folder())
            return
        with atomic(path) as partial:
            opened = gzip.open if url.endswith(".gz") and path.suffix != ".gz" else open
            with opened(part, "rb") as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target)
            self._check_content(partial)


def _extract(archive: Path, target: Path, tar: bool) -> list[str]:
    if tar:
        with tarfile.open(archive) as opened:
            opened.extractall(target, filter="data")
            return opened.getnames()
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(target)
        return opened.namelist()


def unanswered(url: str, timeout: float = 30.0) -> str | None:
    """Why an address does not give its file; None if it does, as far as its first bytes tell.

    Args:
        url: The address.
        timeout: Seconds to wait.
    """
    import requests

    try:
        with requests.get(url, headers=_headers(), stream=True, timeout=timeout) as response:
            response.raise_for_status()
            if not next(response.iter_content(1 << 10), b""):
                return "an empty answer"
    except requests.RequestException as error:
        return str(error)
    return None


def _headers() -> dict[str, str]:
    import sparsemat

    return {
        "User-Agent": f"sparsemat/{sparsemat.__version__}",  # some hosts refuse a library's default
        "Accept-Encoding": "identity",  # so that a byte here is a byte there
    }


def _continue(url: str, part: Path) -> None:
    """Download what is missing at the end of ``part``."""
    import requests
    from pooch import HTTPDownloader

    part.touch()
    with part.open("r+b") as file:
        start = file.seek(0, os.SEEK_END)

        def restart(response: requests.Response, **_: object) -> None:
            if response.status_code == requests.codes.ok:  # the whole: this server has no ranges
                file.seek(0)
                file.truncate()

        headers = _headers()
        if start:
            headers["Range"] = f"bytes={start}-"
        download = HTTPDownloader(
            progressbar=True, chunk_size=1 << 16, headers=headers, hooks={"response": restart}
        )
        try:
            download(url, file, None)
        except requests.HTTPError as error:
            # nothing comes after the last byte: the checksum decides whether it is the last one
            if error.response.status_code != requests.codes.requested_range_not_satisfiable:
                raise


def _kept(part: Path) -> str:
    """What to say about an unfinished download; an empty one is removed."""
    if size := part.stat().st_size:
        return f" ({size} bytes are kept in {part}, and the next call goes on from there)"
    part.unlink()
    return ""


def _check(path: Path, algorithm: str, published: str, advice: str = "") -> None:
    found = _digest(path, algorithm)
    if found != published:
        raise ValueError(
            f"{path} must have the published {algorithm} {published}, got {found} "
            f"({path.stat().st_size} bytes){advice}"
        )


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _move_missing(source: Path, target: Path) -> None:
    """Move everything to another folder that it does not have yet."""
    for child in source.iterdir():
        if not (target / child.name).exists():
            child.replace(target / child.name)
        elif child.is_dir():
            _move_missing(child, target / child.name)


@contextmanager
def locked() -> Iterator[None]:
    """Hold the data folder's lock: one process downloads, the others wait and then find the file.

    The system gives the lock back when a process ends, however it ends.
    """
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
