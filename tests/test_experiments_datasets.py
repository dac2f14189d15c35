"""Data sets: parsed as published, cut as the literature does, labelled as what they are."""

import csv
import gzip
import hashlib
import io
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from datetime import datetime, timedelta
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image
from server import serving

from sparsemat.experiments import datasets
from sparsemat.experiments.datasets import images, series, standins, text

PACKAGED = [name for name in datasets.DATASETS if name.endswith(("-sample", "-standin"))]


@pytest.fixture(autouse=True)
def forget():
    """Every test loads anew."""
    for loader in datasets.DATASETS.values():
        loader.cache_clear()
    yield
    for loader in datasets.DATASETS.values():
        loader.cache_clear()


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("SPARSEMAT_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def server(data):
    with serving() as server:
        yield server


def publish(server, monkeypatch, module, table, contents, archive=None):
    """Serve small files under the names of a release, with checksums of their own.

    ``contents`` has the kept content for every file of the table; ``archive`` makes of all of them
    what the address gives.
    """
    known = getattr(module, table)
    rewritten = []
    for file in known if isinstance(known, tuple) else (known,):
        name = file.urls[0].rpartition("/")[2]
        content = contents[file.path]
        served = archive(contents) if archive else content
        if name.endswith(".gz"):
            served = gzip.compress(content, mtime=0)
        server.files[name] = served
        rewritten.append(
            datasets.PublishedFile(
                path=file.path,
                urls=(server.url(name),),
                md5=file.md5 and hashlib.md5(served).hexdigest(),
                sha256=file.sha256 and hashlib.sha256(content).hexdigest(),
            )
        )
    monkeypatch.setattr(
        module, table, tuple(rewritten) if isinstance(known, tuple) else rewritten[0]
    )


def zipped(contents):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_importing_is_light():
    heavy = ("torchvision", "pooch", "pandas", "requests")
    code = (
        "import sys, sparsemat.experiments.datasets; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"must be one of .*'mnist'.* got 'mnits'"):
        datasets.load("mnits")


# ---- what a data set is ----


def test_the_fingerprint_sees_values_shapes_dtypes_and_the_validation_part():
    x, y = torch.arange(6, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    variants = [(x, y), (x.flip(0), y), (x.reshape(2, 3), y), (x.to(torch.int8), y)]
    prints = {datasets.Dataset("d", pair, pair).fingerprint for pair in variants}
    prints.add(datasets.Dataset("d", (x, y), (x, y), valid=(x, y)).fingerprint)
    assert len(prints) == len(variants) + 1


def test_the_fingerprint_of_views_in_chunks_is_that_of_the_whole(monkeypatch):
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    views = rows.unfold(0, 5, 1).transpose(1, 2)
    digest = hashlib.sha256()
    for tensor in (views, rows, rows[:0], rows[:1], rows, views):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    monkeypatch.setattr(datasets.dataset, "_CHUNK", 7 * 5 * 3 * 4)
    found = datasets.Dataset("d", (views, rows), (rows[:0], rows[:1]), valid=(rows, views))
    assert found.fingerprint == digest.hexdigest()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"training images": (50_000, 50_000)}, None),
        ({"training images": (20_000, 50_000)}, "20,000 of 50,000 training images"),
        ({"a": (1, 2), "b": (3, 3), "c": (4, 5)}, "1 of 2 a and 4 of 5 c"),
    ],
)
def test_a_subset_says_what_it_is(parts, expected):
    assert datasets.dataset.subset_of(parts) == expected


# ---- images ----


