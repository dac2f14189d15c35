"""Test images on which runs disagree: which are kept, and McNemar's test."""

import json
from dataclasses import replace

import pytest
import torch
from scipy.stats import binom

from sparsemat.experiments import datasets, disagreements, runs, weights
from sparsemat.experiments.__main__ import main

NAMES = ["mnist-native-0-1-epochs", "mnist-native-1-1-epochs"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with the records and weights of two short runs that differ in the seed."""
    folder = tmp_path_factory.mktemp("results")
    for seed, name in enumerate(NAMES):
        _, path = runs.run("mnist", "native", seed, device="cpu", epochs=1, runs=folder)
        assert path.stem == name
        weights.keep(path, folder / f"{name}-quick.ckpt", folder)
    return folder


def test_the_images_with_different_answers_are_kept(results, capsys):
    assert main(["disagreements", *NAMES, "--results", str(results)]) == 0
    kept = disagreements.read(results, "mnist")
    images, truth = datasets.load("mnist-sample").test
    models = [weights.load(results, name) for name in NAMES]
    answers = [[model(image[None]).argmax().item() for image in images] for model in models]
    differ = [n for n, (a, b) in enumerate(zip(*answers, strict=True)) if a != b]
    assert 0 < len(differ) < len(images)
    assert kept["index"].tolist() == differ
    assert torch.equal(kept["images"], images[differ])
    assert kept["answers"].T.tolist() == [[given[n] for n in differ] for given in answers]
    hits = [sum(g == t for g, t in zip(given, truth.tolist(), strict=True)) for given in answers]
    assert kept["right"].tolist() == hits


def test_a_network_that_misses_its_record_is_refused(results, tmp_path):
    for path in results.rglob("*.*"):
        target = tmp_path / path.relative_to(results)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    record = json.loads((tmp_path / f"{NAMES[1]}.json").read_text())
    (epoch,) = record["curve"]
    epoch["accuracy"] += 1
    record |= {"best": epoch, "last": epoch}
    (tmp_path / f"{NAMES[1]}.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"{NAMES[1]} must reach its record's"):
        disagreements.collect(tmp_path, NAMES)
    record["data"]["fingerprint"] = "another"
    (tmp_path / f"{NAMES[1]}.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="must classify the same data"):
        disagreements.collect(tmp_path, NAMES)


def test_images_in_another_order_are_not_the_records(results, monkeypatch):
    sample = datasets.load("mnist-sample")
    other = replace(sample, test=tuple(part.flip(0) for part in sample.test))
    monkeypatch.setitem(datasets.DATASETS, "mnist-sample", lambda: other)
    with pytest.raises(ValueError, match=f"{NAMES[0]} needs the data of its run"):
        disagreements.collect(results, NAMES)


def test_pairs_are_counted_and_tested():
    truth = torch.zeros(12, dtype=torch.int64)
    first = torch.tensor([0] * 9 + [1] * 3)  # wrong on the last three
    second = torch.tensor([1] * 8 + [0] * 2 + [2] * 2)  # right on the ninth and the tenth
    answers = {"a": first, "b": second, "c": first}
    table = disagreements.pairs({name: given == truth for name, given in answers.items()})
    assert table[["first", "second"]].agg("".join, axis=1).tolist() == ["ab", "ac", "bc"]
    assert table["only first"].tolist() == [8, 0, 1]
    assert table["only second"].tolist() == [1, 0, 8]
    assert table["p"].tolist() == pytest.approx(
        [2 * binom.cdf(1, 9, 0.5), 1, 2 * binom.cdf(1, 9, 0.5)]
    )
