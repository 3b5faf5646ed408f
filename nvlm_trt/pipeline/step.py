"""A step of a build: what it reads, what it leaves, one ``run``.

A step is data and a function. It knows no other step: it names artefacts below the deployment's folder, and the builder
finds out from the names who comes first. It declares everything that can change its outcome, so that one hash over the
declaration (see ``keys``) tells whether it must run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["Advance", "Step", "StepContext"]

Advance = Callable[[int, int, str], None]
"""Called by a running step with: units done, units in all, the unit's name ("B" for bytes)."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a running step is given. It reads below ``out`` and writes below ``into``, laid out alike.

    The builder renames what lies in ``into`` to its place once the step has returned, so a step may write files simply.
    ``scratch`` is a folder that a killed run finds again, for work too long to be lost; it goes once the step is done.
    ``note`` takes a sentence on what was not as expected.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    out: Path
    into: Path
    scratch: Path
    advance: Advance
    note: Callable[[str], None]


def _nothing(_recipe: Recipe) -> str | None:
    return None


def _no_files(_recipe: Recipe) -> Mapping[str, Path]:
    return {}


def _no_command(_recipe: Recipe, _config: NvlmConfig) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Step:
    """One step.

    ``tensors`` are prefixes of checkpoint tensor names; the files that hold them are inputs. ``documents`` are names
    of small files beside them, or patterns of names. ``artefacts`` and ``outputs`` are files or folders below the
    deployment's folder. ``resources`` are paths below the package's data folders, the folder's name first. ``values``
    are dotted keys of the recipe. ``files`` are the user's own, by a name that does not tell where they lie. ``code``
    names packages or modules below ``nvlm_trt`` whose source, with all that it imports, decides the outcome;
    ``libraries`` the distributions whose version does. ``lacking`` says what this machine lacks, or nothing;
    ``command`` does the step inside the recipe's container, where one command line can.
    """

    name: str
    run: Callable[[StepContext], None]
    outputs: tuple[str, ...]
    tensors: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    artefacts: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    files: Callable[[Recipe], Mapping[str, Path]] = _no_files
    code: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    lacking: Callable[[Recipe], str | None] = _nothing
    command: Callable[[Recipe, NvlmConfig], tuple[str, ...]] = _no_command
