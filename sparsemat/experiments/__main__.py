"""The command line: ``python -m sparsemat.experiments run mnist --variant tied``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .configurations import EXPERIMENTS
from .files import RESULTS, RUNS


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 if all is well, 1 if a check fails, 2 on an error, 130 if broken off."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except KeyboardInterrupt:
        print("stopped: the same command with --resume goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    from .runs import run

    record, path = run(
        options.experiment,
        options.variant,
        options.seed,
        options.profile,
        device=options.device,
        devices=options.devices,
        nodes=options.nodes,
        precision=options.precision,
        epochs=options.epochs,
        resume=options.resume,
        overwrite=options.overwrite,
        runs=options.runs,
        results=options.results,
    )
    from .records import result

    metric, shown = record["metric"], result(record)
    if path is not None:  # of several processes one writes
        print(f"{metric} {shown[metric]:.4g} after epoch {shown['epoch']}: {path}")
    return 0


def _baselines(options: argparse.Namespace) -> int:
    from .runs import run_baselines

    record, path = run_baselines(
        options.experiment, options.profile, runs=options.runs, results=options.results
    )
    for name, error in record["errors"].items():
        print(f"{name}: {record['metric']} {error:.4g}")
    print(path)
    return 0


def _list(options: argparse.Namespace) -> int:
    for name, experiment in EXPERIMENTS.items():
        print(name)
        print(f"  variants: {', '.join(experiment.variants)}")
        for profile, made in experiment.profiles.items():
            print(f"  {profile}: {made.dataset}, {made.epochs} epochs of batches of ", end="")
            print(f"{made.batch_size}, {made.optimizer} at {made.learning_rate:g}")
    return 0


def _table(options: argparse.Namespace) -> int:
    from . import records

    found = records.read_all(options.results)
    if not found:
        raise ValueError(f"the folder of records must hold some, got {options.results}")
    frame = records.table(found)
    if options.csv:
        print(frame.to_csv(index=False), end="")
    else:
        print(frame.to_string(index=False, float_format="{:.4g}".format, na_rep=""))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from .verification import verify

    found = verify(options.record, epochs=options.epochs, full=options.full, device=options.device)
    print(f"{options.record}\n{found}")
    return 1 if found.found else 0


def _downloads(options: argparse.Namespace) -> int:
    from . import datasets

    failed = 0
    for url in datasets.addresses():
        reason = datasets.unanswered(url)
        failed += reason is not None
        print(f"{reason or 'answers'}: {url}", flush=True)
    return 1 if failed else 0


def _weights(options: argparse.Namespace) -> int:
    from . import weights

    print(weights.keep(options.record, _checkpoint(options), options.results, options.words))
    return 0


def _checkpoint(options: argparse.Namespace) -> Path:
    from . import checkpoints, records

    profile = records.read(options.record)["profile"]
    return checkpoints.path_of(options.runs, options.record.stem, profile)


def _disagreements(options: argparse.Namespace) -> int:
    from . import disagreements

    print(disagreements.collect(options.results, options.names))
    return 0


def _learned(options: argparse.Namespace) -> int:
    from . import learned

    print(learned.collect(options.results, options.runs, options.names))
    return 0


def _reach(options: argparse.Namespace) -> int:
    from . import reach

    print(reach.collect(options.record, _checkpoint(options), options.results))
    return 0


def _superseded(options: argparse.Namespace) -> int:
    from . import history
    from .files import write_json

    found = history.collect(options.results)
    write_json(options.results / history.FILE, found)
    print(f"{len(found)} superseded runs: {options.results / history.FILE}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparsemat.experiments", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    device = {"default": "auto", "help": "auto, cpu or cuda (default: a GPU if there is one)"}
    results = {"type": Path, "default": RESULTS, "help": "folder of full records"}
    runs = {"type": Path, "default": RUNS}
    runs["help"] = "folder of checkpoints and quick records"

    run = commands.add_parser("run", help="train one variant and write its record")
    run.add_argument("experiment", help="a name that list shows")
    run.add_argument("--variant", default="native")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--profile", default="quick", help="one that list shows (default: quick)")
    run.add_argument(
        "--epochs", type=int, help="stop after so many epochs (default: the profile's)"
    )
    run.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    run.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    run.add_argument("--device", **device)
    run.add_argument("--devices", type=int, default=1, help="processes a machine (default 1)")
    run.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    run.add_argument("--precision", help="of Fabric, such as bf16-mixed (default 32-true)")
    run.add_argument("--runs", **runs)
    run.add_argument("--results", **results)
    run.set_defaults(command=_run)

    baselines = commands.add_parser("baselines", help="forecast or classify without a network")
    baselines.add_argument("experiment", help="a name that list shows")
    baselines.add_argument("--profile", default="quick", help="as for run")
    baselines.add_argument("--runs", **runs)
    baselines.add_argument("--results", **results)
    baselines.set_defaults(command=_baselines)

    listing = commands.add_parser("list", help="show the experiments")
    listing.set_defaults(command=_list)

    table = commands.add_parser("table", help="show the results beside the paper's")
    table.add_argument("--csv", action="store_true", help="as comma-separated values")
    table.add_argument("--results", **results)
    table.set_defaults(command=_table)

    verify = commands.add_parser("verify", help="run a record's first epochs again and compare")
    verify.add_argument("record", type=Path)
    verify.add_argument("--epochs", type=int, default=1, help="how many (default 1)")
    verify.add_argument("--full", action="store_true", help="all epochs, and the weights")
    verify.add_argument("--device", **device)
    verify.set_defaults(command=_verify)

    weights = commands.add_parser("weights", help="keep a run's weights, from its checkpoint")
    weights.add_argument("record", type=Path)
    weights.add_argument("--words", type=int, help="of a text network, keep so many words alone")
    weights.add_argument("--runs", **runs)
    weights.add_argument("--results", **results)
    weights.set_defaults(command=_weights)

    differ = commands.add_parser(
        "disagreements", help="keep the test images on which runs with kept weights disagree"
    )
    differ.add_argument("names", nargs="+", metavar="NAME", help="such as mnist-tied-3")
    differ.add_argument("--results", **results)
    differ.set_defaults(command=_disagreements)

    learned = commands.add_parser(
        "learned", help="keep filters and right answers of image runs, one a variant"
    )
    learned.add_argument("names", nargs="+", metavar="NAME", help="such as cifar10-tied-0")
    learned.add_argument("--runs", **runs)
    learned.add_argument("--results", **results)
    learned.set_defaults(command=_learned)

    reach = commands.add_parser("reach", help="measure how far back a language model looks")
    reach.add_argument("record", type=Path)
    reach.add_argument("--runs", **runs)
    reach.add_argument("--results", **results)
    reach.set_defaults(command=_reach)

    superseded = commands.add_parser("superseded", help="list replaced runs from the git history")
    superseded.add_argument("--results", **results)
    superseded.set_defaults(command=_superseded)

    downloads = commands.add_parser("downloads", help="ask every address of the data sets")
    downloads.set_defaults(command=_downloads)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
