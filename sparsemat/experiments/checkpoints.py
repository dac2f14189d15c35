"""Checkpoints: one file at the end of every epoch, read without pickle's code."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from .files import atomic
from .records import differences


def path_of(folder: Path, name: str, profile: str) -> Path:
    """The checkpoint's file of a run.

    Args:
        folder: Folder of checkpoints.
        name: What the run is called, as :func:`records.name` has it.
        profile: Its profile.
    """
    return folder / f"{name}-{profile}.ckpt"


def save(path: Path, identity: dict, stateful: dict, curve: list[dict], peak: float) -> None:
    """Replace the file by one that holds all that the rest of a run depends on.

    Args:
        path: The file.
        identity: What tells the run from others.
        stateful: Model, optimiser and schedule, by name.
        curve: The epochs so far.
        peak: Most memory in use so far, in mebibytes.

    Raises:
        OSError: The file cannot be written; the old one stays.
    """
    state = {name: part.state_dict() for name, part in stateful.items()}
    state |= {"identity": identity, "curve": curve, "peak": peak}
    saved = io.BytesIO()
    torch.save(state, saved)
    with atomic(path) as partial:  # a full disk is an OSError here, and not in torch.save
        partial.write_bytes(saved.getbuffer())


def read(path: Path, identity: dict | None = None) -> dict | None:
    """The state that :func:`save` wrote, if there is one.

    Args:
        path: The file.
        identity: That of the run that wants to go on from it; None takes any.

    Raises:
        ValueError: It is damaged, or belongs to another run.
    """
    if not path.exists():
        return None
    advice = "delete it, or run without resuming"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # tensors and numbers only
        kept = state["identity"]
    except OSError:
        raise
    except Exception as error:  # what is damaged fails in any way
        raise ValueError(
            f"a checkpoint must be whole, but {path} is not ({error}): {advice}"
        ) from error
    if differ := identity and differences(kept, identity):
        raise ValueError(
            f"the checkpoint must come from the same run, but {path} does not: "
            f"{'; '.join(differ)}: {advice}"
        )
    return state
