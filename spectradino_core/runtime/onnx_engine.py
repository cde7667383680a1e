"""ONNX Runtime engine: CPU, CUDA and TensorRT."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.runtime.binding import BoundSession
from spectradino_core.runtime.bundle import METADATA_KEY, BundleError, ModelInfo
from spectradino_core.runtime.engine import (
    FEATURES,
    EngineError,
    RawPredictions,
    check_outputs,
    raw_predictions,
    streams_label,
)
from spectradino_core.runtime.gpu import explain
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.onnx_file import check_onnx_file
from spectradino_core.runtime.providers import (
    CPU,
    EngineCandidate,
    UnavailableError,
    candidates,
    engine_cache,
    prepare_gpu_libraries,
    setup_problem,
)
from spectradino_core.runtime.samples import unpack_samples
from spectradino_core.text import printable

__all__ = ["OnnxEngine", "candidates_of"]

_OUTPUTS = frozenset(("boxes", "scores", "mask"))

log = logging.getLogger(__name__)


class OnnxEngine:
    """`Engine` of an exported model in ONNX Runtime.

    Attributes:
        ir_features: infrared features of the last pass, float32 of shape `info.features`; None without that output.
    """

    def __init__(self, path: str | Path, device: str | EngineCandidate = "auto", threads: int = 0) -> None:
        """
        Args:
            path: model file.
            device: one of `DEVICES`, whose first candidate is taken without a parity check; or one candidate of
                `providers`.
            threads: CPU threads; 0 leaves it to ONNX Runtime.

        Raises:
            BundleError: the file is damaged or not a SpectraDINO model.
            EngineError: ONNX Runtime or the device is not available.
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
        chosen = device if isinstance(device, EngineCandidate) else candidates_of(path, device)[0]
        options = ort.SessionOptions()
        options.log_severity_level = 4  # its stderr output is not for users and quotes the file; errors raise
        if threads:
            options.intra_op_num_threads = threads
        if chosen.device != "cpu":
            prepare_gpu_libraries()
        if chosen.device == "cpu":
            # One plan for all blocks of a pass nearly doubles their memory and is no faster.
            options.enable_mem_pattern = False
        # Threads that spin while waiting for the next frame would keep a core busy for nothing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with _engine_cache(chosen, path):
            try:
                session = _session(path, options, chosen.providers)
            except Exception as error:  # ONNX Runtime's exception types share no base class
                if chosen.device != "cpu":
                    raise EngineError(
                        f"{chosen} could not be set up: {_with_remedy(chosen.device, _first_line(error))}"
                    ) from None
                raise BundleError(
                    f"{path} is not a readable ONNX model (truncated or damaged?): {_first_line(error)}"
                ) from None
        self._metadata = session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in self._metadata:
            raise BundleError(f"{path} is an ONNX model but not of SpectraDINO: create it with 'spectradino export'")
        self.info = ModelInfo.from_json(self._metadata[METADATA_KEY], path)
        self._check_signature(session, path)
        converted = self.info.provenance.get("converted")
        if isinstance(converted, dict) and converted.get("precision") == "int8" and "weight_bits" not in converted:
            log.warning(
                "%s has 8-bit weights whose products saturate on x86 CPUs without VNNI: convert it again",
                path.name,
            )
        used = session.get_providers()
        if used[0] != chosen.needs:
            remedy = setup_problem(chosen.device, "") or (
                "check the GPU driver and that onnxruntime-gpu fits the installed CUDA"
            )
            raise EngineError(
                f"device '{chosen.device}' was requested but ONNX Runtime fell back to {used[0]}: {remedy}; or set "
                "device to 'cpu'"
            )
        self.path = path
        self.ir_features: np.ndarray | None = None
        self._inputs = list(signature(self.info))
        self._session = session
        self._bound: BoundSession | None = None
        if chosen.device != "cpu":
            session, self._bound = _bound_session(path, options, chosen, session)
            self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self.on_cpu = chosen.device == "cpu"
        on = used[0].removesuffix("ExecutionProvider")
        self.label = f"ONNX Runtime {ort.__version__}{streams_label(self.info)} on {on}"
        if chosen.device == "tensorrt":
            self.label += f" ({chosen.precision})"
        log.info("%s: %s, input %dx%d", path.name, self.label, *self.info.input_size)

    def samples(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the model file's sample pairs, see `samples`."""
        return unpack_samples(self._metadata, self.info, self.path)

    def _check_signature(self, session: Any, path: Path) -> None:
        wanted = {name: [*shape] for name, (_, shape) in signature(self.info).items()}
        found = {node.name: node.shape for node in session.get_inputs()}
        if found != wanted:
            raise BundleError(
                f"{path}: its graph takes {printable(str(found), 500)}, but its description says {wanted}; export the "
                "model again"
            )
        outputs = {node.name: node.shape for node in session.get_outputs()}
        features = outputs.pop(FEATURES, [])
        if features != (list(self.info.features) if self.info.streams == "both" else []):
            raise BundleError(
                f"{path}: its graph gives infrared features {printable(str(features), 200)}, its description says "
                f"{list(self.info.features)}; export the model again"
            )
        scores = outputs.get("scores", [0, 0])
        if outputs.keys() - _OUTPUTS or ("boxes" in outputs) is not ("scores" in outputs) or len(scores) != 2:
            raise BundleError(
                f"{path}: its graph outputs {printable(str(outputs), 500)}, not boxes [A, 4] with scores [A, C], and a "
                "mask; export the model again"
            )
        check_outputs(self.info, scores[1], "mask" in outputs)

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
        self.ir_features = results.get(FEATURES)
        return raw_predictions(results)


def _session(path: Path, options: Any, providers: Sequence[tuple[str, dict[str, Any]]]) -> Any:
    import onnxruntime as ort

    # By default a session that fails silently reopens itself on other providers.
    session = ort.InferenceSession(str(path), sess_options=options, providers=list(providers), enable_fallback=0)
    session.disable_fallback()  # ONNX Runtime before 1.18 ignores the argument
    return session


def _bound_session(path: Path, options: Any, chosen: EngineCandidate, session: Any) -> tuple[Any, BoundSession | None]:
    """Bind a session to fixed GPU memory, as a CUDA graph if CUDA runs every node.

    Neither changes a result, and the parity check covers both: each is skipped if it is not available.
    """
    gpu_id = int(dict(chosen.providers)[chosen.needs].get("device_id", "0"))
    if chosen.device == "cuda":
        (name, provider), *_ = chosen.providers
        try:
            # With the CPU fallback disabled, a node that only the CPU can run is an error: a graph cannot capture it.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            captured = _session(path, options, [(name, provider | {"enable_cuda_graph": "1"})])
            if captured.get_providers()[0] == chosen.needs:
                return captured, BoundSession(captured, "cuda", gpu_id)
        except Exception as error:  # of ONNX Runtime, see above
            log.debug("no CUDA graph for %s: %s", path.name, _first_line(error))
    try:
        return session, BoundSession(session, "cuda", gpu_id)
    except Exception as error:
        log.debug("no fixed GPU memory for %s: %s", path.name, _first_line(error))
        return session, None


@contextmanager
def _engine_cache(candidate: EngineCandidate, path: Path) -> Iterator[None]:
    try:
        with engine_cache(candidate, path):
            yield
    except UnavailableError as error:
        raise EngineError(str(error)) from None


def candidates_of(path: Path, device: str, info: ModelInfo | None = None, gpu_id: int = 0) -> list[EngineCandidate]:
    """Return `providers.candidates` of this installation.

    Raises:
        EngineError: where `providers.candidates` raises `UnavailableError`.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        return [CPU]  # opening it reports what is missing
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
