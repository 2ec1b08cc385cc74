"""The command line: a table of verbs. What a verb does stands in `visloom/commands/`, its options here.

Nothing in this file imports torch, so that help and completion are instant. `main` turns every outcome into an
exit code: 0 done, 2 usage, 3 config, 4 data, 5 a number that is not finite, 6 a process of several was lost, 75
saved and left because a signal said so, 130 left at once because of Ctrl-C, 1 a bug.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from visloom import __version__
from visloom.errors import Preempted, ProcessLost, UsageError, VisloomError
from visloom.words import safe

INTERRUPTED = 130
BROKEN_PIPE = 141


@dataclass(frozen=True, init=False)
class Option:
    """One argument of a verb: what `argparse.add_argument` takes."""

    names: tuple[str, ...]
    more: dict[str, Any]

    def __init__(self, *names: str, **more: Any) -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "more", more)


@dataclass(frozen=True)
class Verb:
    """One verb: the module of `visloom.commands` with the function of its name, its options and examples."""

    name: str
    module: str
    summary: str
    options: tuple[Option, ...]
    examples: tuple[str, ...]

    def parser(self) -> Parser:
        """Return the parser of what follows the verb."""
        lines = "\n".join(f"  {line}" for line in self.examples)
        parser = Parser(
            prog=f"visloom {self.name}",
            description=self.summary,
            epilog=f"examples:\n{lines}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for option in self.options:
            parser.add_argument(*option.names, **option.more)
        return parser

    def run(self, words: Sequence[str]) -> int:
        """Parse the words after the verb and do it; returns the exit code."""
        args = self.parser().parse_intermixed_args(list(words))
        args.words = [self.name, *words]
        module = import_module(f"visloom.commands.{self.module}")
        code: int | None = getattr(module, self.name.replace("-", "_"))(args)
        return code or 0


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of leaving, and names the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where help is."""
        from visloom.place import did_you_mean, nearest

        hint = ""
        if message.startswith("unrecognized arguments:"):
            wrong = message.partition(": ")[2].split()[0].partition("=")[0]
            known = [name for action in self._actions for name in action.option_strings]
            hint = did_you_mean(nearest(wrong, known))
        lines = [message, *([f"  {hint}"] if hint else []), f"  see: {self.prog} --help"]
        raise UsageError("\n".join(lines))


