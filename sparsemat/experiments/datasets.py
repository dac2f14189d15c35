"""The data sets: fetched once, checked byte for byte, kept whole in memory as tensors.

A data set is a function without arguments in ``DATASETS``. Files are looked for below the folder
that the environment variable ``SPARSEMAT_DATA`` names (the user's cache folder if it is not set),
laid out as torchvision lays them out, and downloaded there where they are missing.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .files import atomic, sha256


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples for training and for testing.

    Args:
        name: Name in ``DATASETS``.
        train: Inputs and targets, whose first axis counts examples.
        test: The same for examples that training never sees.
        subset: What part of the published set this is; None for the whole.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    subset: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the four tensors: their dtypes, shapes and values."""
        digest = hashlib.sha256()
        for tensor in (*self.train, *self.test):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def load(name: str) -> Dataset:
    """A data set by name; a second call returns the same tensors.

    Raises:
        ValueError: No data set has this name, or a file does not have its published checksum.
        FileNotFoundError: A file is missing and cannot be downloaded.
    """
    if name not in DATASETS:
        raise ValueError(f"the data set must be one of {sorted(DATASETS)}, got {name!r}")
    return DATASETS[name]()


def folder() -> Path:
    """Where data files are kept: ``SPARSEMAT_DATA``, or the user's cache folder."""
    if named := os.environ.get("SPARSEMAT_DATA"):
        return Path(named)
    import pooch  # warns in a notebook without widgets, so only where it is needed

    return Path(pooch.os_cache("sparsemat"))


@dataclass(frozen=True)
class PublishedFile:
    """A file of a public release.

    Args:
        path: Where it is kept, below the data folder.
        sha256: Checksum of that file.
        urls: Where it can be had gzipped, in the order to be tried.
        md5: Checksum of the gzipped file.
    """

    path: str
    sha256: str
    urls: tuple[str, ...]
    md5: str

    def fetch(self) -> Path:
        """The path of the file, downloaded if it is missing and checked in any case.

        Raises:
            ValueError: The file does not have its checksum. It is left where it is.
            FileNotFoundError: It is missing and no address gives it.
        """
        path = folder() / self.path
        if not path.exists():
            self._download(path)
        found = sha256(path)
        if found != self.sha256:
            raise ValueError(
                f"{path} must have the published sha256 {self.sha256}, got {found} "
                f"({path.stat().st_size} bytes): delete it, and it is downloaded again"
            )
        return path

    def _download(self, path: Path) -> None:
        import pooch

        path.parent.mkdir(parents=True, exist_ok=True)
        reasons = []
        for url in self.urls:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix="download-") as scratch:
                try:
                    archive = pooch.retrieve(url, f"md5:{self.md5}", path=scratch, progressbar=True)
                except (OSError, ValueError) as error:  # no connection; a wrong checksum
                    reasons.append(f"{url}: {error}")
                    continue
                with atomic(path) as partial:
                    partial.write_bytes(gzip.decompress(Path(archive).read_bytes()))
                return
        raise FileNotFoundError(
            f"{path} is missing and could not be downloaded; put it there, or name the folder "
            f"that has it by SPARSEMAT_DATA. Tried {'; '.join(reasons)}"
        )


# the md5 sums are those that torchvision.datasets.MNIST checks
MNIST_FILES = tuple(
    PublishedFile(
        path=f"MNIST/raw/{name}",
        sha256=content,
        urls=(f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz",),
        md5=archive,
    )
    for name, content, archive in (
        (
            "train-images-idx3-ubyte",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        ),
        (
            "train-labels-idx1-ubyte",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "d53e105ee54ea40749a09fcbcd1e9432",
        ),
        (
            "t10k-images-idx3-ubyte",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "9fb629c4189551a2d022fa330f9573f3",
        ),
        (
            "t10k-labels-idx1-ubyte",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    )
)


@cache
def mnist() -> Dataset:
    """MNIST: 60,000 and 10,000 images, uint8 ``(N, 1, 28, 28)``, and digits, int64 ``(N,)``."""
    # imported here: the sample needs no torchvision
    from torchvision.datasets.mnist import read_image_file, read_label_file

    paths = [str(file.fetch()) for file in MNIST_FILES]
    train, test = (
        (read_image_file(images)[:, None], read_label_file(labels))
        for images, labels in (paths[:2], paths[2:])
    )
    return Dataset("mnist", train, test)


@cache
def mnist_sample() -> Dataset:
    """600 and 200 images of MNIST that come with the package, every digit equally often."""
    with files(__package__).joinpath("data/mnist-sample.npz").open("rb") as file:
        arrays = np.load(file)
        train, test = (
            (
                torch.from_numpy(arrays[f"{split}_images"][:, None]),
                torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64)),
            )
            for split in ("train", "test")
        )
    return Dataset("mnist-sample", train, test, subset="600 of 60,000 and 200 of 10,000 images")


DATASETS: dict[str, Callable[[], Dataset]] = {"mnist": mnist, "mnist-sample": mnist_sample}
