"""Demo: start a detector node, replay pairs to it, score and draw its results.

    python -m spectradino_ros.demo --out demo_out [--data DIR] [--limit N] [--rate HZ] [--model FILE]

Writes `overlays/NNNN.png`, `contact_sheet.png`, `report.json` and `node.log` to the output folder. Exit code: 0 with
results, 1 without, 2 for an invalid argument.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from spectradino_core.data.paired_folder import PairedFolder, PairedFolderError
from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.detection import SCORE_FLOOR
from spectradino_core.evaluation.scorer import Scorer
from spectradino_core.files import error_text, make_folder
from spectradino_core.options import RATE, Number, add_former, add_option, claim_folder, require_model
from spectradino_core.runtime.bundle import BundleError, ModelInfo
from spectradino_core.runtime.engine import DEVICES, EngineError
from spectradino_core.runtime.engines import open_engine
from spectradino_core.text import with_stdout
from spectradino_ros.demo.overlays import contact_sheet, pair_overlay
from spectradino_ros.demo.processes import Child, DemoError, PlayerProcess, ros_environment
from spectradino_ros.demo.results import Collector, Outcome, SentPair, replay_figures, score_figures, summary, versions
from spectradino_ros.demo.synthetic import FIRST_SEED, FRAMES_PER_SEQUENCE, write_scenes
from spectradino_ros.shared_files import find_shared, resolve_model

_DETECTOR = "detector_node"
_SCENES = 48
_SHEET_OVERLAYS = 12
_START_TIMEOUT_S = 60.0
_SILENCE_S = 5.0
"""Waiting time for the last results."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the demo; returns its exit code."""
    return with_stdout(lambda: _guarded(args))


def _guarded(args: Sequence[str] | None) -> int:
    try:
        return _demo(_parse(args))
    except (DemoError, BundleError, EngineError, OSError, ValueError) as error:
        print(f"\nThe demo stopped: {error_text(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe demo was interrupted.", file=sys.stderr)
        return 130


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m spectradino_ros.demo",
        description="Start the detector node, replay pairs of frames to it over DDS and draw what it publishes.",
    )
    add_option(parser, "--out", " folder (default: %(default)s)", default=Path("demo_out"), metavar="DIR")
    add_option(parser, "--data", " with an index_val.json (default: none, scenes are rendered)")
    add_option(parser, "--split", " (default: val)")
    limit = add_option(parser, "--limit", f" (default: all of --data, or {_SCENES} scenes)")
    add_former(parser, limit, "--pairs")
    parser.add_argument("--rate", type=RATE, help="pairs per second (default: adapted to the node)")
    add_option(parser, "--model", " (.onnx), or the name of a bundled model (default: lwir_box)", type=str, default="")
    add_option(parser, "--device", " (default: %(default)s)", default="auto", choices=DEVICES)
    parser.add_argument(
        "--domain", type=Number(int, 0, 232), help="ROS_DOMAIN_ID of the demo (default: from the process id)"
    )
    parser.add_argument("--keep-pairs", action="store_true", help="keep the synthetic pairs, in OUT/pairs")
    given = parser.parse_args(args)
    if given.data is None and given.split is not None:
        parser.error("--split has no effect without --data")
    if given.data is not None and given.keep_pairs:
        parser.error("--keep-pairs has no effect with --data")
    given.split = given.split or "val"
    if given.domain is None:
        given.domain = 30 + os.getpid() % 70  # not the default 0, in which a robot may be running
    return given


def _demo(options: argparse.Namespace) -> int:
    claim_folder(options.out, "contact_sheet.png report.json node.log overlays pairs", "node.log", _DETECTOR.encode())
    model = resolve_model(options.model)
    require_model(model)
    # Opened here first, so that a wrong file is reported directly and not in the node's log.
    engine = open_engine(model, device=options.device, auto_openvino=True)
    info, label = engine.info, engine.label
    del engine
    pairs = None if options.data is None else _real_pairs(options, info)
    _prepare(options.out)
    with tempfile.TemporaryDirectory(prefix=".work-", dir=options.out) as work:
        if pairs is None:
            total, stages = options.limit or _SCENES, 3
        else:
            total, stages = min(options.limit or len(pairs), len(pairs)), 2
        with tqdm(total=stages * total, bar_format="{desc:<22} {percentage:3.0f}% |{bar}| {elapsed}") as bar:
            if pairs is None:
                bar.set_description("rendering scenes")
                root = options.out / "pairs" if options.keep_pairs else Path(work) / "pairs"
                write_scenes(root, total, info.infrared, tick=bar.update)
                pairs = PairedFolder(root, "val", info.infrared.key, info.box_classes, info.mask_classes)
            replay = _replay(pairs, total, model, info, options, Path(work), bar)
            report = _report(replay, pairs, model, info, label, options)
            report |= _draw(replay, report, pairs, info, options.out, bar)
            bar.set_description("done")
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{summary(report)}\n")
    if not report["pairs"]["answered"]:
        print(f"No results were published: see the node's log {options.out / 'node.log'}.", file=sys.stderr)
        return 1
    print(
        f"Look at  {options.out / 'contact_sheet.png'}   some pairs at a glance\n"
        f"         {options.out / 'overlays'}/            every pair, RGB and infrared side by side\n"
        f"         {options.out / 'report.json'}         all figures\n"
        f"         {options.out / 'node.log'}            log of the node"
    )
    return 0


