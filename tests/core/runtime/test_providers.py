"""Selection of providers and options by file: differences between GPUs, versions and precisions."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from spectradino_core.runtime import gpu, onnx_engine, providers
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.gpu import explain, tensorrt_version
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import tolerance_of
from spectradino_core.runtime.providers import CPU, UnavailableError, candidates, file_precision
from tests.blob_model import make_blob_model

ALL = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.fixture
def described(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRADINO_CACHE", str(tmp_path / "cache"))

    def make(**converted) -> tuple[Path, ModelInfo]:
        provenance = {"converted": converted} if converted else {}
        path = make_blob_model(tmp_path / "m.onnx", (28, 14), provenance=provenance)
        return path, OnnxEngine(path, "cpu").info

    return make


def tensorrt(monkeypatch, major: int, minor: int = 0) -> None:
    monkeypatch.setattr(providers, "tensorrt_version", lambda: (major, minor))


@pytest.mark.parametrize(
    ("number", "version"), [(8601, (8, 6)), (100300, (10, 3)), (101303, (10, 13)), (110000, (11, 0))]
)
def test_version_of_tensorrt(monkeypatch, number, version):
    class Library:
        def getInferLibVersion(self):
            return number

    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda name: Library())
    assert tensorrt_version() == version


def test_int8_files_stay_on_the_cpu(described, caplog):
    path, info = described(precision="int8")
    assert file_precision(info) == "int8"
    with caplog.at_level(logging.INFO):
        assert candidates("auto", ALL, path, info) == [CPU]
    assert "m.onnx is an int8 file" in caplog.text
    for device in ("cuda", "tensorrt"):
        with pytest.raises(UnavailableError, match=f"int8 file.*'{device}'.*fp32 or fp16"):
            candidates(device, ALL, path, info)
    assert candidates("cpu", ALL, path, info) == [CPU]


def test_files_with_fused_attention_are_refused_by_tensorrt_only(described, monkeypatch):
    path, info = described(precision="fp32", fused_attentions=6)
    tensorrt(monkeypatch, 10)
    with pytest.raises(UnavailableError, match="6 fused attentions.*fp16"):
        candidates("tensorrt", ALL, path, info)
    assert [c.device for c in candidates("cuda", ALL, path, info)] == ["cuda"]


@pytest.mark.parametrize(
    ("major", "converted", "precisions", "flags"),
    [
        (10, {}, ["fp16", "fp32"], True),
        (10, {"precision": "fp16"}, ["fp16"], True),
        (11, {}, ["fp32"], False),
        (11, {"precision": "fp16"}, ["fp16"], False),
        (0, {}, ["fp16", "fp32"], True),  # not found by name: ONNX Runtime may still find it
    ],
)
def test_precisions_of_tensorrt(described, monkeypatch, caplog, major, converted, precisions, flags):
    """Version 11 has no weak typing: it builds the file's precision and ignores the flag silently."""
    path, info = described(**converted)
    tensorrt(monkeypatch, major)
    found = candidates("tensorrt", ALL, path, info)
    assert [c.precision for c in found if c.device == "tensorrt"] == precisions
    for one, precision in zip(found, precisions, strict=False):
        options = dict(one.providers)["TensorrtExecutionProvider"]
        assert options.get("trt_fp16_enable") == (str(precision == "fp16") if flags else None)
    assert ("convert it with" in caplog.text) is (major == 11 and not converted)
    assert found[-1].device == "cuda"


def test_old_tensorrt_is_refused(described, monkeypatch):
    path, info = described()
    tensorrt(monkeypatch, 8, 6)
    with pytest.raises(UnavailableError, match=r"TensorRT 10 or newer, this machine has 8\.6.*JetPack 6"):
        candidates("tensorrt", ALL, path, info)


@pytest.mark.parametrize(("version", "tf32"), [("1.17.3", None), ("1.18.0", "0"), ("1.23.2", "0"), ("1.25.0rc1", "0")])
def test_options_suit_the_version_of_onnx_runtime(described, monkeypatch, version, tf32):
    """1.17 refuses every CUDA session with an unknown option."""
    path, info = described()
    monkeypatch.setattr(providers, "runtime_version", lambda: version)
    options = dict(candidates("cuda", ALL, path, info)[0].providers)["CUDAExecutionProvider"]
    assert options.get("use_tf32") == tf32
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["arena_extend_strategy"] == "kSameAsRequested"


def test_the_requested_gpu_is_in_every_option(described, monkeypatch):
    path, info = described()
    tensorrt(monkeypatch, 10)
    for one in candidates("tensorrt", ALL, path, info, gpu_id=3):
        for name, options in one.providers:
            if name != "CPUExecutionProvider":
                assert options["device_id"] == "3"


