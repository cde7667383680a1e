"""Whether a GPU serves and trains as it should: every check that only a GPU can show, in at most ten minutes, one page.

    python -m benchmarks.gpu_acceptance --out acceptance

writes `acceptance/README.md` and exits with 1 if a check failed. `--device cpu` runs the checks that need no GPU, as
the tests do; the others are then listed as not run. Start it on a machine where nothing else uses the GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.experiment import ROOT, parser_of, run_main
from benchmarks.gpu_acceptance import serving, training
from spectradino_core.bench.machine import describe
from spectradino_core.evaluation.page import markdown_table
from spectradino_core.files import write_file
from spectradino_core.runtime.gpu import driver_version, gpu_name, tensorrt_version

MODEL = ROOT / "models" / "lwir_box.onnx"


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: as in `--only`.
        question: in one line.
        run: (device, model file, scratch folder) to its findings in one line; raises AssertionError with the failure.
        needs_gpu: meaningless on a CPU.
    """

    name: str
    question: str
    run: Callable[[str, Path, Path], str]
    needs_gpu: bool = False


@dataclass(frozen=True)
class Result:
    """Result of a check: "passed", "failed" or "not run", its findings, and its seconds."""

    check: Check
    outcome: str
    findings: str
    seconds: float = 0.0


CHECKS = (
    Check("providers", "Which provider of ONNX Runtime runs the nodes?", serving.check_placement),
    Check("parity", "Do answers agree with the CPU's, with and without TF32?", serving.check_parity),
    Check("precisions", "Do fp16 and int8 files serve where they should, and how fast?", serving.check_precisions),
    Check("tensorrt", "Is TensorRT's engine built once, and taken from the cache?", serving.check_tensorrt, True),
    Check("stale", "Does each frame get the answer of its own input?", serving.check_stale_inputs),
    Check("lost", "Does a process outlive a poisoned CUDA context?", serving.check_lost_gpu, True),
    Check("resume", "Does a killed fine-tuning run resume, also with fp16?", training.check_resume),
    Check("alignment", "Do pretraining with fp16 and with infrared alignment run?", training.check_pretraining),
    Check("transfer", "Do page-locked batches of bytes become the CPU's images?", training.check_transfer),
    Check("sharding", "Do two processes train with sharded parameters in bf16?", training.check_sharding),
    Check("host_syncs", "How often does a training step make the host wait?", training.check_host_syncs, True),
    Check("speed", "How fast are both streams and a training step?", training.check_speed, True),
)


def run_checks(checks: Sequence[Check], device: str, model: Path, scratch: Path) -> list[Result]:
    """Run checks one after another; a failure does not stop the rest."""
    results = []
    for check in checks:
        if check.needs_gpu and device == "cpu":
            results.append(Result(check, "not run", "needs a GPU"))
            continue
        folder = scratch / check.name
        folder.mkdir(parents=True, exist_ok=True)
        start = perf_counter()
        try:
            outcome, findings = "passed", check.run(device, model, folder)
        except training.NotRunError as reason:
            outcome, findings = "not run", str(reason)
        except Exception as error:  # of a driver, a library or an assertion: each is a finding
            outcome, findings = "failed", f"{type(error).__name__}: {error}"
        results.append(Result(check, outcome, findings, perf_counter() - start))
        print(f"{outcome:8} {check.name}: {findings.splitlines()[0] if findings else ''}", flush=True)
    return results


def page(results: Sequence[Result]) -> str:
    """Return the results as one page of Markdown."""
    major, minor = tensorrt_version()
    machine = describe() | {
        "GPU": gpu_name() or "none",
        "driver's CUDA": driver_version(),
        "TensorRT": f"{major}.{minor}" if major else "not found",
    }
    lines = ["# GPU acceptance", "", "`python -m benchmarks.gpu_acceptance`", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    rows = []
    for one in results:
        findings = " ".join(one.findings.replace("|", "/").split())[:1500]
        rows.append((one.check.name, one.outcome, f"{one.seconds:.0f}", one.check.question, findings))
    return "\n".join([*lines, "", markdown_table(["check", "outcome", "s", "question", "findings"], rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and return the exit code: 0 if none failed and at least one ran."""
    parser = parser_of("gpu_acceptance", __doc__, Path("acceptance_out"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="default: %(default)s")
    parser.add_argument("--model", type=Path, default=MODEL, help="model file (default: the bundled LWIR model)")
    names = [check.name for check in CHECKS]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="CHECK", help=f"of {', '.join(names)}"
    )
    options = parser.parse_args(arguments)
    if not options.model.is_file():
        parser.error(f"model file {options.model} does not exist")
    with tempfile.TemporaryDirectory(prefix="acceptance-") as scratch:
        chosen = [check for check in CHECKS if check.name in options.only]
        results = run_checks(chosen, options.device, options.model, Path(scratch))
    write_file(options.out / "README.md", page(results))
    print(f"wrote {options.out / 'README.md'}")
    outcomes = {one.outcome for one in results}
    return 1 if "failed" in outcomes or "passed" not in outcomes else 0


if __name__ == "__main__":
    run_main(main)
