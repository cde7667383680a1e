"""ONNX Runtime engine: CPU, CUDA and TensorRT."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.imports import import_problem
from spectradino_core.runtime.bundle import METADATA_KEY, BundleError, ModelInfo
from spectradino_core.runtime.engine import (
    FEATURES,
    EngineError,
    RawPredictions,
    check_outputs,
    raw_predictions,
    streams_label,
)
from spectradino_core.runtime.gpu import explain, page_locked
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.onnx_file import check_onnx_file
from spectradino_core.runtime.providers import (
    CPU,
    EngineCandidate,
    candidates,
    conversion,
    engine_cache,
    file_precision,
    prepare_gpu_libraries,
    setup_problem,
)
from spectradino_core.text import printable

_OUTPUTS = frozenset(("boxes", "scores", "mask"))
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(int64)": np.int64}

log = logging.getLogger(__name__)


class OnnxEngine:
    """`Engine` of an exported model in ONNX Runtime.

    Attributes:
        metadata: of the file.
        ir_features: infrared features of the last pass, float32 of shape `info.features`; None without that output.
    """

    def __init__(self, path: str | Path, device: str | EngineCandidate = "auto", threads: int = 0) -> None:
        """Open a model file on a device, one of `DEVICES`, without a parity check, or on a candidate of `providers`.

        Raises:
            BundleError: the file is damaged or not a SpectraDINO model.
            EngineError: ONNX Runtime or the device is not available.
        """
        try:
            import onnxruntime as ort
        except ModuleNotFoundError as error:
            raise EngineError(
                f"ONNX Runtime is not installed ({error}): pip install onnxruntime, or onnxruntime-gpu for CUDA and "
                "TensorRT"
            ) from None
        except ImportError as error:
            raise EngineError(import_problem(error)) from None
        path = Path(path)
        check_onnx_file(path)
        chosen = device if isinstance(device, EngineCandidate) else candidates_of(path, device)[0]
        options = ort.SessionOptions()
        options.log_severity_level = 4  # its stderr output is not for users and quotes the file; errors raise
        if threads:
            options.intra_op_num_threads = threads
        if chosen.device == "cpu":
            # One plan for all blocks of a pass nearly doubles their memory and is no faster.
            options.enable_mem_pattern = False
        else:
            prepare_gpu_libraries()
        # Threads that spin while waiting for the next frame would keep a core busy for nothing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with engine_cache(chosen, path):
            try:
                session = _session(path, options, chosen.providers)
            except Exception as error:  # ONNX Runtime's exception types share no base class
                text = _first_line(error)
                if chosen.device == "cpu":
                    raise BundleError(f"{path} is not a readable ONNX model (truncated or damaged?): {text}") from None
                if remedy := setup_problem(chosen.device, text):
                    text = f"{text}; {remedy}"
                raise EngineError(f"{chosen} could not be set up: {text}") from None
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in self.metadata:
            raise BundleError(f"{path} is an ONNX model but not of SpectraDINO: create it with 'spectradino export'")
        self.info = ModelInfo.from_json(self.metadata[METADATA_KEY], path)
        self._check_signature(session, path)
        if file_precision(self.info) == "int8" and "weight_bits" not in conversion(self.info):
            log.warning(
                "%s has 8-bit weights whose products saturate on x86 CPUs without VNNI: convert it again",
                path.name,
            )
        used = session.get_providers()[0]
        if used != chosen.needs:
            usual = "check the GPU driver and that onnxruntime-gpu fits the installed CUDA"
            remedy = setup_problem(chosen.device, "") or usual
            raise EngineError(
                f"device '{chosen.device}' was requested but ONNX Runtime fell back to {used}: {remedy}; or set device "
                "to 'cpu'"
            )
        self.path = path
        self.ir_features: np.ndarray | None = None
        self._inputs = list(signature(self.info))
        self.on_cpu = chosen.device == "cpu"
        self._session, self._bound = (session, None) if self.on_cpu else _bound(path, options, chosen, session)
        self._outputs = [output.name for output in self._session.get_outputs()]
        on = used.removesuffix("ExecutionProvider") + (f" ({chosen.precision})" if chosen.device == "tensorrt" else "")
        self.label = f"ONNX Runtime {ort.__version__}{streams_label(self.info)} on {on}"
        log.info("%s: %s, input %dx%d", path.name, self.label, *self.info.input_size)

    def _check_signature(self, session: Any, path: Path) -> None:
        expected = {name: [*shape] for name, (_, shape) in signature(self.info).items()}
        found = {node.name: node.shape for node in session.get_inputs()}
        if found != expected:
            raise BundleError(
                f"{path}: its graph takes {printable(str(found), 500)}, but its description says {expected}; export "
                "the model again"
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


def _bound(path: Path, options: Any, chosen: EngineCandidate, session: Any) -> tuple[Any, BoundSession | None]:
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


def candidates_of(path: Path, device: str, info: ModelInfo | None = None, gpu_id: int = 0) -> list[EngineCandidate]:
    """Return `providers.candidates` of this installation; also raises its errors."""
    try:
        import onnxruntime as ort
    except ImportError:
        return [CPU]  # opening it reports what is missing
    return candidates(device, ort.get_available_providers(), path, info, gpu_id)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return printable(text.splitlines()[0], 2000) if text else type(error).__name__


class BoundSession:
    """Session of ONNX Runtime with inputs and outputs bound to fixed device memory. Not thread-safe.

    `InferenceSession.run` allocates and copies all of them at each frame. A CUDA graph also needs fixed addresses,
    since it replays on the memory that it was captured with. A GPU's inputs pass through page-locked host memory, which
    the GPU reads directly; the driver would copy other memory to page-locked memory first, at each frame.
    """

    def __init__(self, session: Any, device: str = "cuda", gpu_id: int = 0) -> None:
        """Bind a session on "cuda" or "cpu"; ValueError if a shape is not constant, or a type is not supported."""
        import onnxruntime as ort

        def memory(node: Any) -> Any:
            if node.type not in _TYPES or not all(isinstance(side, int) for side in node.shape):
                raise ValueError(f"'{node.name}' is {node.type} {node.shape}: no fixed memory can be allocated for it")
            return ort.OrtValue.ortvalue_from_shape_and_type(node.shape, _TYPES[node.type], device, gpu_id)

        def host_memory(node: Any) -> np.ndarray:
            locked = page_locked(node.shape, _TYPES[node.type], gpu_id) if device == "cuda" else None
            return np.empty(node.shape, _TYPES[node.type]) if locked is None else locked

        self._session = session
        self._binding = session.io_binding()
        self._inputs = {node.name: memory(node) for node in session.get_inputs()}
        self._staged = {node.name: host_memory(node) for node in session.get_inputs()}
        self._outputs = {node.name: memory(node) for node in session.get_outputs()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, names: Sequence[str], arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Run one pass on all inputs, which may be overwritten afterwards; return copies of the outputs by name.

        Raises:
            ValueError: an array is of another type or shape than the graph's.
        """
        for name, array in zip(names, arrays, strict=True):
            staged = self._staged[name]
            if array.shape != staged.shape or array.dtype != staged.dtype:
                raise ValueError(f"'{name}' must be {staged.dtype} {staged.shape}, got {array.dtype} {array.shape}")
            staged[...] = array
            self._inputs[name].update_inplace(staged)  # returns once the copy is complete
        self._session.run_with_iobinding(self._binding)
        # On the CPU `numpy` may return the bound memory itself, which the next pass overwrites.
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}
