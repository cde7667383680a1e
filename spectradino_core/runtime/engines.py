"""Engines: what runs the network. Arrays in, dense predictions out; nothing here knows of images or of ROS.

An engine is opened from a file by `open_engine`: an ONNX model file runs in ONNX Runtime (CPU, CUDA or TensorRT, chosen
by `device` and said aloud), a training checkpoint runs in torch, which is imported only then.

Letters: H x W the network's input, A anchors (cells of all levels), C box classes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from spectradino_core.runtime.binding import BoundSession
from spectradino_core.runtime.bundle import METADATA_KEY, BundleError, ModelInfo
from spectradino_core.runtime.gpu import explain
from spectradino_core.runtime.network_inputs import blank_input, signature
from spectradino_core.runtime.onnx_file import check_onnx_file
from spectradino_core.runtime.providers import (
    CPU,
    Candidate,
    UnavailableError,
    cache_root,
    candidates,
    engine_cache,
    file_digest,
    prepare_gpu_libraries,
    runtime_version,
    setup_problem,
)
from spectradino_core.runtime.samples import unpack_samples
from spectradino_core.text import printable

__all__ = [
    "DEVICES",
    "Engine",
    "EngineError",
    "OnnxEngine",
    "RawPredictions",
    "candidates_of",
    "open_engine",
    "raw_predictions",
    "warm_up",
]

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "tensorrt")

RawPredictions = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
"""boxes float32 [A, 4] in network pixels, scores float32 [A, C] in 0..1, mask uint8 [H, W] or None.

A model without a detection head has A = C = 0."""


class EngineError(RuntimeError):
    """The engine can't be built or has failed; the message names device, file and remedy."""


class Engine(Protocol):
    """What the pipeline asks of an engine."""

    info: ModelInfo

    @property
    def label(self) -> str:
        """Runtime and device in words, for logs and diagnostics."""
        ...

    @property
    def on_cpu(self) -> bool:
        """Whether it is the CPU that infers."""
        ...

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """One forward pass.

        Args:
            inputs: the arrays of `network_inputs.signature`, in its order; `info.inputs` says in which form.

        Raises:
            EngineError: it failed on this frame.
        """
        ...


def open_engine(
    path: str | Path, device: str = "auto", threads: int = 0, streams: str = "both", gpu_id: int = 0
) -> Engine:
    """Opens a model file (`.onnx`) or a checkpoint (`.safetensors`).

    What runs on a GPU is held against the CPU first, see `gate`; what differs is not used.

    Args:
        path: the file.
        device: one of `DEVICES`; "auto" takes CUDA where it is to be had and agrees with the CPU, else the CPU.
        threads: CPU threads of the engine; 0 leaves it to the runtime.
        streams: those that its network must take, one of `bundle.STREAMS`.
        gpu_id: which GPU, of those that the process sees.

    Raises:
        BundleError: the file is missing, damaged, not a SpectraDINO model, or for other streams.
        EngineError: the device asked for is not to be had, or gives other answers than the CPU.
    """
    path = Path(path)
    if device not in DEVICES:
        raise EngineError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if not os.path.lexists(path):
        raise BundleError(f"model file {printable(str(path))} does not exist: check the parameter 'model'")
    if path.suffix == ".safetensors":
        return _open_checkpoint(path, device, threads, gpu_id)
    return _open_onnx(path, device, threads, streams, gpu_id)


def _open_checkpoint(path: Path, device: str, threads: int, gpu_id: int) -> Engine:
    from spectradino_core.runtime.gate import drawn_inputs, first_that_agrees
    from spectradino_core.torch_engine import TorchEngine, cuda_is_available

    if device == "cpu" or (device == "auto" and not cuda_is_available()):
        return TorchEngine(path, "cpu", threads)
    if device == "tensorrt" or not cuda_is_available():
        raise EngineError(f"a checkpoint can't run on '{device}' here: set device to 'cpu', or export it to ONNX")
    on_cpu = TorchEngine(path, "cpu", threads)
    found = [Candidate("cuda"), *([CPU] if device == "auto" else [])]
    return first_that_agrees(
        found, lambda one: TorchEngine(path, f"cuda:{gpu_id}", threads), lambda: on_cpu, drawn_inputs(on_cpu.info)
    )


