"""Completion scripts for bash, zsh and fish: verbs, their options, recipes, runs and files.

The words are written into the script, so that completing starts no Python; after an update, make it anew.
"""

from __future__ import annotations

import shlex
from argparse import Namespace

_RUN_VERBS = ("resume", "branch", "evaluate", "predict", "report")
_RECIPE_VERBS = ("train", "show", "doctor", "inspect-data", "prove-resume")


def completion(args: Namespace) -> int:
    """Print the script for a shell."""
    print({"bash": bash, "zsh": zsh, "fish": fish}[args.shell](), end="")
    return 0


def words() -> dict[str, list[str]]:
    """Return what may follow each verb: its options, and fixed words such as recipes."""
    from visloom.catalog import catalog
    from visloom.cli import VERBS

    refs = [entry.ref for entry in catalog()]
    found = {}
    for verb in VERBS:
        options = [name for option in verb.options for name in option.names if name.startswith("-")]
        fixed = [
            c for option in verb.options for c in option.more.get("choices", ()) if verb.name == "completion"
        ]
        found[verb.name] = [*(refs if verb.name in _RECIPE_VERBS else []), *fixed, *options, "--help"]
    return found


def bash() -> str:
    """The script for bash."""
    cases = "".join(
        f"        {verb}) words={shlex.quote(' '.join(follow))} ;;\n" for verb, follow in words().items()
    )
    return f"""# visloom completion for bash: eval "$(visloom completion bash)"
_visloom() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W {shlex.quote(" ".join(words()))} -- "$word"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}    esac
    case ${{COMP_WORDS[1]}} in
        {"|".join(_RUN_VERBS)}) words="$words latest $(cd runs 2>/dev/null && ls -d -- */ 2>/dev/null | tr -d /)" ;;
    esac
    # a recipe such as cifar10:fast is one word for visloom and three for bash
    local whole=$word
    if [ "$word" = : ]; then whole=${{COMP_WORDS[COMP_CWORD-1]}}:; fi
    if [ "${{COMP_WORDS[COMP_CWORD-1]}}" = : ]; then whole=${{COMP_WORDS[COMP_CWORD-2]}}:$word; fi
    COMPREPLY=($(compgen -W "$words" -- "$whole"))
    if [ "$whole" != "$word" ]; then COMPREPLY=("${{COMPREPLY[@]#*:}}"); fi
    if [ ${{#COMPREPLY[@]}} -eq 0 ]; then COMPREPLY=($(compgen -f -- "$word")); fi
}}
complete -o filenames -F _visloom visloom
"""


def zsh() -> str:
    """The script for zsh."""
    from visloom.cli import VERBS

    verbs = "\n".join(f"        {shlex.quote(f'{verb.name}:{verb.summary}')}" for verb in VERBS)
    cases = "\n".join(
        f"        {verb}) words=({' '.join(map(shlex.quote, follow))}) ;;" for verb, follow in words().items()
    )
    return f"""#compdef visloom
# visloom completion for zsh: eval "$(visloom completion zsh)"
_visloom() {{
    local -a verbs words
    verbs=(
{verbs}
    )
    if (( CURRENT == 2 )); then
        _describe verb verbs
        return
    fi
    case $words[2] in
        *) local verb=${{words[2]}} ;;
    esac
    case $verb in
{cases}
    esac
    case $verb in
        {"|".join(_RUN_VERBS)}) words+=(latest runs/*(N:t)) ;;
    esac
    compadd -a words
    _files
}}
compdef _visloom visloom
"""


def fish() -> str:
    """The script for fish."""
    from visloom.cli import VERBS

    lines = ["# visloom completion for fish: visloom completion fish | source"]
    for verb in VERBS:
        about = shlex.quote(verb.summary)
        lines.append(f"complete -c visloom -n __fish_use_subcommand -f -a {verb.name} -d {about}")
        seen = f"__fish_seen_subcommand_from {verb.name}"
        for option in verb.options:
            for name in option.names:
                if name.startswith("--"):
                    needs = "" if option.more.get("action") == "store_true" else " -r"
                    about = shlex.quote(option.more.get("help", ""))
                    lines.append(f"complete -c visloom -n '{seen}' -l {name[2:]}{needs} -d {about}")
    for verb_name, follow in words().items():
        fixed = [word for word in follow if not word.startswith("-")]
        if fixed:
            seen = f"__fish_seen_subcommand_from {verb_name}"
            lines.append(f"complete -c visloom -n '{seen}' -a {shlex.quote(' '.join(fixed))}")
    runs = "(path basename runs/* 2>/dev/null) latest"
    lines.append(
        f"complete -c visloom -n '__fish_seen_subcommand_from {' '.join(_RUN_VERBS)}' -a {shlex.quote(runs)}"
    )
    return "\n".join(lines) + "\n"
