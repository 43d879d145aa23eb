"""`ssgear train | generate | evaluate | compare | doctor`: the commands by one name.

`ssgear train` is `python -m ssgear.train`, and so on.

Only the command that is asked for is imported.
"""

from __future__ import annotations

import importlib
import sys

from ssgear import __version__
from ssgear.command import Main, command
from ssgear.errors import ConfigError, did_you_mean

COMMANDS = {
    "train": "train an encoder; with no options, on the embedded images, in minutes",
    "generate": "draw images, or views of real ones, from a frozen generator into a store",
    "evaluate": "measure an encoder (linear probe, kNN...), a generator or a store",
    "compare": "compare runs: settings, figures, which differences are real, curves, maps",
    "doctor": "what this machine can run, what it cannot, and what would change that",
}


@command()
def main(words: list[str]) -> int:
    """Run a command and return its exit status."""
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(f"ssgear {__version__}")
        return 0
    if words[0] not in COMMANDS:
        near = did_you_mean(words[0], COMMANDS)
        raise ConfigError(f"{words[0]}: unknown command{near}; known: {', '.join(COMMANDS)}")
    chosen: Main = importlib.import_module(f"ssgear.{words[0]}").main
    return chosen(words[1:])


def usage() -> str:
    """Return the help of the command line as a whole."""
    lines = [f"  {name:<10}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ssgear COMMAND [OPTIONS]",
            "",
            "Train image encoders from unlabelled images.",
            "",
            *lines,
            "",
            "ssgear COMMAND --help lists the options of a command.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
