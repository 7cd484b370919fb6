"""The `mien` command. One file a command: parse, call, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import click

from mien import __version__
from mien.errors import MienError

_COMMANDS = {
    "extract": "one sentence (or a spec) to a validated direction",
    "steer": "answers with and without a direction, side by side",
    "scan": "chat logs to the conversations that left the Assistant's character",
    "screen": "training data to the records that would move the character",
    "train": "a LoRA adapter without the move: fine-tuning held against traits as it learns",
    "audit": "a tuned model against its base: a report, and an exit code for the release gate",
    "limits": "audits of harmless retrainings to the limits of that gate",
    "serve": "an OpenAI-compatible server that watches every answer, alarms, and holds it",
    "chat": "the same in the terminal, gauges beside every answer",
    "axis": "roles to the Assistant Axis and the persona map",
    "calibrate": "what holds a model's character under attack, and what that costs",
    "baseline": "your own quiet traffic to sigma and alarm limits",
    "organisms": "fine-tuning sets whose effect on the character is known",
    "gauge": "gauges fitted to labelled examples",
    "show": "what is known about a direction",
    "traits": "the library of traits, and the directions kept here",
    "import": "another tool's file into a direction",
    "export": "a direction into another tool's file",
}


class _Lazy(click.Group):
    """Loads a command's file when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from importlib import import_module

        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"mien.cli.{cmd_name}_command").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mien")
def group() -> None:
    """Measure, watch and hold the character that a language model plays."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. What mien refuses to do is one sentence on stderr and an exit code of its own."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a terminal that lacks a letter must not cost an hour's result
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = group.main(words or ["--help"], prog_name="mien", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except MienError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context: Any = getattr(error, "ctx", None)
        hint = f" See {context.command_path} --help." if context else ""
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            _say(f"Say which of {', '.join(sorted(context.command.commands))} is wanted.{hint}")
        else:
            _say(error.format_message() + hint)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _say("stopped; what was done is kept, and the same command goes on from there.")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does; what is still in the buffer must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _say("out of memory; use a smaller model or --dtype bfloat16.")
        sys.exit(1)
    except OSError as error:
        # Mostly a full or read-only disk, met in a library that mien called.
        _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        sys.exit(6)


def _say(text: str) -> None:
    """One line on stderr. Words of others, quoted at the end, may have several and no full stop."""
    line = " ".join(text.split())
    click.echo(f"mien: {line}{'' if line.endswith(('.', '?', '!')) else '.'}", err=True)


def _out_of_memory(error: Exception) -> bool:
    """Torch says it with a RuntimeError, of its own kind on an accelerator, in words only on a CPU."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or ("alloc" in words and "memory" in words)
