"""The scripts of bash, zsh and fish that ask mpt, and the answer in each one's form."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mpt.completion.candidates import SHELLS, Candidate

# Bash gets whole words, and replaces only what follows the last of COMP_WORDBREAKS.
BASH = r"""
_mpt_completion() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$'\n'
    local word=${line##*[[:space:]]} broken=
    COMPREPLY=($(COMP_LINE=$line "${COMP_WORDS[0]}" -sc query=bash 2>/dev/null))
    case $COMP_WORDBREAKS in *=*) broken='=' ;; esac
    case $COMP_WORDBREAKS in *:*) broken+=':' ;; esac
    if [[ -n $broken && $word == *[$broken]* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[$broken]}"}"}")
    fi
}
complete -o nospace -F _mpt_completion mpt
"""

ZSH = r"""#compdef mpt
_mpt() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX" text help
    local -a open open_shown done done_shown
    while IFS=$'\t' read -r text help; do
        if [[ $text == *[=/] ]]; then
            open+=("$text"); open_shown+=("$text${help:+  -- $help}")
        else
            done+=("$text"); done_shown+=("$text${help:+  -- $help}")
        fi
    done < <(COMP_LINE=$line "${words[1]}" -sc query=zsh 2>/dev/null)
    compadd -l -S '' -d open_shown -a open
    compadd -l -d done_shown -a done
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
compdef _mpt mpt
"""

FISH = r"""
function __mpt_complete
    set -lx COMP_LINE (commandline -cp)
    set -l program (commandline -opc)[1]
    $program -sc query=fish 2>/dev/null
end
complete -c mpt -f -a '(__mpt_complete)'
"""

SCRIPTS = dict(zip(SHELLS, (BASH, ZSH, FISH), strict=True))
INSTALLED = {
    "bash": '# in ~/.bashrc:  eval "$(mpt completion bash)"',
    "zsh": '# in ~/.zshrc:  eval "$(mpt completion zsh)"',
    "fish": "# in ~/.config/fish/config.fish:  mpt completion fish | source",
}
_PLAIN = re.compile(r"[^\w./=:,+~@%-]")


def script(shell: str) -> str:
    """What the shell has to run to complete mpt's words."""
    return SCRIPTS[shell].lstrip("\n") + INSTALLED[shell]


def answer(shell: str, found: Iterable[Candidate]) -> str:
    """Candidates as the shell's script reads them, one a line."""
    if shell == "bash":
        quoted = ((_PLAIN.sub(r"\\\g<0>", each.text), each.finished) for each in found)
        return "\n".join(f"{text} " if finished else text for text, finished in quoted)
    return "\n".join(f"{each.text}\t{each.help}".rstrip("\t") for each in found)
