"""Write docs/cli.md from the commands themselves; ``make docs`` calls it.

``tests/test_docs.py`` fails while the file says anything else than the commands do.
"""

import argparse
from pathlib import Path

import dreamforge.cli
import recover.cli
from shared.files import write_text

WIDTH = 100  # of the help texts, whatever terminal this runs in
TOOLS = {"dreamforge": dreamforge.cli.main, "recover": recover.cli.main}

INTRODUCTION = """\
# The command line

Written by `make docs` (`benchmarks/write_cli_docs.py`); edit the commands, not this page.

Results go to stdout, everything else (progress, assumptions, warnings, errors) to stderr. `--json`
puts JSON on stdout, one object (`recover sweep`: a list of them), with accuracies as fractions;
`warnings` in it is what stderr says of assumptions and oddities. An error is one line: what was
found, what was expected, what to do. On a terminal progress is a bar, elsewhere a line every 30
seconds.

## Exit codes

| code | meaning |
|---|---|
| 0 | fine |
| 1 | failed (disk full, a run that diverged), or a check found something |
| 2 | usage: an option, or a combination of options, that makes no sense |
| 3 | an input file that cannot be used: wrong, truncated, damaged, hostile, of another version |
| 4 | inputs that are fine alone but do not belong together: another teacher, changed arguments |
| 130 | interrupted by SIGINT or SIGTERM; the last line is the command that goes on from there |

## Configuration

An option is taken from the first place that has it: the command line, the environment, the TOML
file, `--preset`, the default.

- **Environment**: tool, command and flag in capitals, joined by underscores:
  `DREAMFORGE_SYNTH_BATCH_SIZE=64`, `RECOVER_RUN_EVAL_DATA=photos/test`. On/off flags take `1`
  or `0`.
- **TOML**: `--config FILE` before the command (or `DREAMFORGE_CONFIG`, `RECOVER_CONFIG`), a table
  per command, keys named as the flags. A table or a key that does not exist is an error.

  ```toml
  [synth]
  teacher = "resnet50.pt"
  n = 50000
  bn-weight = 10.0
  mean = [0.485, 0.456, 0.406]
  flip = true
  ```

  ```sh
  dreamforge --config imagenet.toml synth --out dreams.h5
  ```

Also heeded: `NO_COLOR` and `TERM=dumb`; `SOURCE_DATE_EPOCH`, which fixes the dates in provenance so
that the same command makes the same set and student to the byte; `RANK`, `WORLD_SIZE` and
`LOCAL_RANK` as torchrun sets them (`synth` makes its share of the shards, `recover sweep` of the
levels).
"""


def cli_docs() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for name, tool in TOOLS.items():
        context = tool.make_context(name, [], resilient_parsing=True, terminal_width=WIDTH)
        parts.append(f"## {name}\n\n{_fenced(tool.get_help(context))}")
        for command_name, command in tool.commands.items():
            # A context of its own: resilient parsing asks for no arguments and runs nothing.
            inner = command.make_context(
                command_name, [], parent=context, resilient_parsing=True, terminal_width=WIDTH
            )
            parts.append(f"### {name} {command_name}\n\n{_fenced(command.get_help(inner))}")
    return "\n".join(parts)


def _fenced(text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"```text\n{lines}\n```\n"


def main() -> None:
    """Write the page to the file that is named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/cli.md"))
    write_text(parser.parse_args().out, cli_docs())


if __name__ == "__main__":
    main()