def _open_onnx(path: Path, device: str, threads: int, streams: str, gpu_id: int) -> Engine:
    # They judge and build engines, so they know this file.
    from spectradino_core.runtime.engine_build import BuildError, build
    from spectradino_core.runtime.gate import first_that_agrees, sample_inputs

    on_cpu = OnnxEngine(path, CPU, threads)
    _check_streams(on_cpu.info, streams, path)
    found = candidates_of(path, device, on_cpu.info, gpu_id)
    if found == [CPU]:
        return on_cpu

    def open_one(one: Candidate) -> Engine:
        try:
            build(path, one, gpu_id)
        except (BuildError, UnavailableError) as error:
            raise EngineError(str(error)) from None
        return OnnxEngine(path, one, threads)

    return first_that_agrees(found, open_one, lambda: on_cpu, sample_inputs(on_cpu), _remembered(on_cpu))


def _remembered(on_cpu: OnnxEngine) -> Engine:
    """The CPU's engine whose answers on the samples are kept between starts, where there is a place for them."""
    from spectradino_core.runtime.remembered import RememberedEngine

    try:
        key = f"{file_digest(on_cpu.path)}-ort{runtime_version()}"
        return RememberedEngine(on_cpu, cache_root() / "parity", key)
    except UnavailableError:
        return on_cpu


def _check_streams(info: ModelInfo, streams: str, path: Path) -> None:
    if info.streams == streams:
        return
    if streams != "both":
        raise BundleError(f"{path} takes {info.streams!r}, not the {streams} camera alone: export it again")
    raise BundleError(
        f"{path} takes the {info.streams} camera alone: give the model file of both that it was exported beside; this "
        "one is then used while the other camera is lost"
    )


def warm_up(engine: Engine) -> float:
    """One pass over empty input, which also shows that the engine works. Returns its milliseconds.

    Raises:
        EngineError: it does not.
        BundleError: its results are of other classes than the model's description names.
    """
    info, blank = engine.info, blank_input(engine.info)
    start = perf_counter()
    _boxes, scores, mask = engine.run(*blank)
    took_ms = (perf_counter() - start) * 1e3
    found, named = scores.shape[1], len(info.box_classes)
    if found != named or (mask is None) is bool(info.mask_classes):
        raise BundleError(
            f"model {info.name}: its graph gives scores of {found} classes and {'no' if mask is None else 'a'} mask, "
            f"its description names {named} detection classes and {len(info.mask_classes)} mask classes; "
            "export the model again"
        )
    return took_ms


