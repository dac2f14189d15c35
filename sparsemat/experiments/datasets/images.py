"""Images: uint8, channels first, and the class of each."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from ..files import atomic
from .dataset import Dataset, subset_of
from .downloads import PublishedFile, folder, locked

_UNREADABLE = (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile)  # of an npz file

# the md5 sums are those that torchvision.datasets.MNIST checks
MNIST_FILES = tuple(
    PublishedFile(
        path=f"MNIST/raw/{name}",
        sha256=content,
        urls=(
            f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz",
            f"https://storage.googleapis.com/cvdf-datasets/mnist/{name}.gz",
        ),
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
    with files("sparsemat.experiments").joinpath("data/mnist-sample.npz").open("rb") as file:
        arrays = np.load(file)
        train, test = (
            (
                torch.from_numpy(arrays[f"{split}_images"][:, None]),
                torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64)),
            )
            for split in ("train", "test")
        )
    return Dataset("mnist-sample", train, test, subset="600 of 60,000 and 200 of 10,000 images")


@cache
def cifar10() -> Dataset:
    """CIFAR-10: 50,000 and 10,000 images, uint8 ``(N, 3, 32, 32)``, 10 classes, int64 ``(N,)``.

    Read from ``cifar10.npz`` in the data folder if it is there (x_train ``(N, 32, 32, 3)``,
    y_train, x_test, y_test, classes), in its order; otherwise through torchvision, which downloads
    the release and checks it.

    Raises:
        ValueError: The npz file does not hold these arrays, or not as many labels as images.
        FileNotFoundError: The release is missing and cannot be downloaded.
    """
    return _cifar("cifar10")


@cache
def cifar100() -> Dataset:
    """CIFAR-100: as CIFAR-10, with its 100 fine classes."""
    return _cifar("cifar100")


def _cifar(name: str) -> Dataset:
    path = folder() / f"{name}.npz"
    train, test, labels = _cifar_npz(path) if path.exists() else _cifar_release(name)
    return Dataset(
        name,
        *((_channels_first(images), torch.from_numpy(y)) for images, y in (train, test)),
        subset=subset_of(
            {
                "training images": (len(train[1]), 50_000),
                "test images": (len(test[1]), 10_000),
            }
        ),
        labels=tuple(map(str, labels)),
    )


def _channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _cifar_npz(path: Path) -> tuple:
    try:
        with np.load(path) as arrays:
            train, test = (
                (arrays[f"x_{part}"], arrays[f"y_{part}"].astype(np.int64))
                for part in ("train", "test")
            )
            labels = arrays["classes"]
        for part, (pixels, classes) in (("train", train), ("test", test)):
            _check_images(part, pixels, classes, len(labels))
        return train, test, labels
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} must hold the arrays x_train, y_train, x_test, y_test and classes ({error}): "
            "delete it, and the release is downloaded"
        ) from error


def _check_images(part: str, pixels: np.ndarray, classes: np.ndarray, kinds: int) -> None:
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (32, 32, 3):
        raise ValueError(
            f"x_{part} must be uint8 of shape (N, 32, 32, 3), got {pixels.dtype} {pixels.shape}"
        )
    if classes.shape != (len(pixels),):
        raise ValueError(f"y_{part} must have shape ({len(pixels)},), got {classes.shape}")
    if len(classes) and not 0 <= classes.min() <= classes.max() < kinds:
        raise ValueError(
            f"y_{part} must be from 0 to {kinds - 1}, got {classes.min()} to {classes.max()}"
        )


def cifar_archive(name: str) -> PublishedFile:
    """The archive of "cifar10" or "cifar100" that torchvision knows."""
    release = _cifar_class(name)
    return PublishedFile(path=release.filename, urls=(release.url,), md5=release.tgz_md5)


def _cifar_class(name: str) -> type:
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def _cifar_release(name: str) -> tuple:
    release, archive = _cifar_class(name), cifar_archive(name)

    def parts(download: bool) -> list:
        return [release(folder(), train=part, download=download) for part in (True, False)]

    try:
        train, test = parts(download=False)
    except RuntimeError:  # torchvision finds no whole release
        archive.fetch()
        with locked():  # one process unpacks
            train, test = parts(download=True)
    return *((part.data, np.array(part.targets)) for part in (train, test)), train.classes


TINY_IMAGENET = PublishedFile(
    path="tiny-imagenet-200",
    urls=(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "https://zenodo.org/records/10720917/files/tiny-imagenet-200.zip",
    ),
    md5="90528d7ca1a48142e341f4ef8d21d0de",
)


@cache
def tiny_imagenet() -> Dataset:
    """Tiny ImageNet: 100,000 and 10,000 images, uint8 ``(N, 3, 64, 64)``, 200 classes.

    The test part is the release's validation part: its test images have no labels. Classes count
    in the order of ``wnids.txt``; grey images get three equal channels. The decoded images are kept
    beside the folder, and decoded again when there are other files.

    Raises:
        FileNotFoundError: The release is missing and cannot be downloaded, or lacks a file.
    """
    root = TINY_IMAGENET.fetch()
    wnids = (root / "wnids.txt").read_text().split()
    words = dict(line.split("\t", 1) for line in (root / "words.txt").read_text().splitlines())
    index = {wnid: label for label, wnid in enumerate(wnids)}
    train = [
        (path, index[wnid])
        for wnid in wnids
        for path in sorted((root / "train" / wnid / "images").glob("*.JPEG"))
    ]
    annotations = (root / "val/val_annotations.txt").read_text().splitlines()
    test = [
        (root / "val/images" / name, index[wnid])
        for name, wnid, *_ in (line.split("\t") for line in annotations)
    ]
    images = _decoded(root.with_name("tiny-imagenet-200.npz"), train, test)
    return Dataset(
        "tiny-imagenet",
        *(
            (torch.from_numpy(pixels), torch.tensor([label for _, label in part]))
            for pixels, part in zip(images, (train, test), strict=True)
        ),
        subset=subset_of(
            {
                "training images": (len(train), 100_000),
                "validation images": (len(test), 10_000),
            }
        ),
        labels=tuple(words[wnid] for wnid in wnids),
    )


def _decoded(kept: Path, *parts: list[tuple[Path, int]]) -> list[np.ndarray]:
    """The images of the parts, read from ``kept`` if that holds those of the same files."""
    paths = {f"part{number}": [path for path, _ in part] for number, part in enumerate(parts)}
    known = {name: [str(path.relative_to(kept.parent)) for path in paths[name]] for name in paths}
    if kept.exists():
        with suppress(*_UNREADABLE), np.load(kept) as arrays:
            if all(arrays[f"{name}_files"].tolist() == known[name] for name in paths):
                return [arrays[name] for name in paths]
    images = {name: _decode(paths[name]) for name in paths}
    named = {f"{name}_files": np.array(known[name], dtype=np.str_) for name in paths}
    # a folder that cannot be written costs time, no more
    with suppress(OSError), atomic(kept) as partial, partial.open("wb") as file:
        np.savez(file, **images, **named)
    return list(images.values())


def _decode(paths: list[Path]) -> np.ndarray:
    from torchvision.datasets.folder import pil_loader  # opens as RGB

    images = np.empty((len(paths), 3, 64, 64), np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[:] = np.asarray(pil_loader(str(path))).transpose(2, 0, 1)
    return images
