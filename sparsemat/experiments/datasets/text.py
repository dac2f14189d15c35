"""Text: words as token ids; texts with a class, and running text in blocks."""

from __future__ import annotations

import csv
import gzip
import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, subset_of
from .downloads import PublishedFile

LENGTH = 64  # tokens of an example, as in the paper

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"

# the md5 sums are those that torchtext checks
_AG_NEWS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"
_AG_NEWS_ARCHIVE = "https://s3.amazonaws.com/fast-ai-nlp/ag_news_csv.tgz"
AG_NEWS_FILES = (
    PublishedFile(
        path="ag_news_csv/train.csv",
        urls=(f"{_AG_NEWS}/train.csv",),
        md5="b1a00f826fdfbd249f79597b59e1dc12",
        mirrors=(_AG_NEWS_ARCHIVE,),
        part="1e0a528567f6b3acb34782a8deb9b5882aafef05db58f7c17ecf725ceb7c75d8",  # 69,444 rows
    ),
    PublishedFile(
        path="ag_news_csv/test.csv",
        urls=(f"{_AG_NEWS}/test.csv",),
        md5="d52ea96a97a2d943681189a97654912d",
        mirrors=(_AG_NEWS_ARCHIVE,),
        sha256="521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
    ),
)
_WIKITEXT2 = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data"
WIKITEXT2_FILES = tuple(
    PublishedFile(
        path=f"wikitext-2/wiki.{part}.tokens",
        urls=("https://wikitext.smerity.com/wikitext-2-v1.zip",),  # Merity's, since S3 gives 403
        md5="542ccefacc6c27f945fb54453812b3cd",
        sha256=content,
        mirrors=() if content is None else (f"{_WIKITEXT2}/wikitext-2/{part}.txt",),
        size=size,  # also where the articles stand in another order
    )
    for part, content, size in (
        ("train", None, 10_797_148),
        ("valid", "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8", 1_121_681),
        ("test", "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0", 1_256_449),
    )
)
PTB_FILES = tuple(
    PublishedFile(
        path=f"ptb.{part}.txt",
        urls=tuple(
            f"https://raw.githubusercontent.com/{owner}/lstm/master/data/ptb.{part}.txt"
            for owner in ("wojzaremba", "tomsercu")
        ),
        md5=md5,
        sha256=content,
    )
    for part, md5, content in (
        (
            "train",
            "f26c4b92c5fdc7b3f8c7cdcb991d8420",
            "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        ),
        (
            "valid",
            "aa0affc06ff7c36e977d7cd49e3839bf",
            "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        ),
        (
            "test",
            "8b80168b89c18661a38ef683c0dc3721",
            "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        ),
    )
)


def by_frequency(words: Iterable[str], size: int | None = None) -> tuple[str, ...]:
    """The most frequent words, descending; ties in the order of first appearance."""
    return tuple(word for word, _ in Counter(words).most_common(size))


def encode(words: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """The id of every word, int64 ``(words,)``; that of ``<unk>`` for one without an id."""
    ids = {word: index for index, word in enumerate(vocabulary)}
    unknown = ids[UNKNOWN]
    return np.fromiter((ids.get(word, unknown) for word in words), np.int64, len(words))


def news_tokens(text: str) -> list[str]:
    """The words and numbers of a text of AG News, lower case.

    What is left of HTML in that release, such as `` #39;`` or ``&lt;b&gt;``, is undone first.
    """
    text = re.sub(
        r" ?&?(#\d+|quot|amp|lt|gt|nbsp);",
        lambda found: html.unescape(f"&{found[1]};"),
        text,
    )
    text = re.sub(r"<[^<>]*>|\\", " ", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+", text.lower())


@cache
def ag_news() -> Dataset:
    """AG News: 120,000 and 7,600 texts as token ids, int64 ``(N, 64)``, and 4 classes ``(N,)``.

    Title and description, in lower case, as words and numbers, cut or padded on the right. Id 0 is
    padding, 1 a word outside the vocabulary, which has the 20,000 most frequent words of the
    training texts by descending frequency.

    Raises:
        ValueError: A row is not a class from 1 to 4, a title and a description.
    """
    parts = [_read_news(file.fetch()) for file in AG_NEWS_FILES]
    vocabulary = (PAD, UNKNOWN, *by_frequency(chain.from_iterable(parts[0][0]), 20_000))
    train, test = (
        (
            torch.from_numpy(
                encode(
                    [
                        word
                        for text in texts
                        for word in (*text[:LENGTH], *(LENGTH - len(text)) * [PAD])
                    ],
                    vocabulary,
                ).reshape(-1, LENGTH)
            ),
            classes,
        )
        for texts, classes in parts
    )
    return Dataset(
        "ag-news",
        train,
        test,
        subset=subset_of(
            {"training texts": (len(train[1]), 120_000), "test texts": (len(test[1]), 7_600)}
        ),
        labels=("World", "Sports", "Business", "Sci/Tech"),
        vocabulary=vocabulary,
    )


def _read_news(path: Path) -> tuple[list[list[str]], Tensor]:
    classes, texts = [], []
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.reader(lines):
            if len(row) != 3 or row[0] not in {"1", "2", "3", "4"}:
                raise ValueError(
                    f"{path} must have a class from 1 to 4, a title and a description in row "
                    f"{len(texts) + 1}, got {row}"
                )
            classes.append(int(row[0]) - 1)
            texts.append(news_tokens(f"{row[1]} {row[2]}"))
    return texts, torch.tensor(classes)


def running_words(text: str) -> list[str]:
    """The words of a text, split at spaces, with ``<eos>`` at the end of every line."""
    lines = text.removesuffix("\n").split("\n")
    return [word for line in lines for word in (*line.split(), END)]


def blocks(tokens: np.ndarray) -> tuple[Tensor, Tensor]:
    """Running text in blocks of 64 tokens, each beside the same one token later.

    Args:
        tokens: Ids, int64 ``(T,)``.

    Returns:
        Inputs and targets, int64 ``(N, 64)`` with ``N = (T - 1) // 64``. What is left at the end is
        dropped.
    """
    count = (len(tokens) - 1) // LENGTH
    inputs, targets = tokens[: count * LENGTH], tokens[1 : count * LENGTH + 1]
    return tuple(torch.from_numpy(ids.reshape(-1, LENGTH)) for ids in (inputs, targets))


def _running(name: str, texts: dict[str, str], whole: dict[str, tuple[str, int]]) -> Dataset:
    """Running text; ``whole`` names the tokens of a part and says how many the release has."""
    words = {part: running_words(text) for part, text in texts.items()}
    counted = by_frequency(words["train"])
    vocabulary = counted if UNKNOWN in counted else (*counted, UNKNOWN)
    return Dataset(
        name,
        **{part: blocks(encode(these, vocabulary)) for part, these in words.items()},
        subset=subset_of(
            {kind: (len(words[part]), count) for part, (kind, count) in whole.items()}
        ),
        vocabulary=vocabulary,
    )


def _read(published: Sequence[PublishedFile]) -> dict[str, str]:
    parts = zip(("train", "valid", "test"), published, strict=True)
    return {part: file.fetch().read_text(encoding="utf-8") for part, file in parts}


_WIKITEXT2_TRAIN = ("training tokens", 2_088_628)


@cache
def wikitext_2() -> Dataset:
    """WikiText-2: 2,088,628 training tokens in blocks, int64 ``(N, 64)``, and the same one later.

    ``<eos>`` ends every line, also an empty one. The vocabulary is that of the training part by
    descending frequency; any other word is ``<unk>``.
    """
    return _running("wikitext-2", _read(WIKITEXT2_FILES), {"train": _WIKITEXT2_TRAIN})


@cache
def ptb() -> Dataset:
    """Penn Treebank in Mikolov's form: 929,589 training tokens, laid out as WikiText-2's."""
    return _running("ptb", _read(PTB_FILES), {"train": ("training tokens", 929_589)})


@cache
def wikitext_2_sample() -> Dataset:
    """The beginnings of WikiText-2's training and validation parts, which come with the package.

    Laid out as "wikitext-2", with a vocabulary of its own. The validation text is the test part.
    """
    folder = files("sparsemat.experiments") / "data"
    texts = {
        part: gzip.decompress((folder / f"wikitext-2-sample.{part}.gz").read_bytes()).decode()
        for part in ("train", "test")
    }
    whole = {"train": _WIKITEXT2_TRAIN, "test": ("validation tokens", 217_646)}
    return _running("wikitext-2-sample", texts, whole)
