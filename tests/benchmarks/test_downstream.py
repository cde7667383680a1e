"""The fine-tuning experiment end to end at the smallest scale, with valid commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.downstream import __main__ as downstream
from benchmarks.downstream.plan import FULL, PARTS, Pairs, jobs_of
from benchmarks.downstream.teacher import Disguised, teacher_recipe
from spectradino_core.cli import _parser
from spectradino_core.commands import evaluate_retrieval
from spectradino_core.data.mixture import RGBOnly
from spectradino_core.data.sample import PairedSample


def test_every_job_is_a_command_that_is_known_and_comes_after_what_it_reads(tmp_path):
    pairs = Pairs(tmp_path, [tmp_path / "a.jsonl"], tmp_path / "b.jsonl", tmp_path / "roadscene_rgb_lwir")
    jobs = list({job.name: job for part in PARTS for job in jobs_of(part, FULL, pairs, tmp_path / "work")}.values())
    assert len({job.makes for job in jobs}) == len(jobs)
    made: set[str] = set()
    for job in jobs:
        if job.arguments[:2] == ("-m", "spectradino_core.cli"):
            words = list(job.arguments[2:])
            if words[:2] == ["evaluate", "retrieval"]:
                words[:2] = [evaluate_retrieval.NAME]
            _parser().parse_args(words)  # exits where an option is unknown
        read = [word.split("=")[-1] for word in job.arguments if word.endswith(".safetensors")]
        unmade = [path for path in read if path not in made and Path(path).parent.name not in ("teacher", "stage1")]
        assert not unmade, job.name
        made.add(str(job.makes))
    assert len(jobs) == 1 + 3 + 1 + 2 * (2 * len(FULL.seeds) + 1) + len(FULL.seeds) + 1
    every = [job.arguments for job in jobs if "--baseline" in job.arguments and "finetune" in job.arguments]
    assert len(every) == 2 * len(FULL.seeds)


def test_the_teacher_sees_no_infrared_and_some_grey_images():
    grey_counts = []

    class Samples:
        def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
            rng = np.random.default_rng(index)
            return PairedSample(
                rgb=rng.integers(0, 256, (8, 8, 3), np.uint8),
                infrared=rng.integers(0, 256, (8, 8), np.uint8),
                boxes=None, labels=None, mask=None, name=str(index),
            ), np.array([False, True])  # fmt: skip

    seen = Disguised(RGBOnly(Samples()), 0)
    for index in range(200):
        pair, present = seen.sample(index)
        assert present.tolist() == [True, False]
        grey_counts.append(bool((pair.rgb[..., 0] == pair.rgb[..., 1]).all()))
        again, _ = seen.sample(index)
        assert np.array_equal(again.rgb, pair.rgb)
    assert 20 <= sum(grey_counts) <= 60
    assert teacher_recipe("tiny", 10, 20, 0).architecture.backbone == "dinov2_repeat"


def test_a_quick_run_touches_neither_committed_results_nor_the_weights_of_a_full_run(repository, monkeypatch):
    written = []
    monkeypatch.setattr(downstream, "write_report", lambda work, out, note: written.append((work, out)))
    for words in (["report"], ["report", "--quick"]):
        assert downstream.main(words) == 0
    (full, committed), (quick, shown) = written
    assert committed == repository / "benchmarks/results/downstream"
    assert committed not in (shown, *shown.parents)
    assert full not in (quick, *quick.parents, *shown.parents)


@pytest.mark.slow
@pytest.mark.experiment
def test_everything_runs(shared_data, tmp_path, capfd):
    words = ["--quick", "--data", str(shared_data), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert downstream.main(words) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [
        "fresh.json", "fresh.md", "retrieval.json", "retrieval.md", "roadscene.json", "roadscene.md", "streets.json",
        "streets.md", "times.csv",
    ]  # fmt: skip
    for name in ("streets", "fresh", "roadscene"):
        text = (tmp_path / "out" / f"{name}.md").read_text()
        assert "frozen DINOv2, IR as grey" in text
        assert "not given" not in text
        assert str(tmp_path) not in text
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text())
    capfd.readouterr()
    assert downstream.main([*words, "roadscene"]) == 0
    assert "== " not in capfd.readouterr().out  # all was there