def idx(array: np.ndarray) -> bytes:
    """The published format of MNIST: magic number, sizes, bytes."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def test_mnist_is_downloaded_once_and_parsed(server, data, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {}
    for file in datasets.MNIST_FILES:
        count = 5 if "train" in file.path else 3
        shape = (count, 28, 28) if "images" in file.path else (count,)
        arrays[file.path] = rng.integers(0, 10, shape, dtype=np.uint8)
    contents = {path: idx(array) for path, array in arrays.items()}
    publish(server, monkeypatch, images, "MNIST_FILES", contents)
    found = datasets.load("mnist")
    expected = list(arrays.values())
    assert np.array_equal(found.train[0].numpy(), expected[0][:, None])
    assert found.train[1].tolist() == expected[1].tolist()
    assert np.array_equal(found.test[0].numpy(), expected[2][:, None])
    assert found.train[0].dtype == torch.uint8 and found.test[1].dtype == torch.int64
    assert datasets.load("mnist") is found and len(server.requests) == 4
    server.files.clear()
    datasets.mnist.cache_clear()
    assert datasets.load("mnist").fingerprint == found.fingerprint


def test_the_mnist_sample_is_balanced_and_says_that_it_is_a_subset():
    data = datasets.load("mnist-sample")
    assert data.train[0].shape == (600, 1, 28, 28) and data.test[0].shape == (200, 1, 28, 28)
    assert data.train[1].bincount().tolist() == [60] * 10
    assert data.test[1].bincount().tolist() == [20] * 10
    assert "600 of 60,000" in data.subset


def cifar_arrays(classes, train=7, test=3):
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (train, 32, 32, 3), dtype=np.uint8),
        "y_train": rng.integers(0, classes, train),
        "x_test": rng.integers(0, 256, (test, 32, 32, 3), dtype=np.uint8),
        "y_test": rng.integers(0, classes, test),
        "classes": np.array([f"class{k}" for k in range(classes)]),
    }


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_read_from_an_npz_file_in_its_order(data, name, classes):
    arrays = cifar_arrays(classes)
    np.savez(data / f"{name}.npz", **arrays)
    found = datasets.load(name)
    for part in ("train", "test"):
        pixels, labels = getattr(found, part)
        assert pixels.dtype == torch.uint8 and labels.dtype == torch.int64
        assert np.array_equal(np.moveaxis(pixels.numpy(), 1, 3), arrays[f"x_{part}"])
        assert labels.tolist() == arrays[f"y_{part}"].tolist()
    assert found.labels == tuple(arrays["classes"])
    assert found.subset == "7 of 50,000 training images and 3 of 10,000 test images"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-100]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: np.savez(path, x_train=np.zeros(3)), id="other-arrays"),
    ],
)
def test_a_damaged_npz_file_is_named(data, damage):
    path = data / "cifar10.npz"
    np.savez(path, **cifar_arrays(10))
    damage(path)
    with pytest.raises(ValueError, match=rf"{path} must hold the arrays x_train.*delete it"):
        datasets.load("cifar10")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        pytest.param(
            lambda made: {"x_train": made["x_train"][1:]},
            r"y_train must have shape \(6,\), got \(7,\)",
            id="an image less",
        ),
        pytest.param(
            lambda made: {"y_test": made["y_test"][1:]},
            r"y_test must have shape \(3,\), got \(2,\)",
            id="a label less",
        ),
        pytest.param(
            lambda made: {"y_train": made["y_train"][:, None]},
            r"y_train must have shape \(7,\), got \(7, 1\)",
            id="labels as a column",
        ),
        pytest.param(
            lambda made: {"y_train": made["y_train"] + 10}, "from 0 to 9, got 1", id="other labels"
        ),
        pytest.param(
            lambda made: {"x_test": (made["x_test"] / 255).astype(np.float32)},
            "x_test must be uint8 of shape .*, got float32",
            id="pixels from 0 to 1",
        ),
        pytest.param(
            lambda made: {"x_train": made["x_train"].transpose(0, 3, 1, 2)},
            r"x_train must be uint8 of shape .*, got uint8 \(7, 3, 32, 32\)",
            id="channels first",
        ),
    ],
)
def test_an_npz_file_of_another_form_is_refused(data, change, rule):
    arrays = cifar_arrays(10)
    np.savez(data / "cifar10.npz", **arrays | change(arrays))
    with pytest.raises(ValueError, match=rf"cifar10.npz must hold the arrays x_train.*{rule}"):
        datasets.load("cifar10")


def test_cifar_is_downloaded_through_torchvision(server, data, monkeypatch):
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    batches = {
        name: {
            "data": rng.integers(0, 256, (2, 3072), dtype=np.uint8),
            "labels": rng.integers(0, 10, 2).tolist(),
        }
        for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)
    }
    meta = {"label_names": [f"class{k}" for k in range(10)]}
    contents = {name: pickle.dumps(batch) for name, batch in (*batches.items(), ("meta", meta))}
    contents["batches.meta"] = contents.pop("meta")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    server.files[CIFAR10.filename] = buffer.getvalue()
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(CIFAR10, "url", server.url(CIFAR10.filename))
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    for table in ("train_list", "test_list"):
        rewritten = [[name, md5[name]] for name, _ in getattr(CIFAR10, table)]
        monkeypatch.setattr(CIFAR10, table, rewritten)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})

    found = datasets.load("cifar10")
    planes = np.concatenate([batches[name]["data"] for name, _ in CIFAR10.train_list])
    assert np.array_equal(found.train[0].numpy(), planes.reshape(-1, 3, 32, 32))
    assert found.test[1].tolist() == batches["test_batch"]["labels"]
    assert found.labels == tuple(meta["label_names"])


def test_cifar_that_cannot_be_had_says_where_to_put_it(server, data, monkeypatch):
    from torchvision.datasets import CIFAR100

    monkeypatch.setattr(CIFAR100, "url", server.url("gone.tar.gz"))
    with pytest.raises(FileNotFoundError, match=r"cifar-100-python.tar.gz is.*SPARSEMAT_DATA.*404"):
        datasets.load("cifar100")


def jpeg(mode, rng):
    shape = (64, 64) if mode == "L" else (64, 64, 3)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def tiny(server, monkeypatch):
    """A release of Tiny ImageNet with two classes; its files by name."""
    rng = np.random.default_rng(0)
    root = "tiny-imagenet-200"
    contents = {
        f"{root}/wnids.txt": b"n02\nn01\n",
        f"{root}/words.txt": b"n01\tgoldfish, Carassius\nn02\tbullfrog\n",
        f"{root}/val/val_annotations.txt": (
            b"val_0.JPEG\tn01\t0\t0\t63\t63\nval_1.JPEG\tn02\t0\t0\t9\t9\n"
        ),
    }
    for number, mode in enumerate(("RGB", "L")):
        contents[f"{root}/val/images/val_{number}.JPEG"] = jpeg(mode, rng)
        for wnid in ("n01", "n02"):
            contents[f"{root}/train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg(mode, rng)
    served = zipped(contents)
    server.files["tiny.zip"] = served
    published = datasets.PublishedFile(
        path=root, urls=(server.url("tiny.zip"),), md5=hashlib.md5(served).hexdigest()
    )
    monkeypatch.setattr(images, "TINY_IMAGENET", published)
    return contents


def pixels_of(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)


def test_tiny_imagenet_is_read_in_its_official_layout(tiny, data):
    found = datasets.load("tiny-imagenet")
    root = "tiny-imagenet-200"
    order = ["n02/images/n02_0", "n02/images/n02_1", "n01/images/n01_0", "n01/images/n01_1"]
    train = [pixels_of(tiny[f"{root}/train/{name}.JPEG"]) for name in order]
    test = [pixels_of(tiny[f"{root}/val/images/val_{number}.JPEG"]) for number in (0, 1)]
    for (pixels, labels), expected, classes in (
        (found.train, train, [0, 0, 1, 1]),
        (found.test, test, [1, 0]),
    ):
        assert pixels.dtype == torch.uint8 and labels.dtype == torch.int64
        assert np.array_equal(pixels.numpy(), np.stack(expected))
        assert labels.tolist() == classes
    grey = found.test[0][1]
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    assert found.labels == ("bullfrog", "goldfish, Carassius")
    assert found.subset == ("4 of 100,000 training images and 2 of 10,000 validation images")


def test_decoded_images_are_kept_until_their_number_changes(tiny, data, monkeypatch):
    decoded = []
    decode = images._decode
    monkeypatch.setattr(
        images, "_decode", lambda paths: decoded.append(len(paths)) or decode(paths)
    )
    first = datasets.load("tiny-imagenet")
    datasets.tiny_imagenet.cache_clear()
    assert datasets.load("tiny-imagenet").fingerprint == first.fingerprint
    assert decoded == [4, 2]
    (data / "tiny-imagenet-200/train/n01/images/n01_1.JPEG").unlink()
    datasets.tiny_imagenet.cache_clear()
    assert len(datasets.load("tiny-imagenet").train[0]) == 3
    assert decoded == [4, 2, 3, 2]
    (data / "tiny-imagenet-200.npz").write_bytes(b"half")
    datasets.tiny_imagenet.cache_clear()
    assert len(datasets.load("tiny-imagenet").train[0]) == 3
    assert decoded == [4, 2, 3, 2, 3, 2]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda root: (root / "wnids.txt").write_text("n01\nn02\n"),
            id="classes in another order",
        ),
        pytest.param(
            lambda root: (root / "train/n02/images/n02_0.JPEG").rename(
                root / "train/n01/images/n01_2.JPEG"
            ),
            id="an image in another class",
        ),
        pytest.param(
            lambda root: (root / "val/val_annotations.txt").write_text(
                "val_1.JPEG\tn02\nval_0.JPEG\tn01\n"
            ),
            id="test images in another order",
        ),
    ],
)
def test_kept_images_of_other_files_are_decoded_again(tiny, data, change):
    datasets.load("tiny-imagenet")
    change(data / "tiny-imagenet-200")
    datasets.tiny_imagenet.cache_clear()
    changed = datasets.load("tiny-imagenet").fingerprint
    (data / "tiny-imagenet-200.npz").unlink()
    datasets.tiny_imagenet.cache_clear()
    assert datasets.load("tiny-imagenet").fingerprint == changed


# ---- series ----


def brute_windows(rows, window, targets):
    """Standardised windows and targets, one by one."""
    inputs = np.stack([rows[t - window : t] for t in targets])
    return inputs, np.stack([rows[t] for t in targets])


@pytest.mark.parametrize("valid", [0, 9])
def test_windows_are_those_of_a_loop(valid):
    rng = np.random.default_rng(0)
    rows = rng.normal(5, 3, (60, 4)) * [1, 10, 0, 0.1]  # one variable never changes
    found = series.windows("s", rows, window=6, train=30, valid=valid, test=12, subset="some")
    mean, deviation = rows[:30].mean(0), rows[:30].std(0)
    deviation[2] = 1
    standard = (rows - mean) / deviation
    cuts = {"train": range(6, 30), "test": range(30 + valid, 42 + valid)}
    if valid:
        cuts["valid"] = range(30, 30 + valid)
    else:
        assert found.valid is None
    for part, targets in cuts.items():
        for actual, expected in zip(
            getattr(found, part), brute_windows(standard, 6, targets), strict=True
        ):
            assert actual.dtype == torch.float32
            np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6, atol=1e-6)
    for actual, expected in zip(found.scale, (mean, deviation), strict=True):
        assert actual.shape == (4,) and actual.dtype == torch.float32
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6)
    back = found.test[1] * found.scale[1] + found.scale[0]
    np.testing.assert_allclose(back.numpy(), rows[30 + valid : 42 + valid], rtol=1e-4, atol=1e-4)
    shared = found.train[0].untyped_storage().nbytes()
    assert shared == rows.size * 4  # windows are views
    assert found.subset == "some"


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="s must have the 42 rows of its parts, got 41"):
        series.windows("s", np.zeros((41, 1)), window=6, train=30, valid=0, test=12)


def etth1_csv(rows):
    rng = np.random.default_rng(0)
    lines = ["date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"]
    for row in range(rows):
        lines.append(f"2016-07-01 {row},{','.join(map(repr, rng.normal(size=7).tolist()))}")
    return "\n".join(lines).encode()


def test_etth1_is_split_as_in_the_literature(server, data, monkeypatch):
    content = etth1_csv(14_500)
    publish(server, monkeypatch, series, "ETTH1_FILE", {"ETTh1.csv": content})
    found = datasets.load("etth1")
    assert [tuple(part[0].shape) for part in (found.train, found.valid, found.test)] == [
        (8616, 24, 7),
        (2880, 24, 7),
        (2880, 24, 7),
    ]
    table = [list(map(float, row[1:])) for row in csv.reader(content.decode().split("\n")[1:])]
    training = np.array(table[:8640])
    standard = (np.array(table) - training.mean(0)) / training.std(0)
    for actual, row in (
        (found.train[0][0, 0], 0),
        (found.train[1][0], 24),
        (found.train[1][-1], 8639),
        (found.valid[0][0, 0], 8640 - 24),
        (found.valid[1][0], 8640),
        (found.test[0][0, -1], 11519),
        (found.test[1][0], 11520),
        (found.test[1][-1], 14399),
    ):
        np.testing.assert_allclose(actual.numpy(), standard[row], rtol=1e-5, atol=1e-6)


def test_electricity_is_split_as_in_the_literature(server, data, monkeypatch):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 900, 400)  # few different rows: the file is large
    rows = levels[rng.integers(0, 400, (26_304, 1))] + np.arange(321)
    content = "\n".join(",".join(map(str, row)) for row in rows.tolist()).encode()
    publish(server, monkeypatch, series, "ELECTRICITY_FILE", {"electricity.txt": content})
    found = datasets.load("electricity")
    assert [tuple(part[0].shape) for part in (found.train, found.valid, found.test)] == [
        (18_412 - 168, 168, 321),
        (2632, 168, 321),
        (5260, 168, 321),
    ]
    mean, deviation = rows[:18_412].mean(0), rows[:18_412].std(0)
    for actual, row in ((found.test[1][-1], -1), (found.test[1][0], -5260)):
        np.testing.assert_allclose(actual.numpy(), (rows[row] - mean) / deviation, rtol=1e-5)
    assert found.subset is None


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"1,2\n3,4\n", r"must have 26304 rows of 321 clients, got \(2, 2\)"),
        (b"1,2\n3\n", "must have equally many numbers in every row"),
    ],
)
def test_another_electricity_file_is_refused(data, content, rule):
    (data / "electricity.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"electricity.txt {rule}"):
        datasets.load("electricity")


def mt200_csv(first=2011, last=2014, header="date,hour,MT_200"):
    days = np.arange(f"{first}-01-01", f"{last + 1}-01-01", dtype="datetime64[D]")
    lines = [
        f"{day},{hour},{float(24 * count + hour)}"
        for count, day in enumerate(days)
        for hour in range(24)
    ]
    return "\n".join([header, *lines, "2015-01-01,0,1e9"]) + "\n"


def test_mt200_takes_the_hours_of_2012_to_2014(data):
    (data / "LD_MT200_hour.csv").write_text(mt200_csv())
    found = datasets.load("electricity-mt200")
    assert found.train[0].shape == (18_244, 168, 1) and found.train[1].shape == (18_244, 1)
    assert len(found.valid[1]) == 2632 and len(found.test[1]) == 5260
    mean, deviation = (float(value) for value in found.scale)
    first = found.train[0][0, 0, 0] * deviation + mean
    last = found.test[1][-1, 0] * deviation + mean
    assert first == pytest.approx(365 * 24, abs=0.1)  # 1 January 2012
    assert last == pytest.approx(1461 * 24 - 1, abs=0.1)  # 31 December 2014, 23:00
    assert found.subset == "client MT_200 of 321"


def test_mt200_errors_say_how_to_make_the_file(data):
    with pytest.raises(FileNotFoundError, match=r"LD_MT200_hour.csv is missing.*LD2011_2014.txt"):
        datasets.load("electricity-mt200")
    (data / "LD_MT200_hour.csv").write_text(mt200_csv(first=2013))
    with pytest.raises(ValueError, match="must have the 26304 hours of 2012 to 2014, got 17520"):
        datasets.load("electricity-mt200")
    (data / "LD_MT200_hour.csv").write_text(mt200_csv(header="date,hour,MT_201"))
    with pytest.raises(ValueError, match="must have the columns date, hour, MT_200, got"):
        datasets.load("electricity-mt200")


def _swapped(lines, one, other):
    lines[one], lines[other] = lines[other], lines[one]
    return lines


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        pytest.param(
            lambda lines: _swapped(lines, 9000, 9001), "the hours in their order", id="swapped"
        ),
        pytest.param(
            lambda lines: [*lines[:9000], lines[9000], lines[9000], *lines[9002:]],
            "the hours in their order",
            id="an hour twice in place of the next",
        ),
        pytest.param(
            lambda lines: [lines[0], *lines[:0:-1]], "the hours in their order", id="reversed"
        ),
        pytest.param(
            lambda lines: [*lines[:9001], *lines[9002:-1], "2014-12-31,24,1.0"],
            "24 hours a day, got 23 on 2012-01-11, 25 on 2014-12-31",
            id="an hour of another day",
        ),
        pytest.param(
            lambda lines: [*lines[:9000], "2012-01-11,noon,1.0", *lines[9001:]],
            "a number under hour",
            id="no hour",
        ),
    ],
)
def test_mt200_has_every_hour_once_and_in_order(data, change, rule):
    lines = change(mt200_csv().splitlines())
    (data / "LD_MT200_hour.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"LD_MT200_hour.csv must have {rule}"):
        datasets.load("electricity-mt200")


# ---- text ----


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("It #39;s  AT&amp;T's 2nd", "it's at t's 2 nd"),
        ("a\\team for the  #36;10 million", "a team for the 10 million"),
        (" quot;sting quot; field &lt;b&gt;Bold&lt;/b&gt;", "sting field bold"),
        ("He #146;s un_known 4.99 caf #233;", "he's un known 4 99 café"),
    ],
)
def test_news_tokens_are_words_and_numbers(raw, expected):
    assert text.news_tokens(raw) == expected.split()


def news_csv(rows):
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def test_ag_news_is_numbered_by_frequency_cut_and_padded(server, data, monkeypatch):
    train = [("3", "Oil oil", "oil up, again up"), ("4", "", "again " + "x " * 70)]
    test = [("1", "Oil", "never seen"), ("2", "", "")]
    contents = {"ag_news_csv/train.csv": news_csv(train), "ag_news_csv/test.csv": news_csv(test)}
    publish(server, monkeypatch, text, "AG_NEWS_FILES", contents)
    found = datasets.load("ag-news")
    assert found.vocabulary == ("<pad>", "<unk>", "x", "oil", "up", "again")
    assert found.train[0].dtype == found.train[1].dtype == torch.int64
    assert found.train[0].tolist() == [[3, 3, 3, 4, 5, 4] + 58 * [0], [5] + 63 * [2]]
    assert found.train[1].tolist() == [2, 3] and found.test[1].tolist() == [0, 1]
    assert found.test[0].tolist() == [[3, 1, 1] + 61 * [0], 64 * [0]]
    assert found.labels[found.train[1][0]] == "Business"
    assert found.subset == "2 of 120,000 training texts and 2 of 7,600 test texts"


def test_the_vocabulary_of_ag_news_has_20000_words(server, data, monkeypatch):
    rows = [
        ("1", "", " ".join(text_of(number) for number in range(start, start + 50)))
        for start in range(0, 25_000, 50)
    ]
    contents = {
        "ag_news_csv/train.csv": news_csv([*rows, ("1", text_of(24_999), "")]),
        "ag_news_csv/test.csv": news_csv(
            [("1", text_of(24_999), text_of(19_998)), ("1", text_of(19_999), "")]
        ),
    }
    publish(server, monkeypatch, text, "AG_NEWS_FILES", contents)
    found = datasets.load("ag-news")
    assert len(found.vocabulary) == 20_002
    assert found.test[0][:, :2].tolist() == [[2, 20_001], [1, 0]]


def text_of(number):
    """A word of letters for a number."""
    return "".join(chr(97 + int(digit)) for digit in str(number))


@pytest.mark.parametrize("row", [("5", "a", "b"), ("1", "a"), ("x", "a", "b")])
def test_another_news_file_is_refused(server, data, monkeypatch, row):
    contents = {
        "ag_news_csv/train.csv": news_csv([("1", "a", "b"), row]),
        "ag_news_csv/test.csv": news_csv([]),
    }
    publish(server, monkeypatch, text, "AG_NEWS_FILES", contents)
    with pytest.raises(
        ValueError, match=r"train.csv must have a class from 1 to 4.* in row 2, got"
    ):
        datasets.load("ag-news")


def running(rng, lines, words):
    """Lines in the form of both corpora: a space at either end, some of them empty."""
    made = []
    for _ in range(lines):
        chosen = rng.choice(words, rng.integers(0, 30))
        made.append(f" {' '.join(chosen)} " if len(chosen) else " ")
    return "\n".join(made) + "\n"


RUNNING = {
    "wikitext-2": (
        "WIKITEXT2_FILES",
        [f"wikitext-2/wiki.{part}.tokens" for part in ("train", "valid", "test")],
        zipped,
    ),
    "ptb": ("PTB_FILES", [f"ptb.{part}.txt" for part in ("train", "valid", "test")], None),
}


@pytest.mark.parametrize("name", RUNNING)
def test_running_text_is_cut_into_blocks_one_token_apart(server, data, monkeypatch, name):
    table, paths, archive = RUNNING[name]
    rng = np.random.default_rng(0)
    known = np.array(["<unk>", "the", "of", "Café", "@-@", ",", "\N{EN DASH}", "N"])
    texts = [running(rng, 60, known), running(rng, 20, [*known, "new"]), running(rng, 25, known)]
    contents = {path: words.encode() for path, words in zip(paths, texts, strict=True)}
    publish(server, monkeypatch, text, table, contents, archive)
    found = datasets.load(name)

    streams = [re.sub(r"\n", " <eos> ", words).split() for words in texts]
    counts, first = Counter(streams[0]), streams[0].index
    vocabulary = sorted(counts, key=lambda word: (-counts[word], first(word)))
    assert list(found.vocabulary) == vocabulary
    for (inputs, targets), stream in zip(
        (found.train, found.valid, found.test), streams, strict=True
    ):
        assert inputs.dtype == targets.dtype == torch.int64
        heard = [word if word in counts else "<unk>" for word in stream]
        number = (len(stream) - 1) // 64
        assert inputs.shape == targets.shape == (number, 64)
        for block in range(number):
            at = 64 * block
            assert [vocabulary[i] for i in inputs[block]] == heard[at : at + 64]
            assert [vocabulary[i] for i in targets[block]] == heard[at + 1 : at + 65]
    assert found.subset.startswith(f"{len(streams[0]):,} of ")
    assert len(server.requests) == (1 if archive else 3)


@pytest.mark.parametrize(("tokens", "count"), [(64, 0), (65, 1), (128, 1), (129, 2)])
def test_the_last_partial_block_is_dropped(tokens, count):
    inputs, targets = text.blocks(np.arange(tokens))
    assert inputs.shape == targets.shape == (count, 64)


def test_a_text_without_the_unknown_word_gets_one():
    found = text._running("t", {"train": "a b\n" * 40, "test": "a c\n" * 30}, {})
    assert found.vocabulary == ("a", "b", "<eos>", "<unk>")
    assert found.test[0][0, :4].tolist() == [0, 3, 2, 0]


# ---- what comes with the package ----


@pytest.mark.parametrize("name", PACKAGED)
def test_what_comes_with_the_package_is_labelled_small_and_repeatable(name):
    found = datasets.load(name)
    assert found.name == name
    assert found.subset == standins.SUBSET if name.endswith("-standin") else " of " in found.subset
    for inputs, targets in (found.train, found.test):
        assert len(inputs) == len(targets) > 0
    datasets.DATASETS[name].cache_clear()
    assert datasets.load(name).fingerprint == found.fingerprint


def test_every_packaged_sample_has_a_licence_note_and_is_small():
    folder = files("sparsemat.experiments") / "data"
    samples = {path.name.split(".")[0] for path in folder.iterdir() if "-sample." in path.name}
    assert samples == {name for name in datasets.DATASETS if name.endswith("-sample")}
    for sample in samples:
        assert "licence" in (folder / f"{sample}.LICENSE.md").read_text()
    assert sum(len(path.read_bytes()) for path in folder.iterdir()) < 250_000


def test_every_data_set_of_the_paper_has_a_small_relative():
    whole = {name for name in datasets.DATASETS if name not in PACKAGED}
    whole -= {"electricity-mt200", "electricity-two-clients"}
    assert len(whole) == 9
    assert whole == {name.removesuffix("-sample").removesuffix("-standin") for name in PACKAGED}


@pytest.mark.parametrize(
    ("name", "shape", "classes", "train", "test"),
    [
        ("cifar10-standin", (3, 32, 32), list(range(10)), 600, 200),
        ("cifar100-standin", (3, 32, 32), list(range(100)), 2000, 500),
        ("tiny-imagenet-standin", (3, 64, 64), list(range(0, 200, 20)), 600, 200),
    ],
)
def test_image_stand_ins_are_shaped_as_their_data_sets(name, shape, classes, train, test):
    found = datasets.load(name)
    for (pixels, labels), count in ((found.train, train), (found.test, test)):
        assert pixels.shape == (count, *shape) and pixels.dtype == torch.uint8
        values, counts = labels.unique(return_counts=True)
        assert values.tolist() == classes and counts.unique().numel() == 1
    assert not torch.equal(found.train[0][0], found.test[0][0])


@pytest.mark.parametrize("name", [name for name in PACKAGED if name.startswith(("cifar", "tiny"))])
def test_image_stand_ins_are_learnable_by_a_tiny_network(name):
    torch.manual_seed(0)
    found = datasets.load(name)
    (x, y), (x_test, y_test) = (
        (images / 255 - 0.5, labels) for images, labels in (found.train, found.test)
    )
    width = 16
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, width, 5, stride=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(2 * width, 200),
    )
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(6):
        for batch in torch.randperm(len(x)).split(50):
            loss = torch.nn.functional.cross_entropy(network(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (network(x_test).argmax(1) == y_test).double().mean()
    assert accuracy > 0.5  # chance: 0.1, or 0.01


def test_the_news_stand_in_is_learnable_by_counting_words():
    found = datasets.load("ag-news-standin")
    assert found.train[0].shape == (800, 64) and found.test[0].shape == (400, 64)
    words = len(found.vocabulary)
    assert found.train[0].max() < words == 2002

    def bags(ids):
        return torch.stack([row.bincount(minlength=words)[2:] for row in ids]).double()

    per_class = torch.stack([bags(found.train[0])[found.train[1] == k].sum(0) for k in range(4)])
    log_likelihood = (
        bags(found.test[0]) @ ((per_class + 0.1) / (per_class + 0.1).sum(1, keepdim=True)).log().T
    )
    assert (log_likelihood.argmax(1) == found.test[1]).double().mean() > 0.6


def test_the_transformer_stand_in_rewards_memory():
    found = datasets.load("etth1-standin")
    assert found.train[0].shape == (876, 24, 7) and len(found.valid[0]) == len(found.test[0]) == 300
    inputs, targets = (part.double().numpy() for part in found.train)
    design = np.column_stack([inputs.reshape(len(inputs), -1), np.ones(len(inputs))])
    solution = np.linalg.lstsq(design, targets, rcond=1e-6)[0]
    inputs, targets = (part.double().numpy() for part in found.test)
    design = np.column_stack([inputs.reshape(len(inputs), -1), np.ones(len(inputs))])
    linear = ((design @ solution - targets) ** 2).mean()
    persistence = ((inputs[:, -1] - targets) ** 2).mean()
    assert linear < 0.9 * persistence


def test_the_floor_of_the_language_stand_in_is_reached_by_its_chain_and_by_nothing_else():
    found = datasets.load("ptb-standin")
    transition, stationary = standins.markov_chain()
    np.testing.assert_allclose(transition.sum(1), 1)
    np.testing.assert_allclose(stationary @ transition, stationary, atol=1e-12)
    assert (np.diff(stationary) <= 0).all() and stationary.min() > 0
    by_hand = -sum(
        stationary[i] * p * np.log(p) for i, row in enumerate(transition) for p in row if p > 0
    )
    assert found.floor == pytest.approx(by_hand, rel=1e-12)

    inputs, targets = found.train
    assert inputs.shape == (499, 64) and len(found.vocabulary) == 200
    probability = torch.from_numpy(transition)[inputs, targets]
    assert (probability > 0).all()
    losses = -probability.log().flatten()
    error = losses.std() / len(losses) ** 0.5
    assert abs(losses.mean() - found.floor) < 5 * error
    counts = torch.zeros(200, 200, dtype=torch.float64)
    counts.index_put_(
        (inputs.flatten(), targets.flatten()),
        torch.ones(inputs.numel(), dtype=torch.float64),
        accumulate=True,
    )
    estimate = (counts + 0.05) / (counts + 0.05).sum(1, keepdim=True)
    bigrams = -estimate[found.test[0], found.test[1]].log().mean()
    assert found.floor - 5 * error < bigrams < found.floor + 0.5
    unigrams = -(counts.sum(0) / counts.sum()).clamp(min=1e-9)[found.test[1]].log().mean()
    assert unigrams > found.floor + 1


# ---- the real files ----


def whole(*paths):
    """Skip a test unless these files are in the data folder."""
    missing = [path for path in paths if not (datasets.folder() / path).exists()]
    if missing:
        pytest.skip(f"{', '.join(missing)} not in the data folder (SPARSEMAT_DATA)")


def test_the_mnist_sample_is_part_of_the_published_set():
    whole(datasets.MNIST_FILES[0].path)
    published, sample = datasets.load("mnist"), datasets.load("mnist-sample")
    arrays = np.load(files("sparsemat.experiments") / "data/mnist-sample.npz")
    for split in ("train", "test"):
        at = torch.from_numpy(arrays[f"{split}_index"]).long()
        for all_of_it, part in zip(getattr(published, split), getattr(sample, split), strict=True):
            assert torch.equal(all_of_it[at], part)


def test_the_other_samples_are_parts_of_the_files():
    whole("LD_MT200_hour.csv", "wikitext-2/wiki.train.tokens", "wikitext-2/wiki.valid.tokens")
    with (datasets.folder() / "LD_MT200_hour.csv").open() as file:
        table = [(row["date"], float(row["MT_200"])) for row in csv.DictReader(file)]
    weeks = [value for date, value in table if "2014-09-01" <= date <= "2014-11-09"]
    sample = files("sparsemat.experiments") / "data"
    assert np.load(sample / "electricity-sample.npz")["kilowatt"].tolist() == weeks
    for part, source in (("train", "train"), ("test", "valid")):
        content = (datasets.folder() / f"wikitext-2/wiki.{source}.tokens").read_bytes()
        packaged = gzip.decompress((sample / f"wikitext-2-sample.{part}.gz").read_bytes())
        assert content.startswith(packaged)


def test_the_language_corpora_have_their_published_sizes():
    whole("ptb.train.txt", "wikitext-2/wiki.train.tokens")
    sizes = {"ptb": (10_000, 929_589), "wikitext-2": (33_278, 2_088_628)}
    for name, (words, tokens) in sizes.items():
        found = datasets.load(name)
        assert len(found.vocabulary) == words and found.subset is None
        assert len(found.train[0]) == (tokens - 1) // 64


def test_etth1_has_its_published_size_and_scale():
    whole("ETTh1.csv")
    found = datasets.load("etth1")
    assert found.subset is None and len(found.test[0]) == 2880
    column = np.loadtxt(datasets.folder() / "ETTh1.csv", delimiter=",", skiprows=1, usecols=7)
    assert float(found.scale[0][6]) == pytest.approx(column[:8640].mean(), rel=1e-6)
    assert float(found.test[1][-1, 6]) == pytest.approx(
        (column[14_399] - column[:8640].mean()) / column[:8640].std(), rel=1e-5
    )


def test_the_test_part_of_ag_news_is_the_published_one():
    whole("ag_news_csv/test.csv", "ag_news_csv/train.csv")
    found = datasets.load("ag-news")
    assert found.test[1].bincount().tolist() == [1900] * 4


# ---- truncated files, and the two clients ----


@pytest.mark.parametrize("rows", [69_443, 1], ids=["one row less", "one row"])
def test_truncated_news_are_refused(data, rows):
    path = data / "ag_news_csv/train.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(news_csv([("1", "a", "b")] * rows))
    with pytest.raises(ValueError, match=f"{path} must have the published md5"):
        text.AG_NEWS_FILES[0].fetch()


def test_the_documented_part_of_the_news_is_accepted_and_nothing_near_it(data, monkeypatch):
    content = news_csv([("1", "a", "b")] * 3)
    whole = news_csv([("1", "a", "b")] * 5)
    file = datasets.PublishedFile(
        path="ag_news_csv/train.csv",
        md5=hashlib.md5(whole).hexdigest(),
        part=hashlib.sha256(content).hexdigest(),
    )
    path = data / file.path
    path.parent.mkdir(parents=True)
    for accepted in (content, whole):
        path.write_bytes(accepted)
        assert file.fetch() == path
    for refused in (content[:-1], whole[:-1], whole + b"!", b""):
        path.write_bytes(refused)
        with pytest.raises(ValueError, match="must have the published md5"):
            file.fetch()


def test_a_truncated_wikitext_is_refused(data):
    file = text.WIKITEXT2_FILES[0]
    path = data / file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b" \n = Title = \n")
    with pytest.raises(ValueError, match=r"must have 10797148 bytes, got 14"):
        file.fetch()


def two_clients(rows, order=lambda lines: lines):
    hours = (datetime(2016, 7, 1, 2) + timedelta(hours=row) for row in range(rows))
    lines = [
        f"{hour.year}/{hour.month}/{hour.day} {hour.hour}:00,{row % 7},{1000 + row % 11}"
        for row, hour in enumerate(hours)
    ]
    return "\n".join(["date,0,OT", *order(lines)]) + "\n"


def test_two_clients_have_the_papers_split_and_window(data):
    (data / "ECL_0_OT.csv").write_text(two_clients(26_304))
    found = datasets.load("electricity-two-clients")
    assert found.train[0].shape == (18_412 - 168, 168, 2)
    assert found.test[0].shape == (5_260, 168, 2)
    assert found.valid[1].shape == (2_632, 2)
    assert found.subset == "clients 0 and OT of 321"


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        pytest.param(two_clients(26_303), "must have 26304 rows, got 26303", id="short"),
        pytest.param("date,OT,0\n", "must have the columns date, 0, OT", id="columns"),
        pytest.param(two_clients(3) + "2016/7/1 2:00,1\n", "a number under OT", id="cut row"),
        pytest.param(two_clients(3) + "2016/7/1 2:00,x,1\n", "a number under 0", id="word"),
        pytest.param(
            two_clients(26_304, sorted),
            "a row an hour, got 2016/10/1 10:00 after 2016/10/1 0:00",
            id="sorted as text",
        ),
        pytest.param(
            two_clients(26_304, lambda lines: [lines[0], *lines[:-1]]),
            "a row an hour, got 2016/7/1 2:00 after 2016/7/1 2:00",
            id="a row twice",
        ),
        pytest.param(
            two_clients(26_305, lambda lines: lines[:7] + lines[8:]),
            "a row an hour, got 2016/7/1 10:00 after 2016/7/1 8:00",
            id="a row left out",
        ),
        pytest.param(
            two_clients(26_304, lambda lines: [*lines[:-1], "noon,1,2"]),
            "a date such as 2016/7/1 2:00, got noon",
            id="no date",
        ),
    ],
)
def test_another_file_of_two_clients_is_refused(data, content, rule):
    path = data / "ECL_0_OT.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=rule) as caught:
        datasets.load("electricity-two-clients")
    assert str(path) in str(caught.value)


def test_the_file_of_two_clients_is_asked_for_by_name(data):
    with pytest.raises(FileNotFoundError, match=r"ECL_0_OT.csv is missing.*columns date, 0 and OT"):
        datasets.load("electricity-two-clients")
