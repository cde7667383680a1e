"""Command line options: one option per concept in all commands, and former names still work."""

from __future__ import annotations

import argparse
import math
import shlex
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from spectradino_core.bags.evaluation_options import SWEEPS
from spectradino_core.cli import _COMMANDS, _parser, main
from spectradino_core.commands import evaluate_retrieval
from spectradino_core.options import CONCEPTS, Parser, _Former, add_former, add_option, refuse

# Options of a single command. One that a second command needs moves to `CONCEPTS`, with one meaning for both.
OWN = {
    "spectradino": "log-level",
    "ablate": "tables",
    "bag evaluate": "labels label-topic label-mask-topic label-mask-classes stamp-tolerance-ms sweep executor "
    "save-masks",
    "bag export": "format select every min-change register",
    "bag info": "json",
    "bag make": "size ir-size misregistration-px rgb-rate ir-rate ir-phase-ms jitter-ms latency-ms ir-latency-ms "
    "ragged dropout-rgb dropout-rgb-window dropout-ir dropout-ir-window ir-to-rgb rgb-format ir-format no-labels",
    "bag run": "copy-images overlay no-overlay",
    "bench": "quick work cases rounds no-memory note",
    "calibrate registration": "scale checkerboard",
    "calibrate time": "window-ms pair-by",
    "convert": "precision fuse-attention no-fuse-attention max-map-drop",
    "data make-manifest": "layout sequence-pattern hold-out-sequences plane-distance",
    "evaluate": "slide stride exclude-classes",
    "evaluate retrieval": "probe-manifest knn-manifest compare-bands probe-scenes tsne",
    "export": "name inputs streams",
    "finetune": "mix band-dropout no-augmentation task backbone mode head fusion fuse-at strides upernet-width "
    "lr-adapters lr-blocks layer-decay",
    "pretrain": "system stages val-scenes max-damaged clip learn-temperature adaptive infrared-alignment "
    "rgb-distillation base anchor alpha-max tokens no-dense no-palette strategy cache-teacher keep override",
}
POSITIONALS = {"BAG", "BAG|FOLDER", "GROUP", "COMMAND", "WHAT", "bag"}
REUSED = {"--data", "--inputs"}
"""Former names of one command that are names in others."""


def parsers(parser: argparse.ArgumentParser | None = None) -> Iterator[argparse.ArgumentParser]:
    """Build all commands."""
    parser = parser or _parser()
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


def name_of(parser: argparse.ArgumentParser) -> str:
    return parser.prog.removeprefix("spectradino ")


def is_of_node(action: argparse.Action) -> bool:
    """Return whether the option is a parameter of the node, which the node's settings describe."""
    return action.dest.startswith("parameter_") or action.dest == "params_file"


def visible() -> list[tuple[str, argparse.Action]]:
    """Return (command, option) of everything that --help shows, except --help itself and the node's parameters."""
    return [
        (name_of(parser), action)
        for parser in parsers()
        for action in parser._actions
        if action.help is not argparse.SUPPRESS and "-h" not in action.option_strings and not is_of_node(action)
    ]


def former() -> list[tuple[str, str]]:
    """Return (command, former name) of every option."""
    return [
        (name_of(parser), action.option_strings[0])
        for parser in parsers()
        for action in parser._actions
        if isinstance(action, _Former) and action.option_strings
    ]


def test_options_of_several_commands_begin_their_help_with_the_concept() -> None:
    for command, action in visible():
        for option in action.option_strings:
            if option in CONCEPTS:
                assert str(action.help).startswith(CONCEPTS[option].meaning), f"{command} {option}: {action.help}"


