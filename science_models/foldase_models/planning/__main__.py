"""``python -m foldase_models.planning``: the plan of a prediction as a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from foldase_models.errors import ModelError
from foldase_models.planning.configs import read_config
from foldase_models.planning.hardware import GIB, Hardware
from foldase_models.planning.inference import plan_inference
from foldase_models.planning.plan import InferencePlan


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m foldase_models.planning",
        description="Say how a prediction would fit into memory, without building the model.",
    )
    add = parser.add_argument
    add("model", help="a published model (esmfold_v1, model_1 to model_5_ptm), or a folder with config.json")
    add("residues", type=int, help="of all chains together")
    add("--msa-depth", type=int, default=1, metavar="ROWS", help="of the alignment, the query included")
    add("--templates", type=int, default=0, help="known structures that are given")
    add("--samples", type=int, default=1, help="predictions, one after the other")
    add("--recycles", type=int, help="passes before the last one; the model's own number if not given")
    add("--ram", type=float, required=True, metavar="GIB", help="main memory of the process")
    add("--gpu", type=float, default=0.0, metavar="GIB", help="memory of the GPU; without, the CPU computes")
    add("--cores", type=float, default=1.0, help="of the CPU")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="of weights and representations")
    add("--correction", type=float, help="measured over predicted peak of earlier runs")
    add("--frugality", type=int, default=0, help="plans more frugal than the first that fits")
    add("--json", action="store_true", help="print the plan as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a plan; 1 where there is none, with the reason on standard error."""
    given = _parser().parse_args(arguments)
    try:
        plan = _plan(given)
    except ModelError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write((json.dumps(plan.to_json(), indent=2) if given.json else plan.explain()) + "\n")
    return 0


def _plan(given: argparse.Namespace) -> InferencePlan:
    return plan_inference(
        read_config(given.model, Path(given.model)),
        given.residues,
        given.msa_depth,
        given.samples,
        Hardware(ram_bytes=int(given.ram * GIB), gpu_bytes=int(given.gpu * GIB), cores=given.cores),
        given.correction,
        given.frugality,
        dtype=given.dtype,
        recycles=given.recycles,
        templates=given.templates,
    )


if __name__ == "__main__":
    sys.exit(main())