def _prepare(out: Path) -> None:
    """Create the output folder and delete the output files of an earlier demo."""
    try:
        make_folder(out / "overlays")
        # Marks the folder as the demo's own, even if the demo is stopped before the node has started.
        (out / "node.log").write_text(f"Log of {_DETECTOR}\n")
        numbered = (out / "overlays").glob("[0-9][0-9][0-9][0-9].png")
        for old in (*numbered, out / "contact_sheet.png", out / "report.json", out / "player.log"):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise DemoError(f"can't write to {out}: {error.strerror}; choose another folder with --out") from None


def _real_pairs(options: argparse.Namespace, info: ModelInfo) -> PairedFolder:
    try:
        return PairedFolder(options.data, options.split, info.infrared.key, info.box_classes, info.mask_classes)
    except PairedFolderError as error:
        needed = (
            f"\nThe model {info.name} takes items with an RGB image (rgb or vis) and an IR image ({info.infrared.key})"
        )
        raise DemoError(f"{error}{needed if options.data.is_dir() else ''}") from None


@dataclass
class Replay:
    """Pairs sent with their results, drops and the rate."""

    outcomes: list[Outcome]
    warm_ups: int
    drops: dict[str, int]
    rate_hz: float | None
    engine: str | None


def _replay(
    folder: PairedFolder, count: int, model: Path, info: ModelInfo, options: argparse.Namespace, work: Path, bar: tqdm
) -> Replay:
    """Start the node and the player, collect results, and stop both."""
    environment = ros_environment(options.domain, find_shared("config/fastdds_large_images.xml"), work / "ros_log")
    os.environ.update(environment)  # also read by this process's ROS context
    namespace = f"/demo_{os.getpid()}"
    bar.set_description("starting the node")
    parameters = {
        "model": model.resolve(),
        "device": options.device,
        "score_threshold": min(SCORE_FLOOR, info.score_threshold),  # for AP; drawing uses the model's threshold
        "frozen_ms": 0.0,  # images without noise are repeated after the warm-up
    }
    command = ["-m", "spectradino_ros.detector_node", "--ros-args"]
    command += ["-r", f"__ns:={namespace}", "-r", f"__node:={_DETECTOR}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    node = Child("detector node", command, environment, options.out / "node.log")
    player: PlayerProcess | None = None
    collector: Collector | None = None
    try:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        collector = Collector(namespace, _DETECTOR, with_mask=bool(info.mask_classes))
        executor = SingleThreadedExecutor()
        executor.add_node(collector)
        end = time.monotonic() + _START_TIMEOUT_S
        while not collector.ready:
            executor.spin_once(timeout_sec=0.05)
            node.check()
            if time.monotonic() > end:
                reason = f"the node was not active after {_START_TIMEOUT_S:.0f} s"
                raise DemoError(f"{reason}. Last lines of {node.log}:\n{node.last_lines()}")
        if tuple(collector.class_names.values()) != info.box_classes:
            raise DemoError(f"the node's classes {collector.class_names} are not those of {model}")
        bar.set_description("replaying to the node")
        command = ["--data", str(folder.root), "--split", folder.split, "--band", folder.infrared]
        command += ["--limit", str(count), "--namespace", namespace, "--detector", _DETECTOR]
        command += [] if options.rate is None else ["--rate", str(options.rate)]
        player = PlayerProcess(command, environment, options.out / "player.log")
        sent, warm_ups, rate = _collect(collector, executor, node, player, count, bar)
        if player.finish() == 0:
            player.log.unlink()  # empty without an error
        return Replay(
            outcomes=[Outcome(s, folder[s.index].id, collector.result_of(s)) for s in sent],
            warm_ups=warm_ups,
            drops=collector.drops(),
            rate_hz=rate,
            engine=collector.diagnostics.get("engine"),
        )
    finally:
        if player is not None:
            player.stop()
        node.stop()
        if collector is not None:
            collector.destroy_node()  # otherwise its shared memory remains in /dev/shm
        rclpy.try_shutdown()


def _collect(
    collector: Collector, executor: SingleThreadedExecutor, node: Child, player: PlayerProcess, count: int, bar: tqdm
) -> tuple[list[SentPair], int, float | None]:
    """Receive messages until every pair has a result, or the player is done and no message arrives.

    Returns:
        The sent pairs, the number of warm-up pairs, and the rate in pairs per second.
    """
    sent: list[SentPair] = []
    waiting: list[SentPair] = []
    rate: float | None = None
    warm_ups, done = 0, False
    received, received_at = collector.received, time.monotonic()
    before = bar.n
    while True:
        executor.spin_once(timeout_sec=0.02)
        for event in player.events():
            if event["event"] == "sent":
                sent.append(SentPair(event["index"], event["rgb_ns"], event["ir_ns"]))
                waiting.append(sent[-1])
            elif event["event"] == "warm_up":
                warm_ups += 1
            elif event["event"] == "done":
                done, rate = True, event["rate_hz"]
        arrived = [s for s in waiting if collector.result_of(s) is not None]
        waiting = [s for s in waiting if s not in arrived]
        bar.update(len(arrived))
        if collector.received != received or not done:
            received, received_at = collector.received, time.monotonic()
        if done and (not waiting or time.monotonic() - received_at > _SILENCE_S):
            bar.update(count - (bar.n - before))
            return sent, warm_ups, rate
        node.check()
        if not done:
            player.check()


def _report(
    replay: Replay, folder: PairedFolder, model: Path, info: ModelInfo, label: str, options: argparse.Namespace
) -> dict[str, Any]:
    data: dict[str, Any] = {"set": folder.name, "split": folder.split, "infrared": folder.infrared}
    if options.data is None:
        last = FIRST_SEED + (len(folder) - 1) // FRAMES_PER_SEQUENCE
        data |= {"set": "synthetic street", "seeds": [FIRST_SEED, last], "frames_per_seed": FRAMES_PER_SEQUENCE}
    return {
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "data": data,
        "model": {
            "name": info.name,
            "file": model.name,
            "bytes": model.stat().st_size,
            "input_size": list(info.input_size),
            "engine": replay.engine or label,
            "published_above_score": min(SCORE_FLOOR, info.score_threshold),
            "drawn_above_score": info.score_threshold,
        },
        "rate_hz": None if replay.rate_hz is None else round(replay.rate_hz, 3),
        "asked_rate_hz": options.rate,
        **replay_figures(replay.outcomes, replay.drops, replay.warm_ups),
        "versions": versions(),
    }


def _draw(
    replay: Replay, report: dict[str, Any], folder: PairedFolder, info: ModelInfo, out: Path, bar: tqdm
) -> dict[str, Any]:
    """Draw the overlays and return the scores in one pass, so that each image is read once."""
    bar.set_description("drawing")
    masks = info.mask_classes if tuple(folder.mask_classes) == info.mask_classes else ()
    scorer = Scorer(info.box_classes, masks, info.score_threshold)
    count = len(replay.outcomes)
    chosen = set(np.linspace(0, count - 1, min(_SHEET_OVERLAYS, count)).round().astype(int).tolist())
    sheet: list[np.ndarray] = []
    for number, outcome in enumerate(replay.outcomes):
        item = folder[outcome.sent.index]
        sample: PairedSample = folder.load(item)
        messages = outcome.result
        result = None if messages is None else messages.perception_result(sample.size)
        scorer.add(sample, result)
        facts = "no result"
        if messages is not None and messages.report is not None and result is not None:
            shown = int((result.scores >= info.score_threshold).sum())
            objects = f"{shown} object{'' if shown == 1 else 's'}"
            facts = f"{result.mode.value.replace('_', ' ')} - {objects} - {messages.report.latency_ms:.0f} ms"
        title = " - ".join([f"{folder.name}  {item.id}", *([item.time] if item.time else [])])
        overlay = pair_overlay(sample, result, info, title, facts, info.score_threshold)
        _write(out / "overlays" / f"{number:04d}.png", overlay)
        if number in chosen:
            sheet.append(overlay)
        bar.update()
    figures = score_figures(scorer.scores())
    if sheet:
        _write(out / "contact_sheet.png", contact_sheet(sheet, info, *_headline(report | figures)))
    return figures


def _headline(report: dict[str, Any]) -> tuple[str, str]:
    pairs, latency = report["pairs"], report["latency_ms"]
    facts = [f"{pairs['answered']} of {pairs['sent']} pairs with results", report["model"]["engine"]]
    if latency:
        facts.append(f"latency p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms")
    if report["detection"] and report["detection"]["mean_AP50"] is not None:
        facts.append(f"AP50 {report['detection']['mean_AP50']:.2f}")
    if report["segmentation"]:
        facts.append(f"mIoU {report['segmentation']['mIoU']:.2f}")
    return f"{report['model']['name']} on {report['data']['set']}", "  -  ".join(facts)


def _write(path: Path, image: np.ndarray) -> None:
    # Level 3 takes half the time of OpenCV's default for 10% more bytes.
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3]):
        raise DemoError(f"{path} can't be written: check the free space")
