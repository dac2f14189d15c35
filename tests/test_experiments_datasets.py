"""Data sets: checked files, clear errors, a cache that stays usable."""

import functools
import gzip
import hashlib
import http.server
import struct
import threading

import numpy as np
import pytest
import torch

from sparsemat.experiments import datasets


def idx(array: np.ndarray) -> bytes:
    """The published format of MNIST: magic number, sizes, bytes."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A tiny release in MNIST's format, served from this machine; yields the server's folder."""
    rng = np.random.default_rng(0)
    served, files = tmp_path / "served", []
    served.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    handler.func.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for published in datasets.MNIST_FILES:
        name = published.path.rpartition("/")[2]
        count = 5 if "train" in name else 3
        shape = (count, 28, 28) if "images" in name else (count,)
        content = idx(rng.integers(0, 10, shape, dtype=np.uint8))
        archive = gzip.compress(content, mtime=0)
        (served / f"{name}.gz").write_bytes(archive)
        files.append(
            datasets.PublishedFile(
                path=published.path,
                sha256=hashlib.sha256(content).hexdigest(),
                urls=(f"http://127.0.0.1:{server.server_port}/{name}.gz",),
                md5=hashlib.md5(archive).hexdigest(),
            )
        )
    monkeypatch.setattr(datasets, "MNIST_FILES", tuple(files))
    monkeypatch.setenv("SPARSEMAT_DATA", str(tmp_path / "data"))
    datasets.mnist.cache_clear()
    yield served
    datasets.mnist.cache_clear()
    server.shutdown()
    server.server_close()


def leftovers(folder):
    return [path.name for path in folder.rglob("*") if "part" in path.name or "down" in path.name]


def test_a_missing_release_is_downloaded_once_and_parsed(release, tmp_path):
    data = datasets.load("mnist")
    assert data.train[0].shape == (5, 1, 28, 28) and data.train[0].dtype == torch.uint8
    assert data.test[1].shape == (3,) and data.test[1].dtype == torch.int64
    assert datasets.load("mnist") is data
    kept = tmp_path / "data/MNIST/raw/train-labels-idx1-ubyte"
    assert kept.read_bytes()[8:] == bytes(data.train[1].tolist())
    for archive in release.iterdir():
        archive.unlink()
    datasets.mnist.cache_clear()
    assert datasets.load("mnist").fingerprint == data.fingerprint  # without the server's files
    assert leftovers(tmp_path / "data") == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[: len(content) // 2], id="half-downloaded"),
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:-1] + bytes([content[-1] ^ 1]), id="one-bit"),
    ],
)
def test_a_damaged_file_is_named_and_the_cache_stays_usable(release, tmp_path, damage):
    fingerprint = datasets.load("mnist").fingerprint
    path = tmp_path / "data/MNIST/raw/t10k-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    datasets.mnist.cache_clear()
    with pytest.raises(ValueError, match=f"{path} must have the published sha256"):
        datasets.load("mnist")
    path.unlink()  # what the message says
    assert datasets.load("mnist").fingerprint == fingerprint
    assert path.read_bytes() == whole


def test_a_damaged_download_leaves_nothing_behind(release, tmp_path):
    archive = release / "train-labels-idx1-ubyte.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-3])
    with pytest.raises(FileNotFoundError, match=r"train-labels-idx1-ubyte is missing.*hash"):
        datasets.load("mnist")
    assert leftovers(tmp_path / "data") == []
    archive.write_bytes(whole)
    assert len(datasets.load("mnist").train[1]) == 5


def test_an_unreachable_release_says_where_to_put_it(release, tmp_path):
    (release / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"SPARSEMAT_DATA.*404"):
        datasets.load("mnist")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"must be one of .*'mnist'.* got 'mnits'"):
        datasets.load("mnits")


def test_the_sample_is_balanced_and_says_that_it_is_a_subset():
    data = datasets.load("mnist-sample")
    assert data.train[0].shape == (600, 1, 28, 28) and data.test[0].shape == (200, 1, 28, 28)
    assert data.train[1].bincount().tolist() == [60] * 10
    assert data.test[1].bincount().tolist() == [20] * 10
    assert "600 of 60,000" in data.subset


def test_the_sample_is_part_of_the_published_set():
    if not (datasets.folder() / datasets.MNIST_FILES[0].path).exists():
        pytest.skip("the full MNIST is not in the data folder (SPARSEMAT_DATA)")
    whole, sample = datasets.load("mnist"), datasets.load("mnist-sample")
    arrays = np.load(datasets.files("sparsemat.experiments") / "data/mnist-sample.npz")
    for split in ("train", "test"):
        at = torch.from_numpy(arrays[f"{split}_index"]).long()
        for all_of_it, part in zip(getattr(whole, split), getattr(sample, split), strict=True):
            assert torch.equal(all_of_it[at], part)


def test_the_fingerprint_sees_values_shapes_and_dtypes():
    x, y = torch.arange(6, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    variants = [
        (x, y),
        (x.flip(0), y),
        (x.reshape(2, 3), y),
        (x.to(torch.int8), y),
    ]
    prints = {datasets.Dataset("d", pair, pair).fingerprint for pair in variants}
    assert len(prints) == len(variants)
