"""Published schemes: what is recorded of them is found again wherever their files are at hand."""

import json

import numpy as np
import pytest
import torch

from sparsemat.experiments import schemes
from sparsemat.experiments.datasets import folder
from sparsemat.structured import TileBases, read_sms


def write(folder, bases):
    paths = [folder / f"{name}.sms" for name in schemes.MAPS]
    for path, matrix in zip(paths, (bases.encode, bases.encode_weight, bases.decode), strict=True):
        matrix = matrix.detach().numpy()
        lines = [f"{i + 1} {j + 1} {v:g}" for (i, j), v in np.ndenumerate(matrix) if v]
        path.write_text("\n".join([f"{matrix.shape[0]} {matrix.shape[1]} R", *lines, "0 0 0"]))
    return paths


def test_an_exact_scheme_passes_and_one_wrong_sign_does_not(tmp_path):
    paths = write(tmp_path, TileBases.strassen())
    found = schemes.examine(paths)
    assert (found["products"], found["equations"], found["failing"]) == (7, 64, 0)
    assert found["sizes"] == ["1"]
    assert found["nonzeros"] == [12, 12, 12]
    assert found["cancellation"] == pytest.approx(4)
    assert found["largest error on integers"] == 0
    text = paths[0].read_text()
    paths[0].write_text(text.replace("1 1 1", "1 1 -1", 1))
    found = schemes.examine(paths)
    assert found["failing"] > 0
    assert found["largest error on integers"] > 0


def test_the_record_is_of_the_published_files_and_exact():
    record = json.loads(schemes.RECORD.read_text())
    assert list(record) == list(schemes.SCHEMES)
    for name, found in record.items():
        assert found["sha256"] == [file.sha256 for file in schemes.SCHEMES[name]]
        assert (found["products"], found["equations"], found["failing"]) == (48, 4096, 0)
        assert found["largest error on integers"] == 0


@pytest.mark.parametrize("name", schemes.SCHEMES)
def test_the_record_is_found_again(name):
    paths = [folder() / file.path for file in schemes.SCHEMES[name]]
    if not all(path.exists() for path in paths):
        pytest.skip("the published files are not in the data folder")
    recorded = json.loads(schemes.RECORD.read_text())[name]
    assert schemes.examine(paths).items() <= recorded.items()
    bases = schemes.published(name).double()
    assert bases.error() == pytest.approx(0, abs=1e-12)
    assert bases.encode.dtype == torch.float64
    assert not (read_sms(paths[0]).astype(float) - bases.encode.detach().numpy()).any()
