"""The command line itself: help without torch, exit codes, messages, unknown words."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import visloom
from visloom import cli
from visloom.errors import (
    CheckpointError,
    ConfigError,
    ContractError,
    DataError,
    DirectoryInUse,
    NonFiniteError,
    Preempted,
    UsageError,
)

HEAVY = ("torch", "torchvision", "timm", "cv2", "matplotlib", "rich")


def run(*words, capsys):
    code = cli.main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


# --------------------------------------------------------------------------------------------------- light words


def test_a_typing_error_costs_no_import_of_torch():
    script = (
        "import sys\n"
        "from visloom.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, 'torch' in sys.modules)"
    )
    for words, code in (
        (["train", "cifar10", "optim.lrr=3"], 3),
        (["train", "cifar11"], 3),
        (["train", "cifar10", "--limit", "2", "--overfit", "2"], 2),
        (["predict", "no-such-run", "a.jpg", "--out", "found"], 3),
        (["evaluate", "no-such-run"], 3),
        (["export", "no-such-run", "--to", "onnx", "--out", "m.onnx"], 3),
        (["resume", "no-such-run"], 3),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == f"{code} False", (words, done.stdout, done.stderr)


def test_help_names_every_format_of_the_converters(capsys):
    from visloom.convert.common import MODULES

    for verb in ("import-checkpoint", "import-config"):
        _, out, _ = run(verb, "--help", capsys=capsys)
        assert all(name in out for name in MODULES), out


def test_help_recipes_and_completion_import_no_torch():
    script = (
        "import sys\n"
        "from visloom.cli import VERBS, main\n"
        "codes = [main(['--help']), main(['recipes']), main(['--version']), main(['trian'])]\n"
        "codes += [main([verb.name, '--help']) for verb in VERBS]\n"
        "codes += [main(['completion', shell]) for shell in ('bash', 'zsh', 'fish')]\n"
        "codes += [main(['show', 'town'])]\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print('RESULT', codes, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    codes = [0, 0, 0, 2] + [0] * len(cli.VERBS) + [0] * 4
    assert done.stdout.splitlines()[-1] == f"RESULT {codes} []"


def test_help_names_every_verb_within_80_columns(capsys):
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    for verb in cli.VERBS:
        assert f"  {verb.name} " in out
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize("verb", cli.VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_help_with_examples_that_parse(verb, capsys):
    code, out, _ = run(verb.name, "--help", capsys=capsys)
    assert code == 0 and "examples:" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    for example in verb.examples:
        words = example.split("visloom ", 1)[1].split("|")[0].replace('"', "").replace(")", "").split()
        other = next(v for v in cli.VERBS if v.name == words[0])
        other.parser().parse_intermixed_args(words[1:])
    function = getattr(
        __import__(f"visloom.commands.{verb.module}", fromlist=["x"]), verb.name.replace("-", "_")
    )
    assert callable(function)


def test_settings_may_stand_between_options():
    verb = next(v for v in cli.VERBS if v.name == "train")
    args = verb.parser().parse_intermixed_args(["r", "a=1", "--data", "D", "b=-2", "--dry-run", "c=3"])
    assert (args.recipe, args.settings, args.data, args.dry_run) == ("r", ["a=1", "b=-2", "c=3"], "D", True)


def test_no_words_print_help_and_are_a_usage_error(capsys):
    code, out, _ = run(capsys=capsys)
    assert code == 2 and "usage: visloom VERB" in out


def test_help_of_a_verb_by_the_word_help(capsys):
    code, out, _ = run("help", "train", capsys=capsys)
    assert code == 0 and out.startswith("usage: visloom train")


def test_version(capsys):
    assert run("--version", capsys=capsys)[:2] == (0, f"visloom {visloom.__version__}\n")


# ------------------------------------------------------------------------------------------------- wrong words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "x"], "did you mean visloom train?"),
        (["cifar10"], "to train it: visloom train cifar10"),
        (["town:large"], "to train it: visloom train town:large"),
        (["train"], "the following arguments are required: RECIPE"),
        (["train", "town", "--datas", "x"], "did you mean --data?"),
        (["train", "town", "--nproc", "two"], "--nproc"),
        (["train", "town", "--limit", "-3"], "expected a number from 0"),
        (["train", "town", "--limit", "0"], "--limit takes a number of samples from 1"),
        (["train", "town", "--limit", "3", "--overfit", "3"], "exclude each other"),
        (["train", "town", "--log-level", "loud"], "invalid choice"),
        (["train", "town", "--gpus", "a"], "--gpus is a list of different GPU numbers"),
        (["train", "town", "--nproc", "0"], "--nproc is a number from 1"),
        (["demo", "classfy"], "did you mean classify?"),
        (["new", "x.txt", "--data", "."], "a recipe file ends in .yaml"),
        (["show", "town", "--model", "--diff", "town"], "two different pictures"),
        (["prove-resume", "--kills", "-1"], "expected a number from 0"),
        (["completion", "tcsh"], "invalid choice"),
    ],
)
def test_usage_errors_exit_2(words, said, capsys):
    code, _, err = run(*words, capsys=capsys)
    assert code == 2
    assert err.startswith("error: ") and said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "twon"], "did you mean town?"),
        (["train", "town", "optim.lrr=1"], "did you mean optim.lr"),
        (["train", "town", "optim.lr", "0.1"], "expected path=value"),
        (["train", "town", "length=epoch:3"], "epochs"),
        (["train", "town", "--device", "tpu"], "host.device"),
        (["train", "missing.yaml"], "there is no file missing.yaml"),
        (["resume", "nothing-there"], "no run 'nothing-there'"),
        (["evaluate", "nothing-there"], "no run 'nothing-there'"),
        (["report", "nothing-there"], "no run 'nothing-there'"),
    ],
)
def test_config_errors_exit_3(words, said, capsys):
    code, _, err = run(*words, capsys=capsys)
    assert code == 3
    assert err.startswith("error: ") and said in err
    assert "Traceback" not in err


def test_data_errors_exit_4(tmp_path, capsys):
    code, _, err = run("new", str(tmp_path / "a.yaml"), "--data", str(tmp_path / "no"), capsys=capsys)
    assert code == 4 and "there is no such folder" in err


# ----------------------------------------------------------------------------------------------------- endings


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UsageError("u"), 2, "error: u"),
        (ConfigError("c"), 3, "error: c"),
        (ContractError("k"), 3, "error: k"),
        (CheckpointError("p"), 3, "error: p"),
        (DirectoryInUse("d"), 3, "error: d"),
        (DataError("two\n  lines"), 4, "error: two\n  lines"),
        (NonFiniteError("n"), 5, "error: n"),
        (Preempted("SIGTERM received"), 75, "stopped: SIGTERM received"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_ending_has_its_code_and_no_traceback(raised, code, said, monkeypatch, capsys):
    def fail(words):
        raise raised

    monkeypatch.setattr(cli, "run", fail)
    assert run("train", capsys=capsys) == (code, "", f"{said}\n")


def test_a_bug_is_told_as_one_with_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr(cli, "overview", lambda: 1 / 0)
    monkeypatch.setattr(cli, "_own_place", lambda error: "")
    code, _, err = run("--help", capsys=capsys)
    assert code == 1
    assert "Traceback" in err
    assert "error: this is a bug in Visloom: ZeroDivisionError: division by zero" in err
    assert visloom.__version__ in err


def test_a_failure_in_a_users_file_names_its_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "own.py"
    file.write_text("def work(words):\n    return {}['no such key']\n")
    namespace = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    monkeypatch.setattr(cli, "run", namespace["work"])
    code, _, err = run("train", capsys=capsys)
    assert code == 1
    assert f"error: your code failed at {file}:2: KeyError: 'no such key'" in err
    assert "bug in Visloom" not in err


def test_out_of_memory_is_answered_with_advice(monkeypatch, capsys):
    def fail(words):
        raise MemoryError("no room for 8 GB")

    monkeypatch.setattr(cli, "run", fail)
    code, _, err = run("train", capsys=capsys)
    assert code == 1 and "out of memory" in err and "train.batch" in err and "Traceback" not in err


def test_messages_cannot_reach_into_the_terminal(monkeypatch, capsys):
    def fail(words):
        raise DataError("bad \x1b[2J file\u202e name\r")

    monkeypatch.setattr(cli, "run", fail)
    _, _, err = run("train", capsys=capsys)
    assert "\x1b" not in err and "\u202e" not in err and "\r" not in err
    assert "\\x1b[2J" in err


def test_a_narrow_encoding_is_no_reason_to_fail(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    cli.tell("error: file grün.jpg")
    assert raw.getvalue() == b"error: file gr\\xfcn.jpg\n"


def test_a_reader_that_goes_away_ends_quietly():
    command = f"{sys.executable} -m visloom show town | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 141)
    assert (
        done.stdout.strip() == "name: town" and "Traceback" not in done.stderr and "rror" not in done.stderr
    )


# ------------------------------------------------------------------------------------------------ public names


def test_every_public_name_resolves_and_modules_do_not_shadow_functions():
    for name in visloom.__all__:
        value = getattr(visloom, name)
        assert value is not None
    for verb in ("train", "resume", "branch", "evaluate", "predict", "load"):
        assert callable(getattr(visloom, verb))
        assert not (Path(visloom.__file__).parent / f"{verb}.py").exists()


# -------------------------------------------------------------------------------------------------- completion


def test_completion_knows_verbs_options_and_recipes(capsys):
    for shell in ("bash", "zsh", "fish"):
        _, out, _ = run("completion", shell, capsys=capsys)
        for word in ("prove-resume", "overfit", "cifar10:resnet50"):
            assert word in out, (shell, word)


def completed(line, tmp_path):
    """What bash offers after this line."""
    words = line.split(" ")
    script = (
        f'eval "$({sys.executable} -m visloom completion bash)"\n'
        f"COMP_WORDS=({' '.join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}; _visloom\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    paths = os.pathsep.join([str(Path(visloom.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    return done.stdout.split()


def test_bash_completes_verbs_options_recipes_and_runs(tmp_path):
    (tmp_path / "runs" / "tiny-001").mkdir(parents=True)
    assert completed("visloom pred", tmp_path) == ["predict"]
    assert completed("visloom train --dr", tmp_path) == ["--dry-run"]
    assert "cifar10" in completed("visloom train cif", tmp_path)
    assert completed("visloom resume ti", tmp_path) == ["tiny-001"]
    assert completed("visloom completion f", tmp_path) == ["fish"]
    assert completed("visloom train cifar10 : resnet5", tmp_path) == ["resnet50"]  # as bash splits it