def test_every_option_is_a_concept_or_of_one_command() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for command, action in visible():
        if not CONCEPTS.keys() & action.option_strings:  # else they are other names of the concept
            found[command] |= {option.removeprefix("--") for option in action.option_strings}
    shared = {"add": {"calibrate time", "calibrate registration"}, "no-maps": {"pretrain", "evaluate retrieval"}}
    for option, commands in shared.items():
        for command in commands:
            found[command].discard(option)
    assert {command: options for command, options in found.items() if options} == {
        command: set(options.split()) for command, options in OWN.items()
    }
    several = [option for options in OWN.values() for option in options.split()]
    assert len(several) == len(set(several))


def test_concepts_have_different_meanings_and_are_used() -> None:
    meanings = {option: concept.meaning for option, concept in CONCEPTS.items()}
    for option, meaning in meanings.items():
        same = [other for other, text in meanings.items() if other != option and text == meaning]
        assert not same, f"{option} and {same} are one concept"
    assert {option for _, action in visible() for option in action.option_strings} >= set(CONCEPTS)


def test_help_names_all_sweeps_and_both_systems_defaults() -> None:
    helps = {(command, action.dest): str(action.help) for command, action in visible()}
    assert all(kind in helps["bag evaluate", "sweep"] for kind in SWEEPS)
    assert "omnivorous: 500" in helps["pretrain", "checkpoint_every"]
    assert "omnivorous: runs/omnivorous-VARIANT" in helps["pretrain", "out"]


