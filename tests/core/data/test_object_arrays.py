"""Dictionaries of arrays from `numpy.save`, read without running what the pickle names."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.data.object_arrays import ObjectArrayError, read_array_dict


def stored(path: Path, value: object, protocol: int = 4) -> Path:
    """A file as `numpy.save` writes it, with a pickle of a protocol."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "shape": (), "fortran_order": False})
    array = np.empty((), object)
    array[()] = value
    path.write_bytes(file.getvalue() + pickle.dumps(array, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_of_numbers_are_read(tmp_path, protocol):
    k = np.array([[700.5, 0, 300], [0, 700.5, 150], [0, 0, 1]])
    value = {"K": k, "I": np.eye(3, dtype=int), "T": np.array([[1], [-2], [3.5]], ">f4"), "F": np.asfortranarray(k)}
    found = read_array_dict(stored(tmp_path / "calib.npy", value | {"again": k}, protocol))
    assert list(found) == ["K", "I", "T", "F", "again"]
    for name, array in value.items():
        np.testing.assert_array_equal(found[name], array)
    np.save(tmp_path / "saved.npy", value)
    np.testing.assert_array_equal(read_array_dict(tmp_path / "saved.npy")["T"], value["T"])


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("value", [{"K": Attack()}, Attack(), {"K": np.array([Attack()], object)}])
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, value, protocol):
    path = stored(tmp_path / "calib.npy", value, protocol)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ObjectArrayError, match=r"calib\.npy: .*\.system, which is not accepted"):
        read_array_dict(path)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("value", [[1, 2], {"K": 1.0}, {"K": {"x": np.eye(3)}}, {1: np.eye(3)}, {"K": np.array(["a"])}])
def test_other_contents_are_refused(tmp_path, value):
    with pytest.raises(ObjectArrayError, match=r"calib\.npy: not a dictionary of number arrays"):
        read_array_dict(stored(tmp_path / "calib.npy", value))


def test_damaged_files_are_refused(tmp_path):
    path = stored(tmp_path / "calib.npy", {"K": np.eye(3)})
    data = path.read_bytes()
    for cut in (0, 4, 40, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(ObjectArrayError, match=r"calib\.npy"):
            read_array_dict(path)
    rng = np.random.default_rng(0)
    for _ in range(300):  # any damage is an error of this kind, or leaves numbers
        noisy = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            noisy[place] = rng.integers(256)
        path.write_bytes(bytes(noisy))
        try:
            assert all(array.dtype == np.float64 for array in read_array_dict(path).values())
        except ObjectArrayError:
            continue
    np.save(path, np.eye(3))
    with pytest.raises(ObjectArrayError, match="not a dictionary"):
        read_array_dict(path)
    with pytest.raises(ObjectArrayError, match=r"none\.npy"):
        read_array_dict(tmp_path / "none.npy")
