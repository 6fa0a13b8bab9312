"""Scripts by which a shell completes what is typed after `hierax`: commands, options, choices, names of models, files.

A script holds all that there is to know, so that a key press starts no Python.
"""

from __future__ import annotations

import shlex
from typing import Literal

from tyro.conf import Positional

from .. import console
from ..weights.catalog import list_models
from .signature import Parameter, parameters

Choices = dict[str, list[str]]  # what may follow, by what was typed
_EVERYWHERE = ("-q", "--quiet", "-v", "--verbose")

# Bash and zsh differ in their names for what was typed, and in how they are answered.
_POSIX = """\
{head}
_hierax() {{
    local current=${{{typed}}} before=${{{previous}}} command="" word choices=""
    for word in "${{{between}}}"; do
        [[ $word == -* && -z $command ]] && continue
        [[ $word == -* ]] && break
        command+="${{command:+ }}$word"
        [[ " {groups} " == *" $command "* ]] || break
    done
    case "$command $before" in
{values}
    esac
    if [[ -z $choices && $current == -* ]]; then
        case $command in
{options}
        esac
    elif [[ -z $choices ]]; then
        case $command in
{words}
        esac
    fi
    {answer}
}}
{register}
"""
_BASH = {
    "head": """\
# bash completion of hierax. For this shell: source <(hierax completion bash)
# For good: hierax completion bash > ~/.local/share/bash-completion/completions/hierax""",
    "typed": "COMP_WORDS[COMP_CWORD]",
    "previous": "COMP_WORDS[COMP_CWORD-1]",
    "between": "COMP_WORDS[@]:1:COMP_CWORD-1",
    "answer": 'COMPREPLY=($(compgen -W "$choices" -- "$current"))',
    "register": "complete -o bashdefault -o default -F _hierax hierax",
}
_ZSH = {
    "head": """\
#compdef hierax
# zsh completion of hierax. For this shell, after compinit: source <(hierax completion zsh)
# For good, in a folder of $fpath: hierax completion zsh > ~/.zfunc/_hierax""",
    "typed": "words[CURRENT]",
    "previous": "words[CURRENT-1]",
    "between": "(@)words[2,CURRENT-1]",
    "answer": "compadd -- ${=choices} || _files",
    "register": 'if [[ ${funcstack[1]} == _hierax ]]; then _hierax "$@"; else compdef _hierax hierax; fi',
}
_FISH = """\
# fish completion of hierax. For this shell: hierax completion fish | source
# For good: hierax completion fish > ~/.config/fish/completions/hierax.fish
function __hierax_command
    set -l command
    for word in (commandline -opc)[2..-1]
        if string match -q -- '-*' $word
            test -n "$command"; and break
            continue
        end
        set -a command $word
        contains -- "$command" {groups}; or break
    end
    test "$command" = "$argv"
end
function __hierax_models
    string split ' ' '{models}'
end
"""


def completion(shell: Positional[Literal["bash", "zsh", "fish"]]) -> None:
    """Print the script by which a shell completes commands, options, choices and names of models.

    Args:
        shell: Whose script; its first lines say where to put it.
    """
    from ..cli import COMMANDS, command

    taken = {name: parameters(command(name)) for name in COMMANDS}
    console.emit(_fish(taken) if shell == "fish" else _posix({"bash": _BASH, "zsh": _ZSH}[shell], taken), end="")


def _posix(shell: dict[str, str], taken: dict[str, list[Parameter]]) -> str:
    """A script of bash or of zsh."""
    values: Choices = {}
    options: Choices = {"": [*_EVERYWHERE, "--help", "--version"]}
    words = _next_words(list(taken))
    for name, given in taken.items():
        options[name] = [*_EVERYWHERE, "--help", *(flag for each in given for flag in each.flags)]
        for each in given:
            for flag in each.flags:
                values[f"{name} {flag}"] = _values(each)
            if not each.flags and _values(each):
                words[name] = _values(each)
    parts = {"values": values, "options": options, "words": words}
    groups = " ".join(_groups(list(taken)))
    return _POSIX.format(**shell, groups=groups, **{name: _cases(choices) for name, choices in parts.items()})


def _cases(choices: Choices) -> str:
    """The lines of a `case`, one for each list of choices."""
    asked: dict[str, list[str]] = {}
    for typed, found in choices.items():
        if found:
            asked.setdefault(" ".join(found), []).append(shlex.quote(typed))
    return "\n".join(f"        {'|'.join(typed)}) choices={shlex.quote(found)} ;;" for found, typed in asked.items())


def _fish(taken: dict[str, list[Parameter]]) -> str:
    """A script of fish."""
    lines = [_FISH.format(groups=" ".join(_groups(list(taken))), models=" ".join(list_models()))]

    def line(command: str, *rest: str) -> None:
        lines.append(shlex.join(["complete", "-c", "hierax", "-n", f"__hierax_command {command}".rstrip(), *rest]))

    for command, words in _next_words(list(taken)).items():
        line(command, "-f", "-a", " ".join(words))
    for command, given in taken.items():
        for each in given:
            values = "(__hierax_models)" if each.names_model else " ".join(each.choices)
            long = [part for flag in each.flags for part in ("-l" if flag[:2] == "--" else "-s", flag.lstrip("-"))]
            takes = ["-x" if each.choices else "-r"] if long and each.takes_value else []
            if long or values:
                line(command, *long, *takes, *(["-a", values] if values else []))
    for command in ("", *taken):
        line(command, "-s", "q", "-l", "quiet")
        line(command, "-s", "v", "-l", "verbose")
    return "\n".join(lines) + "\n"


def _groups(commands: list[str]) -> list[str]:
    """First words of commands of several."""
    return sorted({name.split()[0] for name in commands if " " in name})


def _next_words(commands: list[str]) -> Choices:
    """The words of commands, by those before."""
    words: Choices = {}
    for name in commands:
        typed: list[str] = []
        for word in name.split():
            after = words.setdefault(" ".join(typed), [])
            if word not in after:
                after.append(word)
            typed.append(word)
    return words


def _values(parameter: Parameter) -> list[str]:
    """What may stand for a parameter; nothing where only its reader knows, or where it is a file."""
    return list_models() if parameter.names_model else list(parameter.choices)