@pytest.mark.parametrize(
    ("words", "command", "unknown", "near"),
    [
        ("evaluate --modle x", "evaluate", "--modle", "--model"),
        ("evaluate retrieval --modle=x", "evaluate retrieval", "--modle=x", "--model"),
        ("bag evaluate x --modle y", "bag evaluate", "--modle", "--model"),
        ("calibrate registration x --otu y", "calibrate registration", "--otu", "--out"),
        ("--log-lvl debug info", "", "--log-lvl", "--log-level"),
        ("bag info x --sqlite", "bag info", "--sqlite", ""),
        ("bag info x y", "bag info", "y", ""),
    ],
)
def test_unknown_option_is_refused_with_usage_of_its_command(
    words: str, command: str, unknown: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert lines[0].startswith(f"usage: spectradino {command}")  # no warning about a former positional before it
    assert unknown in lines[-1]
    assert lines[-1].endswith(f"(did you mean {near}?)") == bool(near)


def test_numbers_have_a_range() -> None:
    """So that argparse refuses others with the option's name; steps by stage are parsed by one of these."""
    for command, action in visible():
        assert action.type not in (int, float), f"{command} {action.option_strings}"


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ("evaluate --model m --scenes -5", "--scenes: must be a whole number of at least 1, got '-5'"),
        ("evaluate --model m --scenes 0", "--scenes: must be a whole number of at least 1, got '0'"),
        ("evaluate --model m --nms-iou nan", "--nms-iou: must be a number in 0 to 1, got 'nan'"),
        ("evaluate --model m --draw -1", "--draw: must be a whole number of at least 0, got '-1'"),
        ("evaluate retrieval --model m --views 1.5", "--views: must be a whole number of at least 1, got '1.5'"),
        ("pretrain --variant s --alpha-max 2", "--alpha-max: must be a number in 0 to 1, got '2'"),
        ("bench --rounds 0", "--rounds: must be a whole number of at least 1, got '0'"),
        ("ablate --recipe x --out y --jobs 0", "--jobs: must be a whole number of at least 1, got '0'"),
        ("calibrate registration b --limit 0", "--limit: must be a whole number of at least 1, got '0'"),
        ("data check --limit 0", "--limit: must be a whole number of at least 1, got '0'"),
        ("data check --draw 0", "--draw: must be a whole number of at least 1, got '0'"),
        ("finetune --steps 0", "--steps: must be a whole number of at least 1, got '0'"),
        ("bag make --out b --duration inf", "--duration: must be a number above 0, got 'inf'"),
        ("bag make --out b --ir-rate 0", "--ir-rate: must be a number in 0.01 to 1000, got '0'"),
        ("bag make --out b --dropout-ir-window 3:nan", "--dropout-ir-window: a window must be FROM:TO"),
        ("calibrate time b --duration 1", "--duration: must be a number of at least 8, got '1'"),
        ("data make-manifest --data d --plane-distance 0", "--plane-distance: must be a number above 0, got '0'"),
        ("pretrain --variant s --batch 1:8,2:0", "--batch: must be a whole number of at least 1, got '0'"),
        ("pretrain --variant s --lr nan", "--lr: must be a number above 0, got 'nan'"),
        ("finetune --band-dropout 0.7", "--band-dropout: must be a number in 0 to 0.5, got '0.7'"),
        ("finetune --recipe box --workers -1", "--workers: must be a whole number of at least 0, got '-1'"),
    ],
)
def test_numbers_out_of_range_are_wrong_usage(words: str, allowed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code == 2
    assert f"argument {allowed}" in capsys.readouterr().err


def test_special_numbers_are_accepted() -> None:
    parse = _parser().parse_args
    assert parse(["data", "make-manifest", "--plane-distance", "inf"]).plane_distance == math.inf
    assert parse(["pretrain", "--variant", "s", "--ema", "0", "--clip", "0"]).ema == 0
    assert parse(["evaluate", "--model", "m", "--draw", "0", "--workers", "0"]).draw == 0
    assert parse(["bag", "export", "b", "--out", "x", "--every", "0"]).every == 0
    assert (
        parse(["bag", "make", "--out", "x", "--ir-phase-ms", "-3", "--ir-time-offset-ms", "-40"]).ir_time_offset_ms
        == -40
    )


@pytest.mark.parametrize("text", ["5", "1,2,3", "near,far", "0,10", "1,nan"])
def test_depth_range_that_is_no_range_is_refused_with_the_form(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--system", "omnivorous", "--variant", "test", "--depth-range", text])
    assert f"{text!r}: give NEAR,FAR in metres, such as 0.5,10" in capsys.readouterr().err


def test_only_bags_and_groups_are_positional() -> None:
    for command, action in visible():
        if not action.option_strings:
            assert (action.metavar or action.dest) in POSITIONALS, f"{command}: {action.dest}"


def test_values_have_one_form() -> None:
    """Sizes are WxH, lists of names A,B, and files and folders have their metavars."""
    for command, action in visible():
        for option in action.option_strings:
            if option.endswith(("-size", "--size", "--slide", "--stride")):
                assert action.metavar == "WxH", f"{command} {option}"
            if option.endswith("classes"):
                assert action.metavar == "A,B", f"{command} {option}"
            if action.type is Path:
                assert action.metavar, f"{command} {option}"


def test_former_names_are_hidden_and_no_names_elsewhere() -> None:
    for parser in parsers():
        for action in parser._actions:
            if action.help is argparse.SUPPRESS:
                assert isinstance(action, _Former), f"{parser.prog} {action.dest} is hidden"
                assert action.target in parser._actions
                assert action.target.help is not argparse.SUPPRESS
    named = {option for _, action in visible() for option in action.option_strings}
    assert {name for _, name in former()} & named == REUSED


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_parser_of_one_command_is_that_of_all(name: str) -> None:
    alone, of_all = ({name_of(one): one for one in parsers(_parser(command))} for command in (name, ""))
    names = alone.keys() - {"spectradino"}
    assert names
    assert names < of_all.keys()
    assert all(alone[one].format_help() == of_all[one].format_help() for one in names)


@cache
def parsers_by_name() -> dict[str, argparse.ArgumentParser]:
    """Return parsers for tests of former names, which may leave required options optional."""
    return {name_of(parser): parser for parser in parsers()}


def sample(action: argparse.Action) -> list[str]:
    """Return a value of the option for the command line."""
    if action.nargs == 0:
        return []
    if action.choices:
        return [str(next(iter(action.choices)))]
    return ["70x56" if action.metavar in ("WxH", "HxW") else "9"]


@pytest.mark.parametrize(("command", "name"), former())
def test_former_name_works_and_warns_in_one_line(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def parse(is_former: bool) -> dict[str, object]:
        parser = parsers_by_name()[command]
        own = next(action for action in parser._actions if name in action.option_strings)
        assert isinstance(own, _Former)
        for action in parser._actions:
            action.required = False
        option = name if is_former else own.target.option_strings[0]
        assert parser.parse_args([option, *sample(own)])
        return vars(parser.parse_args([option, *sample(own)])) | {"option": own.target.option_strings[0]}

    as_today = parse(False)
    assert capsys.readouterr().err == ""
    as_before = parse(True)
    line = f"spectradino {command}: warning: {name} is deprecated, use {as_today['option']}\n"
    assert capsys.readouterr().err == 2 * line
    if name == "--sizes":  # height first
        assert (as_before.pop("input_size"), as_today.pop("input_size")) == ([(56, 70)], [(70, 56)])
    if name == "--leave-out":  # several words
        assert (as_before.pop("exclude_classes"), as_today.pop("exclude_classes")) == (["9"], ("9",))
    assert as_before == as_today


@pytest.mark.parametrize(
    ("before", "today"),
    [
        ("info m.onnx", "info --model m.onnx"),
        ("export a.safetensors b.onnx", "export --model a.safetensors --out b.onnx"),
        ("export --name x a.safetensors --streams all b.onnx",
         "export --name x --model a.safetensors --streams all --out b.onnx"),
        ("convert a.onnx b.onnx --precision int8", "convert --model a.onnx --out b.onnx --precision int8"),
        ("evaluate a.onnx b.onnx --scenes 3", "evaluate --model a.onnx b.onnx --scenes 3"),
        (f"{evaluate_retrieval.NAME} x=a b --scenes 3", f"{evaluate_retrieval.NAME} --model x=a b --scenes 3"),
        ("ablate tiny_scenes --out x", "ablate --recipe tiny_scenes --out x"),
        ("data list flir", "data list --dataset flir"),
        ("data make-manifest x --layout ms2", "data make-manifest --data x --layout ms2"),
        ("bag make --from scenes --out x", "bag make --out x"),
        ("bag make --from x --out y", "bag make --data x --out y"),
    ],
)  # fmt: skip
def test_former_forms_work(before: str, today: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = _parser().parse_args(today.split())
    assert capsys.readouterr().err == ""
    assert _parser().parse_args(before.split()) == expected
    assert "is deprecated, use --" in capsys.readouterr().err


def test_former_meanings_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--recipe", "box_real", "--data", str(tmp_path / "x"), "--out", str(tmp_path / "y")]) == 1
    assert "finetune: warning: --data with --recipe is deprecated, use --data-root\n" in capsys.readouterr().err
    folder = tmp_path / "scenes"
    assert main(["data", "make-manifest", str(folder), "--layout", "scenes", "--scenes", "1", "--first", "3"]) == 0
    assert (folder / "rgb/0000003.png").is_file()
    assert "warning: --layout scenes is deprecated, use --scenes N --out DIR\n" in capsys.readouterr().err


def test_missing_option_is_wrong_usage_under_its_name_of_today(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", "a.safetensors"])
    assert stopped.value.code == 2
    assert "spectradino export: error: the following arguments are required: --out\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "bag run none --model m.onnx --out x",
        "bag info none",
        "calibrate time none",
        "data make-manifest --data none",
        "evaluate retrieval --model none",
        "info --model none",
    ],
)
def test_errors_name_the_full_command(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = words.partition(" none")[0].partition(" --")[0]
    assert main(words.split()) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"spectradino {command}: error: ")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("bag make --out x --split val", "--split has no effect without --data"),
        ("bag make --out x --rgb a", "--rgb is for own data, which --data gives"),
        ("bag evaluate b --model m --seed 1", "--seed has no effect without --sweep"),
        ("bag export b --out x --format yolo", "--format has no effect without --model"),
        ("bag export b --out x --min-change 0.1", "--min-change has no effect without --select motion"),
        ("convert --model m --out x --precision int8 --max-map-drop 1", "--max-map-drop has no effect without"),
        ("data check --dataset scenes --draw 4", "--draw has no effect without --out"),
        ("data make-manifest --data . --seed 4", "--seed has no effect without --scenes"),
        ("data make-manifest --data . --layout rasmd --split val", "--split has no effect on layout rasmd"),
        ("data make-manifest --data . --plane-distance 9", "--plane-distance has no effect on layout folder"),
        ("data make-manifest --scenes 2 --out x --bands nir", "--bands has no effect with --scenes"),
        ("data make-manifest --scenes 2 --out x --layout ms2", "--layout has no effect with --scenes"),
        ("evaluate retrieval --model m --data-root x", "--data-root has no effect without --manifest"),
    ],
)
def test_options_without_effect_are_refused(
    words: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spectradino_core.runtime.onnx_engine.OnnxEngine.__init__", None)  # refused before it is needed
    assert main(words.split()) == 1
    assert why in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_lists_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    for command, last in (("finetune", "smoke"), ("ablate", "paper_fmb")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert last in capsys.readouterr().out.partition("recipe: ")[2].partition("--")[0]


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        ("pretrain", ["each stage; default: s, b, l 100/10/75; g 50/10/30;", "default: s, b 256; l 128; g 48/48/32;",
                      "none; default: 3; omnivorous 3", "s 0.0002/0.0001/4e-05;", "else is fixed at: 0.07"]),
        ("finetune", ["default: flir 24, llvip 12,", "mcubes 518x518,", "default: 0.0001, tiny and test 0.001",
                      "default: 1e-05,", "none (default: 0.999)"]),
    ],
)  # fmt: skip
def test_help_shows_the_values_of_the_recipes(
    command: str, texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for text in texts:
        assert text in shown


def test_help_without_torch_says_what_is_missing() -> None:
    def listed() -> list[str]:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    parser = Parser(prog="x")
    add_option(parser, "--recipe", listed=listed)
    assert "recipe (names need the Python module torch)" in parser.format_help()


def test_examples_in_help_use_the_names_of_today(capsys: pytest.CaptureFixture[str]) -> None:
    count = 0
    for parser in parsers():
        lines = str(parser.epilog or "").replace("\\\n", " ").splitlines()
        for line in (line.strip() for line in lines if line.strip().startswith("spectradino ")):
            assert _parser().parse_args(shlex.split(line, comments=True)[1:])
            count += 1
    assert capsys.readouterr().err == ""
    assert count > 15


def test_refuse_takes_what_was_not_given() -> None:
    options = argparse.Namespace(a=None, b=False, c=(), d=[], data_root=0)
    refuse(options, "a b c d", "is refused")
    with pytest.raises(ValueError, match="--data-root is refused"):
        refuse(options, "a data-root", "is refused")


def test_former_name_of_a_required_option_is_enough() -> None:
    parser = Parser(prog="x")
    add_former(parser, add_option(parser, "--out", required=True), "--output")
    assert parser.parse_args(["--output", "y"]).out == Path("y")


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_torchrun_leaves_every_option_to_the_command(command: str) -> None:
    """Of an option that torchrun takes for an abbreviation of its own, there is another name."""
    pytest.importorskip("torch")
    from torch.distributed.run import parse_args

    def is_left(option: str) -> bool:
        try:
            return option in parse_args(["--standalone", "-m", "program", command, option, "1"]).training_script_args
        except SystemExit:
            return False

    parser = next(one for one in parsers() if name_of(one) == command)
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS:
            assert any(map(is_left, action.option_strings)), action.option_strings