def test_engines_of_other_versions_and_gpus_are_not_reused(described, monkeypatch):
    path, info = described()
    folders = set()
    for major, runtime, name, driver in (
        (10, "1.23.2", "Orin", "12060"),
        (11, "1.23.2", "Orin", "12060"),
        (10, "1.24.0", "Orin", "12060"),
        (10, "1.23.2", "RTX", "12060"),
        (10, "1.23.2", "Orin", "13000"),
    ):
        tensorrt(monkeypatch, major)
        monkeypatch.setattr(providers, "runtime_version", lambda runtime=runtime: runtime)
        monkeypatch.setattr(providers, "gpu_name", lambda gpu_id, name=name: name)
        monkeypatch.setattr(providers, "driver_version", lambda driver=driver: driver)
        folders.add(candidates("tensorrt", ALL, path, info)[-2].cache)
    assert len(folders) == 5


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            "cudaErrorNoKernelImageForDevice: no kernel image is available for execution",
            "onnxruntime-gpu 1.24",
        ),
        ("Failed to load library libcudnn.so.9: cannot open shared object file", "[cuda,cudnn]"),
        ("libcublasLt.so.12: cannot open shared object file", "[cuda,cudnn]"),
        ("libnvinfer.so.10: cannot open shared object file", "TensorRT 10"),
        ("CUDA driver version is insufficient for CUDA runtime version", "update the driver"),
        ("cudaErrorInvalidDevice: invalid device ordinal", "gpu_id"),
        ("CUDA failure 2: out of memory", "memory is full"),
        ("something else", ""),
    ],
)
def test_known_errors_name_their_remedy(error, remedy):
    assert remedy in explain(error)
    assert bool(explain(error)) is bool(remedy)


def test_the_missing_library_is_named(described, monkeypatch):
    path, _ = described()
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(ALL[1:]))
    monkeypatch.setattr(providers, "missing_library", lambda provider: "libcudnn.so.9")
    with pytest.raises(EngineError, match=r"CUDA: .*libcudnn\.so\.9 is missing: .*\[cuda,cudnn\]"):
        open_engine(path, "cuda")


def test_missing_library_reads_the_loaders_message(monkeypatch, tmp_path):
    def load(name, mode=0):
        if "shared" in name:
            return object()
        raise OSError("libcublasLt.so.12: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(gpu.ctypes, "CDLL", load)
    assert gpu.missing_library() == "libcublasLt.so.12"

    def no_provider(name, mode=0):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(gpu.ctypes, "CDLL", no_provider)
    assert gpu.missing_library() == "", "a CPU build lacks the provider itself, no library of CUDA"


def test_libraries_of_pip_packages_are_found_in_any_version(tmp_path):
    for name in ("cublas/lib", "cu13/lib", "cudnn/lib", "nccl/lib", "cublas/include"):
        (tmp_path / "nvidia" / name).mkdir(parents=True)
    found = [folder.parent.name for folder in gpu._pip_library_folders(tmp_path)]
    assert found == ["cu13", "cublas", "cudnn"]


def test_an_idle_gpu_is_reported_once(described, monkeypatch, caplog):
    path, info = described()
    monkeypatch.setattr(providers, "gpu_name", lambda gpu_id: "NVIDIA_RTX_4090")
    providers._report_idle_gpu.cache_clear()
    for _ in range(3):
        assert candidates("auto", ALL[2:], path, info) == [CPU]
    assert caplog.text.count("has a GPU (NVIDIA_RTX_4090), but ONNX Runtime was installed for the CPU only") == 1
    providers._report_idle_gpu.cache_clear()
    caplog.clear()
    monkeypatch.setattr(providers, "gpu_name", lambda gpu_id: "")
    candidates("auto", ALL[2:], path, info)
    assert not caplog.text


def test_tf32_is_off_before_the_first_session_unless_the_user_enables_it(monkeypatch):
    monkeypatch.setattr(providers, "preload_libraries", lambda: None)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    providers.prepare_gpu_libraries()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    providers.prepare_gpu_libraries()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1"


def test_the_cpu_needs_none_of_it(described, monkeypatch):
    path, _ = described()

    def unexpected() -> None:
        raise AssertionError("a CPU session prepared for a GPU")

    monkeypatch.setattr(onnx_engine, "prepare_gpu_libraries", unexpected)
    open_engine(path, "cpu")


def test_tolerance_of_half_precision_grows_with_the_input(described):
    _, info = described()
    assert tolerance_of("fp16", info.with_(input_size=(280, 224))).boxes_px == 1.0
    assert tolerance_of("fp16", info.with_(input_size=(644, 518))).boxes_px == pytest.approx(1.61)
    assert tolerance_of("fp32", info.with_(input_size=(644, 518))).boxes_px == 0.05