class OnnxEngine:
    """An exported model in ONNX Runtime."""

    def __init__(self, path: str | Path, device: str | Candidate = "auto", threads: int = 0) -> None:
        """
        Args:
            path: the model file.
            device: one of `DEVICES`, of whose candidates the first is taken without being compared with the CPU; or one
                candidate of `providers`.
            threads: CPU threads; 0 leaves it to ONNX Runtime.

        Raises:
            BundleError: the file is damaged or not a SpectraDINO model.
            EngineError: ONNX Runtime or the device is not to be had.
        """
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise EngineError(
                f"ONNX Runtime is not installed ({error}): pip install onnxruntime, or onnxruntime-gpu for CUDA and "
                "TensorRT"
            ) from None
        path = Path(path)
        check_onnx_file(path)
        chosen = device if isinstance(device, Candidate) else candidates_of(path, device)[0]
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what it writes to stderr is not for users and quotes the file; errors raise
        if threads:
            options.intra_op_num_threads = threads
        if chosen.device != "cpu":
            prepare_gpu_libraries()
        # The worker has nothing else to do while it waits for a frame: threads that spin would burn a core for nothing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with _engine_cache(chosen, path):
            try:
                session = _session(path, options, chosen.providers)
            except Exception as error:  # ONNX Runtime raises types of its own that share no base class
                if chosen.device != "cpu":
                    raise EngineError(
                        f"{chosen} could not be set up: {_with_remedy(chosen.device, _first_line(error))}"
                    ) from None
                raise BundleError(
                    f"{path} is not a readable ONNX model (truncated or damaged?): {_first_line(error)}"
                ) from None
        self._metadata = session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in self._metadata:
            raise BundleError(f"{path} is an ONNX model but not a SpectraDINO one: make it with 'spectradino export'")
        self.info = ModelInfo.from_json(self._metadata[METADATA_KEY], path)
        self._check_signature(session, path)
        used = session.get_providers()
        if used[0] != chosen.needs:
            remedy = setup_problem(chosen.device, "") or (
                "check the GPU driver and that onnxruntime-gpu fits the installed CUDA"
            )
            raise EngineError(
                f"device '{chosen.device}' was asked for but ONNX Runtime fell back to {used[0]}: {remedy}; or set "
                "device to 'cpu'"
            )
        self.path = path
        self._inputs = list(signature(self.info))
        self._session = session
        self._bound: BoundSession | None = None
        if chosen.device != "cpu":
            session, self._bound = _bound_session(path, options, chosen, session)
            self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self.on_cpu = chosen.device == "cpu"
        alone = "" if self.info.streams == "both" else f", {self.info.streams} alone"
        self.label = f"ONNX Runtime {ort.__version__}{alone} on {used[0].removesuffix('ExecutionProvider')}"
        if chosen.device == "tensorrt":
            self.label += f" ({chosen.precision})"
        log.info("%s: %s, input %dx%d", path.name, self.label, *self.info.input_size)

    def samples(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The model file's sample pairs, see `samples`."""
        return unpack_samples(self._metadata, self.info, self.path)

    def _check_signature(self, session: Any, path: Path) -> None:
        wanted = {name: [*shape] for name, (_, shape) in signature(self.info).items()}
        found = {node.name: node.shape for node in session.get_inputs()}
        if found != wanted:
            raise BundleError(
                f"{path}: its graph takes {printable(str(found), 500)}, its description says {wanted}; export the "
                "model again"
            )

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine`."""
        try:
            if self._bound is not None:
                results = self._bound.run(self._inputs, inputs)
            else:
                given = dict(zip(self._inputs, inputs, strict=True))
                results = dict(zip(self._outputs, self._session.run(None, given), strict=True))
        except Exception as error:
            text = _first_line(error)
            remedy = "" if self.on_cpu else explain(text)
            raise EngineError(f"{self.label} failed on a frame: {text}{remedy and f': {remedy}'}") from error
        return raw_predictions(results)


def _session(path: Path, options: Any, providers: Sequence[tuple[str, dict[str, Any]]]) -> Any:
    import onnxruntime as ort

    # Left to itself a session that fails opens itself anew on other providers, and reports it to nobody.
    session = ort.InferenceSession(str(path), sess_options=options, providers=list(providers), enable_fallback=0)
    session.disable_fallback()  # ONNX Runtime before 1.18 passes over the argument
    return session


def _bound_session(path: Path, options: Any, chosen: Candidate, session: Any) -> tuple[Any, BoundSession | None]:
    """The session with its memory on the GPU, as a CUDA graph where CUDA runs every node.

    Neither changes an answer, and the comparison with the CPU sees both: what can't be had is done without.
    """
    gpu_id = int(dict(chosen.providers)[chosen.needs].get("device_id", "0"))
    if chosen.device == "cuda":
        (name, provider), *_ = chosen.providers
        try:
            # Without the CPU's provider a node that only the CPU runs is an error: a graph could not capture it.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            captured = _session(path, options, [(name, provider | {"enable_cuda_graph": "1"})])
            if captured.get_providers()[0] == chosen.needs:
                return captured, BoundSession(captured, "cuda", gpu_id)
        except Exception as error:  # of ONNX Runtime, whose classes share no base
            log.debug("no CUDA graph for %s: %s", path.name, _first_line(error))
    try:
        return session, BoundSession(session, "cuda", gpu_id)
    except Exception as error:
        log.debug("no fixed memory for %s: %s", path.name, _first_line(error))
        return session, None


def raw_predictions(outputs: Mapping[str, np.ndarray]) -> RawPredictions:
    """A graph's outputs by name as an engine gives them; boxes that the model has no head for are none."""
    if "boxes" not in outputs:
        return np.zeros((0, 4), np.float32), np.zeros((0, 0), np.float32), outputs["mask"]
    return outputs["boxes"], outputs["scores"], outputs.get("mask")


@contextmanager
def _engine_cache(candidate: Candidate, path: Path) -> Iterator[None]:
    try:
        with engine_cache(candidate, path):
            yield
    except UnavailableError as error:
        raise EngineError(str(error)) from None


def candidates_of(path: Path, device: str, info: ModelInfo | None = None, gpu_id: int = 0) -> list[Candidate]:
    """`providers.candidates` of this installation.

    Raises:
        EngineError: as it raises `UnavailableError`.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        return [CPU]  # opening it says what is missing
    try:
        return candidates(device, ort.get_available_providers(), path, info, gpu_id)
    except UnavailableError as error:
        raise EngineError(str(error)) from None


def _with_remedy(device: str, text: str) -> str:
    remedy = setup_problem(device, text)
    return f"{text}; {remedy}" if remedy else text


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return printable(text.splitlines()[0], 2000) if text else type(error).__name__
