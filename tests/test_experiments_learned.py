"""What image runs have learned: the filters are those of the networks, the answers the record's."""

import json
from itertools import product

import pytest
import torch
from short_runs import short_runs

from sparsemat.experiments import datasets, learned, records, weights
from sparsemat.experiments.__main__ import main

NAMES = {v: f"mnist-{v}-0-1-epochs" for v in ("native", "tied", "untied")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of short runs, one a variant."""
    return short_runs(tmp_path_factory.mktemp("runs"), "mnist", NAMES)


@pytest.fixture(scope="module")
def nets(trained):
    """Their networks, by variant."""
    found = {}
    for variant, name in NAMES.items():
        record = records.read(trained / f"{name}.json")
        found[variant] = weights.restored(record, trained / f"{name}-quick.ckpt").eval()
    return found


@pytest.fixture(scope="module")
def kept(trained, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    arguments = ["--runs", str(trained), "--results", str(results)]
    assert main(["learned", *NAMES.values(), *arguments]) == 0
    return learned.read(results, "mnist")


def test_the_answers_are_the_networks(trained, nets, kept):
    images, truth = datasets.load("mnist-sample").test
    for variant, name in NAMES.items():
        answers = torch.stack([nets[variant](image[None]).argmax() for image in images])
        assert torch.equal(kept.right[variant], answers == truth)
        assert kept.records[variant] == json.loads((trained / f"{name}.json").read_text())


def test_the_filters_are_those_of_the_first_convolution(nets, kept):
    for variant in ("native", "tied"):
        assert torch.equal(kept.filters[variant], nets[variant].conv1.weight)
    W = nets["untied"].conv1.matrix().to_dense().detach().reshape(16, 28, 28, 28, 28)
    assert torch.equal(kept.filters["untied, a pixel"][:, 0], W[:, 14, 14, 13:16, 13:16])
    ends = range(28)
    for c, a, b in product((0, 15), (-1, 0, 1), (-1, 0, 1)):
        taps = [
            W[c, i, j, i + a, j + b] for i in ends if i + a in ends for j in ends if j + b in ends
        ]
        mean = torch.stack(taps).mean()
        torch.testing.assert_close(kept.filters["untied, mean"][c, 0, a + 1, b + 1], mean)
    assert list(kept.distances) == ["conv1", "conv2", "conv3"]
    assert all(0 < distance < 1 for distance in kept.distances.values())


def test_runs_that_do_not_belong_together_are_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="each run must have a variant of its own"):
        learned.collect(tmp_path, trained, [NAMES["tied"], NAMES["tied"]])
    for name in (NAMES["native"], NAMES["tied"]):
        for path in trained.glob(f"{name}*"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    record = json.loads((tmp_path / f"{NAMES['tied']}.json").read_text())
    record["data"]["fingerprint"] = "another"
    (tmp_path / f"{NAMES['tied']}.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="must classify the same data"):
        learned.collect(tmp_path, tmp_path, [NAMES["native"], NAMES["tied"]])
    with pytest.raises(ValueError, match=f"{NAMES['tied']} needs the data of its run, another"):
        learned.collect(tmp_path, tmp_path, [NAMES["tied"]])
    record["data"]["fingerprint"] = datasets.load("mnist-sample").fingerprint
    (epoch,) = record["curve"]
    epoch["accuracy"] += 1
    record |= {"best": epoch, "last": epoch}
    (tmp_path / f"{NAMES['tied']}.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"{NAMES['tied']} must reach its record's"):
        learned.collect(tmp_path, tmp_path, [NAMES["tied"]])
