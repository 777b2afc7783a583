"""Run `segrefine COMMAND ...`: pass the arguments on to the module of the command."""

import runpy
import sys
from importlib.metadata import version

from segrefine.core.errors import did_you_mean

COMMANDS = {
    "train": "train a network, score the best checkpoint",
    "evaluate": "score a checkpoint or published weights on a split",
    "predict": "segment images",
    "compare": "tables, statistics, plots and a page of finished runs",
    "export": "write a network as ONNX, torch.export or published weights",
    "benchmark": "measure the speed and memory of a network",
    "data": "check or show a data set",
}

HELP = """FCN and RefineNet for semantic segmentation, compared fairly.

Usage: segrefine COMMAND [OPTION=VALUE ...]

Commands:
{commands}

segrefine COMMAND --help    the groups and options of a command
segrefine --version
segrefine --completion bash (or zsh)    shell completion: eval "$(segrefine --completion bash)"

Example: segrefine train model=refinenet backbone=resnet101"""

COMPLETION = """_segrefine() {{
    local command="${{COMP_WORDS[1]}}" word="${{COMP_WORDS[COMP_CWORD]}}" choices
    if (( COMP_CWORD == 1 )); then
        choices="{commands} --help --version --completion"
    elif [ "$command" = data ]; then
        choices="check show"
    else
        choices=$(COMP_LINE="segrefine ${{COMP_LINE#*$command }}" segrefine "$command" -sc query=bash 2>/dev/null)
    fi
    COMPREPLY=($(compgen -o default -W "$choices" -- "$word"))
}}
COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}
complete -o nospace -o default -F _segrefine segrefine"""

SHELLS = {"bash": COMPLETION, "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{COMPLETION}"}


def main() -> None:
    """Run the command that the arguments name. Exit with status 2 if it is unknown."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command in COMMANDS:
        sys.argv[1:] = rest
        # As `python -m`: Lightning starts the processes of a distributed run from what stands in __main__.
        runpy.run_module(f"segrefine.cli.{command}", run_name="__main__", alter_sys=True)
    elif command in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:<11}{words}" for name, words in COMMANDS.items())))
    elif command == "--version":
        print(f"segrefine {version('segrefine')}")
    elif command == "--completion" and len(rest) == 1 and rest[0] in SHELLS:
        print(SHELLS[rest[0]].format(commands=" ".join(COMMANDS)))
    else:
        complaint = f"There is no command {command!r}.{did_you_mean(command, COMMANDS)}"
        if command == "--completion":
            complaint = f"--completion takes the name of a shell: {' or '.join(SHELLS)}."
        print(f"error: {complaint}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
