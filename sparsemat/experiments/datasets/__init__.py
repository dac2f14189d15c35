"""The data sets: fetched once, checked, kept whole in memory as tensors.

A data set is a function without arguments in ``DATASETS``. Files are looked for below the folder
that the environment variable ``SPARSEMAT_DATA`` names (the user's cache folder if it is not set),
laid out as their releases are, and downloaded there where they are missing. Names that end in
``-sample`` are parts of the real data that come with the package; those that end in ``-standin``
are synthetic, where no licence lets a part come with it.
"""

from __future__ import annotations

from collections.abc import Callable

from .dataset import Dataset
from .downloads import PublishedFile, folder, unanswered
from .images import (
    MNIST_FILES,
    TINY_IMAGENET,
    cifar10,
    cifar100,
    cifar_archive,
    mnist,
    mnist_sample,
    tiny_imagenet,
)
from .series import (
    ELECTRICITY_FILE,
    ETTH1_FILE,
    electricity,
    electricity_mt200,
    electricity_sample,
    electricity_two_clients,
    etth1,
)
from .standins import (
    ag_news_standin,
    cifar10_standin,
    cifar100_standin,
    etth1_standin,
    ptb_standin,
    tiny_imagenet_standin,
)
from .text import (
    AG_NEWS_FILES,
    PTB_FILES,
    WIKITEXT2_FILES,
    ag_news,
    ptb,
    wikitext_2,
    wikitext_2_sample,
)

__all__ = [
    "DATASETS",
    "Dataset",
    "load",
    "addresses",
    "unanswered",
    "PublishedFile",
    "folder",
    "MNIST_FILES",
    "TINY_IMAGENET",
    "ETTH1_FILE",
    "ELECTRICITY_FILE",
    "AG_NEWS_FILES",
    "WIKITEXT2_FILES",
    "PTB_FILES",
]

DATASETS: dict[str, Callable[[], Dataset]] = {
    "mnist": mnist,
    "mnist-sample": mnist_sample,
    "cifar10": cifar10,
    "cifar10-standin": cifar10_standin,
    "cifar100": cifar100,
    "cifar100-standin": cifar100_standin,
    "tiny-imagenet": tiny_imagenet,
    "tiny-imagenet-standin": tiny_imagenet_standin,
    "etth1": etth1,
    "etth1-standin": etth1_standin,
    "electricity": electricity,
    "electricity-two-clients": electricity_two_clients,
    "electricity-mt200": electricity_mt200,
    "electricity-sample": electricity_sample,
    "ag-news": ag_news,
    "ag-news-standin": ag_news_standin,
    "wikitext-2": wikitext_2,
    "wikitext-2-sample": wikitext_2_sample,
    "ptb": ptb,
    "ptb-standin": ptb_standin,
}


def load(name: str) -> Dataset:
    """A data set by name; a second call returns the same tensors.

    Raises:
        ValueError: No data set has this name, or a file does not have its published checksum or
            form.
        FileNotFoundError: A file is missing and cannot be downloaded.
        OSError: A file is missing and the data folder cannot be written.
    """
    if name not in DATASETS:
        raise ValueError(f"the data set must be one of {sorted(DATASETS)}, got {name!r}")
    return DATASETS[name]()


def addresses() -> list[str]:
    """Every address from which a data set is downloaded."""
    files = [
        *(*MNIST_FILES, cifar_archive("cifar10"), cifar_archive("cifar100"), TINY_IMAGENET),
        *(ETTH1_FILE, ELECTRICITY_FILE, *AG_NEWS_FILES, *WIKITEXT2_FILES, *PTB_FILES),
    ]
    return list(dict.fromkeys(url for file in files for url in (*file.urls, *file.mirrors)))
