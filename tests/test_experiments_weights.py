"""Kept weights: those of the record, and nearest tied matrices."""

import json
from dataclasses import replace

import pytest
import torch

import sparsemat as sm
from sparsemat.experiments import datasets, runs, training, weights
from sparsemat.experiments.__main__ import main
from sparsemat.experiments.configurations import EXPERIMENTS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return runs.run("etth1", "tied", device="cpu", runs=folder)


@pytest.fixture
def kept(run, tmp_path):
    """A folder of records that holds the run's record, and its checkpoint's folder."""
    path = run[1]
    (tmp_path / path.name).write_text(path.read_text())
    return tmp_path, path.parent, path.name


def test_weights_are_kept_and_give_the_same_network(run, kept):
    results, folder, name = kept
    arguments = ["--runs", str(folder), "--results", str(results)]
    assert main(["weights", str(results / name), *arguments]) == 0
    assert weights.record(results, "etth1-tied-0") == run[0]
    model = weights.load(results, "etth1-tied-0")
    assert training.weights_sha256(model) == run[0]["weights_sha256"]
    x, y = datasets.load("etth1-standin").test
    error = (model(x) - y).square().mean().item()
    assert error == pytest.approx(run[0]["last"]["mse"], rel=1e-5)


@pytest.mark.parametrize("large", [False, True], ids=["single", "half"])
def test_large_weights_are_kept_in_half_precision(kept, monkeypatch, large):
    results, folder, name = kept
    monkeypatch.setattr(weights, "LARGE", 0 if large else 1 << 30)
    path = weights.keep(results / name, folder / "etth1-tied-0-quick.ckpt", results)
    dtypes = {tensor.dtype for tensor in weights.load_file(path).values()}
    assert dtypes == {torch.float16 if large else torch.float32}
    loaded = weights.load(results, "etth1-tied-0")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_weights_of_another_run_are_refused(kept):
    results, folder, name = kept
    record = json.loads((results / name).read_text()) | {"weights_sha256": "0" * 64}
    (results / name).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"the weights must be the record's, {'0' * 64}"):
        weights.keep(results / name, folder / "etth1-tied-0-quick.ckpt", results)
    with pytest.raises(ValueError, match="needs the checkpoint of its run, got no"):
        weights.keep(results / name, folder / "none.ckpt", results)
    assert not (results / "weights").exists()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder with record and checkpoint of a short run on texts."""
    folder = tmp_path_factory.mktemp("texts")
    return folder, runs.run("ag-news", "tied", device="cpu", epochs=1, runs=folder)[1]


def test_the_most_frequent_words_give_the_same_answers(reader):
    folder, path = reader
    checkpoint = folder / f"{path.stem}-quick.ckpt"
    weights.keep(path, checkpoint, folder)
    whole, texts = weights.load(folder, path.stem), datasets.load("ag-news-standin")
    assert weights.vocabulary(folder, path.stem) is None
    weights.keep(path, checkpoint, folder, words=100)
    part = weights.load(folder, path.stem)
    assert weights.vocabulary(folder, path.stem) == texts.vocabulary[:102]
    assert part.embedding.word.weight.shape == (102, 32)
    frequent = texts.test[0].clamp(max=101)
    assert torch.equal(part(frequent), whole(frequent))


@pytest.mark.parametrize("words", [-1, 2001])
def test_words_that_are_not_there_are_refused(reader, words):
    folder, path = reader
    with pytest.raises(ValueError, match=f"from 0 to the network's 2000, got {words}"):
        weights.keep(path, folder / f"{path.stem}-quick.ckpt", folder, words=words)


def test_words_of_other_data_are_refused(reader, monkeypatch):
    folder, path = reader
    texts = datasets.load("ag-news-standin")
    other = replace(texts, train=tuple(part.flip(0) for part in texts.train))  # in another order
    monkeypatch.setitem(datasets.DATASETS, "ag-news-standin", lambda: other)
    with pytest.raises(ValueError, match=rf"needs the data of its run, {texts.fingerprint}, but"):
        weights.keep(path, folder / f"{path.stem}-quick.ckpt", folder, words=100)


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A folder with record and checkpoint of a short run on running text, with two clusters."""
    folder = tmp_path_factory.mktemp("language")
    quick = EXPERIMENTS["wikitext-2"].profiles["quick"]
    network = replace(quick.network, cuts=(500, 1000))
    sample = datasets.load(quick.dataset)
    small = replace(sample, train=tuple(part[:48] for part in sample.train))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, quick.dataset, lambda: small)
        profiles = EXPERIMENTS["wikitext-2"].profiles
        patch.setitem(profiles, "quick", replace(quick, network=network))
        yield folder, runs.run("wikitext-2", "tied", device="cpu", runs=folder)[1]


@pytest.mark.parametrize("words", [500, 1000])
def test_whole_clusters_keep_the_probabilities_among_their_words(language, words):
    folder, path = language
    checkpoint = folder / f"{path.stem}-quick.ckpt"
    weights.keep(path, checkpoint, folder)
    whole = weights.load(folder, path.stem).double()
    weights.keep(path, checkpoint, folder, words=words)
    part = weights.load(folder, path.stem).double()
    sample = datasets.load("wikitext-2-sample")
    assert weights.vocabulary(folder, path.stem) == sample.vocabulary[:words]
    x = torch.arange(64)[None] % words
    probability = torch.stack(
        [(-whole(x, torch.full_like(x, word))).exp()[0] for word in range(words)], 1
    )
    given = probability / probability.sum(1, keepdim=True)
    for word in (0, 3, words - 1):
        kept = (-part(x, torch.full_like(x, word))).exp()[0]
        torch.testing.assert_close(kept, given[:, word])


def test_a_part_of_a_cluster_is_refused(language):
    folder, path = language
    with pytest.raises(ValueError, match=r"one of the network's cuts \(500, 1000\), got 700"):
        weights.keep(path, folder / f"{path.stem}-quick.ckpt", folder, words=700)


def test_words_of_a_series_are_refused(kept):
    results, folder, name = kept
    with pytest.raises(ValueError, match="words can be kept of a network of texts, got etth1"):
        weights.keep(results / name, folder / "etth1-tied-0-quick.ckpt", results, words=1)


def test_the_nearest_tied_matrix_is_the_nearest():
    torch.manual_seed(0)
    pattern = sm.conv_pattern(2, 3, (4, 5), 3, padding=1)
    index, count = torch.tensor(pattern.index), pattern.num_parameters
    tied = torch.randn(count, dtype=torch.float64)
    assert weights.distance_to_tied(tied[index], index, count) < 1e-15
    untied = tied[index] + torch.randn(len(index), dtype=torch.float64)
    nearest = weights.nearest_tied(untied, index, count)
    copies = torch.nn.functional.one_hot(index, count).double()
    solved = torch.linalg.lstsq(copies, untied[:, None]).solution[:, 0]
    torch.testing.assert_close(nearest, solved)
    assert 0 < weights.distance_to_tied(untied, index, count) < 1
    assert weights.distance_to_tied(torch.zeros(len(index)), index, count) == 0
