"""Runs of one epoch, for tests of what is kept of runs."""

from sparsemat.experiments import runs


def short_runs(folder, experiment, names):
    """Train one epoch of each variant into the folder; ``names`` are the stems of its records."""
    for variant, name in names.items():
        _, path = runs.run(experiment, variant, device="cpu", epochs=1, runs=folder)
        assert path.stem == name
    return folder