def _number(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return value


_RECIPE = Option("recipe", metavar="RECIPE", help="a recipe (cifar10:fast), a .py or .yaml file, or a run")
_RUN = Option("run", metavar="RUN", help="a run directory or its name; RUN@STEP, RUN@best; or a checkpoint")
_SAVED = Option("run", metavar="RUN", help="as RUN elsewhere, or a weights file of an original system")
_SETTINGS = Option(
    "settings", metavar="path=value", nargs="*", help="settings: optim.lr=0.02 length=epochs:50"
)
_DATA = Option("--data", metavar="DIR", help="folder that the data lie in (host.data)")
_OUT = Option("--out", metavar="DIR", help="folder that run directories are made in (host.out)")
_DEVICE = Option("--device", metavar="D", help="auto, cpu, cuda, cuda:1 or mps (host.device)")
_TTA = Option(
    "--tta",
    metavar="flip",
    help="views put together: flip; for segmentation and detection also flip,0.75,1.25",
)
_NPROC = Option("--nproc", metavar="N", type=_number, help="processes on this machine, one per device")
_GPUS = Option("--gpus", metavar="0,2", help="use only these GPUs, one process each")
_TRUST = Option(
    "--trust", action="store_true", help="let settings and run directories import code of any module"
)
_DRIVE = Option(
    "--drive", metavar="FILE", help="take the run's own loop and classes from FILE (implies --trust)"
)
_LEVEL = Option(
    "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="what the screen shows"
)
_JOB = (_DATA, _DEVICE, _NPROC, _GPUS, _TRUST, _LEVEL)
_REHEARSAL = Option("--dry-run", action="store_true", help="do everything for two steps and keep nothing")

VERBS: tuple[Verb, ...] = (
    Verb(
        "demo", "training", "See it work: train on a built-in world and write a report.",
        (
            Option("systems", metavar="SYSTEM", nargs="*", help="classify, segment, parse, adapt, fusion (all five)"),
            _OUT, _DEVICE, _LEVEL,
        ),
        ("visloom demo", "visloom demo classify", "visloom demo parse fusion --out demo-runs"),
    ),
    Verb(
        "new", "looking", "Look at a folder of data and write a recipe for it.",
        (
            Option("file", metavar="NAME.yaml", help="the recipe to write; nothing is overwritten"),
            Option("--data", metavar="DIR", required=True, help="the folder to look at"),
        ),
        ("visloom new flowers.yaml --data photos/flowers", "visloom train flowers.yaml"),
    ),
    Verb(
        "train", "training", "Train a recipe in a new run directory.",
        (
            _RECIPE, _SETTINGS, _OUT, *_JOB,
            Option("--limit", metavar="N", type=_number, help="use only N samples of every data set"),
            Option("--overfit", metavar="N", type=_number, help="learn N samples by heart: a test of the task"),
            _REHEARSAL,
        ),
        (
            "visloom train cifar10:fast --data DIR",
            "visloom train mine.yaml optim.lr=0.02 length=epochs:50",
            "visloom train mine.py --data DIR --nproc 2",
            "visloom train mine.yaml --dry-run",
        ),
    ),
    Verb(
        "resume", "training", "Go on with a run where it stopped, with identical bits.",
        (_RUN, _SETTINGS, *_JOB, _DRIVE),
        ("visloom resume latest", "visloom resume cifar10-003@12000 length=epochs:300"),
    ),
    Verb(
        "branch", "training", "Start a new run from a checkpoint, with changes.",
        (_RUN, _SETTINGS, _OUT, *_JOB, _DRIVE),
        ("visloom branch cifar10-003@12000 optim.lr=0.001",),
    ),
    Verb(
        "evaluate", "using", "Evaluate a run's best weights.",
        (
            _RUN,
            Option("--on", metavar="NAME", help="one evaluation of the run; the default is all of them"),
            Option("--json", metavar="FILE", help="also write the values and tables as JSON; - is the screen"),
            Option("--out", metavar="DIR", help="also write tables, curves, pictures and the task's own files"),
            Option("--pictures", metavar="N", type=_number, default=16, help="how many pictures of samples (16)"),
            _TTA, _DATA, _DEVICE, _TRUST,
        ),
        ("visloom evaluate cifar10-003", "visloom evaluate runs/cifar10-003@12000 --on test --json test.json",
         "visloom evaluate nuscenes-004 --tta flip --out results"),
    ),
    Verb(
        "predict", "using", "Predict pictures: a CSV table, and the pictures drawn.",
        (
            _SAVED,
            Option("images", metavar="IMAGES", nargs="+", help="files, globs and folders; for 3D detection a data set"),
            Option("--out", metavar="DIR", required=True, help="folder for predictions.csv and the pictures"),
            Option("--part", metavar="NAME", help="of a data set: a split, a scene, or all"),
            Option("--ext", metavar="jpg", action="append", help="file endings that count in folders"),
            Option("--recursive", action="store_true", help="also look into folders inside folders"),
            _TTA,
            Option("--sliding", action="store_true", help="average over windows that slide over the picture"),
            Option("--probabilities", action="store_true", help="also write probabilities of all classes"),
            Option("--pictures", metavar="N", type=_number, help="how many pictures to draw (500)"),
            _DEVICE, _TRUST,
        ),
        (
            "visloom predict cifar10-003 photos/ --out predictions",
            "visloom predict latest 'photos/**/*.jpg' --out predictions --tta flip",
            "visloom predict latest photos/ --out found --tta flip,0.75,1.25",
            "visloom predict epoch_20.pth photos/ --out predictions",
            "visloom predict nuscenes-004 /data/nuscenes --part mini_val --out boxes",
        ),
    ),
    Verb(
        "show", "looking", "Show a recipe: every setting, or its network.",
        (
            _RECIPE, _SETTINGS,
            Option("--diff", metavar="OTHER", help="show only what differs from another recipe or run"),
            Option("--model", action="store_true", help="show layers, parameters and operations"),
            Option("--write", metavar="FILE.yaml", help="write every setting to a file that trains"),
            _DATA, _TRUST,
        ),
        (
            "visloom show cifar10",
            "visloom show cifar10 --diff cifar10:resnet50",
            "visloom show cifar10:fast --model",
            "visloom show cifar10 optim.lr=0.05 --write mine.yaml",
        ),
    ),
    Verb("recipes", "looking", "List the recipes.", (), ("visloom recipes",)),
    Verb(
        "doctor", "looking", "Look whether this machine, and a recipe on it, can train.",
        (
            Option("recipe", metavar="RECIPE", nargs="?", help="also take one training step of this recipe"),
            _SETTINGS, _DATA, _DEVICE, _TRUST,
        ),
        ("visloom doctor", "visloom doctor cifar10 --data DIR"),
    ),
    Verb(
        "inspect-data", "looking", "Look at a recipe's data, in numbers and pictures.",
        (
            _RECIPE, _SETTINGS, _DATA,
            Option("--out", metavar="DIR", help="folder for the contact sheets (inspect-NAME)"),
            _TRUST,
        ),
        ("visloom inspect-data mine.yaml", "visloom inspect-data cifar10 --data DIR --out sheets"),
    ),
    Verb(
        "prove-resume", "training", "Kill a training, resume it, compare the files by bits.",
        (
            Option("recipe", metavar="RECIPE", nargs="?", default="town", help="what to train (town)"),
            _SETTINGS, _DATA, _DEVICE, _TRUST,
            Option("--kills", metavar="N", type=_number, default=6, help="how often to kill it (6)"),
            Option("--seed", metavar="N", type=_number, default=0, help="draws the moments of the kills"),
            Option("--keep-runs", metavar="DIR", help="keep both runs in this folder"),
        ),
        ("visloom prove-resume", "visloom prove-resume cifar10:fast --data DIR --kills 20"),
    ),
    Verb(
        "import-checkpoint", "converting", "Turn weights of an original system into a run.",
        (
            Option("format", metavar="FORMAT", help="mmcls, template, upp, centerfusion or maskrcnn"),
            Option("files", metavar="FILE", nargs="+", help="its weights; several files if it keeps them apart"),
            Option("--out", metavar="CKPT", required=True, help="the run directory to make"),
            Option("--into", metavar="RECIPE", help="the run they belong to: its data, transforms and optimizer"),
            Option("--at", metavar="epoch:N", help="how far the training was, if the file does not say"),
            Option(
                "--option", metavar="name=value", action="append", help="what only this format needs to be told"
            ),
            Option("--partial", action="store_true", help="keep the rest although some keys are not supported"),
            Option("--all", action="store_true", help="list every key, also where all is well"),
            _DATA, _TRUST,
        ),
        (
            "visloom import-checkpoint mmcls epoch_20.pth --out old",
            "visloom import-checkpoint mmcls epoch_20.pth --into cifar10:resnet50 --out old",
            "visloom predict epoch_20.pth photos/ --out predictions",
            "visloom predict nuscenes-004 /data/nuscenes --part mini_val --out boxes",
        ),
    ),
    Verb(
        "import-config", "converting", "Turn a config of an original system into a recipe.",
        (
            Option("format", metavar="FORMAT", help="mmcls, template, upp, centerfusion or maskrcnn"),
            Option("file", metavar="FILE", help="its config; it is read, never executed"),
            Option("--out", metavar="FILE.yaml", required=True, help="the recipe to write"),
            Option(
                "--option", metavar="name=value", action="append", help="what only this format takes: compat=true, ..."
            ),
            Option("--partial", action="store_true", help="write it although some keys are not supported"),
        ),
        ("visloom import-config mmcls resnet50_b16x8_cifar10.py --out mine.yaml", "visloom train mine.yaml"),
    ),
    Verb(
        "export", "converting", "Write a run's weights for other programs.",
        (
            _RUN,
            Option("--to", required=True, choices=("onnx", "torch-export", "state-dict"), help="what to write"),
            Option(
                "--keys", default="visloom", choices=("visloom", "original"), help="names of a state-dict's tensors"
            ),
            Option("--out", metavar="FILE", required=True, help="the file: .onnx, .pt2, or .pth or .safetensors"),
            Option("--size", metavar="N", type=_number, help="side of the pictures, if transforms do not tell"),
            _TRUST,
        ),
        (
            "visloom export cifar10-003 --to onnx --out model.onnx",
            "visloom predict model.onnx photos/ --out predictions",
            "visloom export cifar10-003 --to state-dict --keys original --out old.pth",
        ),
    ),
    Verb(
        "report", "using", "Write report.html of runs again.",
        (Option("runs", metavar="RUN", nargs="+", help="run directories or their names"),),
        ("visloom report latest", "visloom report runs/cifar10-*"),
    ),
    Verb(
        "completion", "completion", "Print a completion script for a shell.",
        (Option("shell", choices=("bash", "zsh", "fish"), help="which shell"),),
        (
            'bash: eval "$(visloom completion bash)"',
            'zsh:  eval "$(visloom completion zsh)"',
            "fish: visloom completion fish | source",
        ),
    ),
)  # fmt: skip


def overview() -> str:
    """The text of `visloom --help`."""
    width = max(len(verb.name) for verb in VERBS)
    lines = [f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS]
    return "\n".join(
        [
            f"visloom {__version__}: one training engine for five vision systems",
            "",
            "usage: visloom VERB ...",
            "",
            *lines,
            "",
            "visloom VERB --help explains a verb, with examples. Start with: visloom demo",
        ]
    )


def run(words: Sequence[str]) -> int:
    """Do what the words say and return the exit code; raises what goes wrong."""
    from visloom.console import Plain

    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1 and words[0] == "help":
            return run([words[1], "--help"])
        Plain().line([(overview(), "")])
        return 0 if words else UsageError.exit_code
    if words[0] in ("-V", "--version"):
        Plain().line([(f"visloom {__version__}", "")])
        return 0
    verb = next((verb for verb in VERBS if verb.name == words[0]), None)
    if verb is None:
        raise UsageError(_unknown(words[0]))
    return verb.run(words[1:])


def _unknown(word: str) -> str:
    from visloom.place import did_you_mean, nearest
    from visloom.refs import recipes

    near = nearest(word, [verb.name for verb in VERBS])
    hint = did_you_mean(f"visloom {name}" for name in near)
    if not hint and (word.partition(":")[0] in recipes() or Path(word).exists()):
        hint = f"to train it: visloom train {safe(word)}"
    lines = [f"there is no verb {word!r}", *([f"  {hint}"] if hint else []), "  see: visloom --help"]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ how it ends


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what went wrong is on standard error."""
    from visloom.launcher import launched, leave_word, tie_to_parent

    words = list(sys.argv[1:] if argv is None else argv)
    child = launched()
    if child:
        tie_to_parent()
    code, message = _guarded(words)
    if child:
        leave_word(code, message)
    elif message:
        if os.environ.get("WORLD_SIZE", "1") != "1":  # torchrun started several
            from visloom.peers import first_to_say

            message = first_to_say(message, once=code == Preempted.exit_code)
        if message:
            tell(message)
    return code


def _guarded(words: Sequence[str]) -> tuple[int, str]:
    """Run, and return the exit code and what is to be said."""
    try:
        return run(words), ""
    except Preempted as error:
        return error.exit_code, f"stopped: {error}"
    except ProcessLost as error:
        return error.exit_code, "" if error.told else f"error: {error}"
    except VisloomError as error:
        return error.exit_code, f"error: {error}"
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted"
    except BrokenPipeError:  # the reader of our output is gone: `visloom recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE, ""
    except SystemExit as error:  # --help
        return int(error.code or 0), ""
    except Exception as error:
        return 1, unexpected(error)


def tell(message: str) -> None:
    """Write a message to standard error; on a terminal it is wrapped, and its first word is red."""
    from visloom.console import Plain

    terminal = sys.stderr.isatty()
    screen = Plain(sys.stderr)
    plain = True  # a traceback stays as it is
    for line in map(safe, message.splitlines()):
        head, colon, _ = line.partition(":")
        plain = plain and not (colon and head in ("error", "stopped"))
        for number, part in enumerate([line] if plain or not terminal else _wrapped(line)):
            if (
                number == 0
                and terminal
                and part.startswith(("error:", "stopped:"))
                and not os.environ.get("NO_COLOR")
            ):
                part = f"\x1b[1;31m{head}:\x1b[0m{part[len(head) + 1 :]}"
            screen.line([(part, "")])


def _wrapped(line: str) -> list[str]:
    """Wrap a line for the terminal; further lines are indented like it, or by two."""
    import shutil
    import textwrap

    indent = " " * max(2, len(line) - len(line.lstrip()))
    width = max(40, shutil.get_terminal_size().columns - 1)
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]


def unexpected(error: Exception) -> str:
    """Say what an error is that no code foresaw: its traceback, whose code it comes from, and what to do."""
    if _out_of_memory(error):
        return (
            f"error: out of memory: {_first_line(error)}\n"
            "  try a smaller train.batch, how.accumulate=2, how.precision=bf16 or fewer host.workers"
        )
    trace = "".join(traceback.format_exception(error)).rstrip()
    what = f"{type(error).__name__}: {_first_line(error)}"
    place = _own_place(error)
    if place:
        return f"{trace}\nerror: your code failed at {place}: {what}"
    return (
        f"{trace}\nerror: this is a bug in Visloom: {what}\n"
        f"  please report it with the lines above (visloom {__version__}); a run's log.txt has them too"
    )


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, a device, or torch's allocator of host memory (a plain RuntimeError) had no more memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0]


def _own_place(error: BaseException) -> str:
    """The innermost line of a traceback if it is neither Visloom's nor a library's: that of a user's file."""
    package = str(Path(__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(package):
            return ""
        library = "site-packages" in frame.filename or frame.filename.startswith(
            (sys.prefix, sys.base_prefix)
        )
        if not library and not frame.filename.startswith("<"):
            return f"{frame.filename}:{frame.lineno}"
    return ""
