import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass

import click
import pytest
import torch

from shared import cli, cli_options, cli_progress
from shared.begun import BegunInterrupt
from shared.config import option, validate
from shared.errors import (
    CheckpointError,
    ConfigError,
    DreamforgeError,
    DreamSetError,
    IncompatibleError,
    InputFileError,
)
from shared.files import UnwritableError
from shared.plain_text import plain
from shared.progress import Progress
from shared.signals import interruptible


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    num_images: int = option(10, "how many", min=1, flag="--n")
    rate: float = option(0.5, "a rate", above=0, below=1)
    jitter: int | None = option(None, "pixels", min=0)
    flip: bool = option(True, "mirror")
    kind: str = option("a", "which", choices=("a", "b"))

    def __post_init__(self) -> None:
        validate(self)


@click.group(cls=cli.Tool, context_settings={"auto_envvar_prefix": "TOY"}, resumed=("show",))
def tool() -> None:
    """A toy."""


@tool.command()
@cli_options.config_options(Toy)
@click.option("--raise", "name")
@click.option("--overwrite", is_flag=True)
def show(name, **options):
    """Print the config, or fail as told."""
    errors = {
        "config": ConfigError("found 1,\nexpected 2"),
        "failed": DreamforgeError("no"),
        "checkpoint": CheckpointError("x.pt: broken"),
        "dreams": DreamSetError("x.h5: broken"),
        "foreign": IncompatibleError("other teacher"),
        "disk": OSError(28, "No space left on device", "x.h5"),
        "pipe": BrokenPipeError(32, "Broken pipe"),
        "unwritable": UnwritableError(13, "Permission denied", "x.png"),
        "interrupt": KeyboardInterrupt(),
        "begun": BegunInterrupt(),
        "memory": MemoryError(),
        "device memory": torch.OutOfMemoryError("CUDA out of memory"),
        "allocator": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: no"),
        "escapes": CheckpointError("\x1b[31mx.pt\x07: broken"),
        "bug": RuntimeError("shapes do not match"),
    }
    if name == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    if name:
        raise errors[name]
    preset = {"rate": 0.25}
    config = cli_options.build_config(Toy, options, preset)
    click.echo(
        json.dumps([config.num_images, config.rate, config.jitter, config.flip, config.kind])
    )


@tool.command()
@cli_options.teacher_options
def means(mean, **options):
    """Print an option of several values."""
    click.echo(mean)


@tool.command()
@click.argument("name")
@click.option("--item", "items", multiple=True)
def several(name, items):
    """Print an option that may be repeated."""
    click.echo(json.dumps(items))


def run(runner, *arguments, **kwargs):
    return runner.invoke(tool, ["show", *arguments], **kwargs)


def test_flags_win_over_the_preset_and_the_preset_over_defaults(runner):
    assert json.loads(run(runner).stdout) == [10, 0.25, None, True, "a"]
    given = run(runner, "--n", "3", "--rate", "0.75", "--jitter", "0", "--no-flip", "--kind", "b")
    assert json.loads(given.stdout) == [3, 0.75, 0, False, "b"]


def test_environment_wins_over_the_config_file_and_flags_over_both(runner, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('[show]\nnum-images = 4\njitter = 1\nkind = "b"\n')
    arguments = ["--config", str(config), "show", "--kind", "a"]
    result = runner.invoke(tool, arguments, env={"TOY_SHOW_JITTER": "2"})

    assert json.loads(result.stdout) == [4, 0.25, 2, True, "a"]


def test_file_and_environment_name_options_as_the_flags_are(runner, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("[show]\nn = 4\nflip = false\nrate = 0.75\n")
    arguments = ["--config", str(config), "show"]

    assert json.loads(runner.invoke(tool, arguments).stdout) == [4, 0.75, None, False, "a"]
    result = runner.invoke(tool, arguments, env={"TOY_SHOW_N": "5", "TOY_SHOW_FLIP": "1"})
    assert json.loads(result.stdout) == [5, 0.75, None, True, "a"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[show]\nrtae = 1", "no option 'rtae'"),
        ("[shwo]\nn = 1", "found 'shwo', expected tables [show]"),
        ("n = 1", "found 'n'"),
        ("[show.n]\nx = 1", "found a table"),
        ("[show]\nn = 'many'", "found 'many', expected a whole number (from the file of --config)"),
        ("[show]\nn = [1]", "n: found a list, expected a single value"),
        ("[show]\nraise = false", "raise: found false, expected a value"),
        ("[show]\nn = true", "n: found true, expected a value: it is no flag"),
        ("[show]\nflip = ''", "flip: found nothing, expected true or false"),
        ("[show]\nn = 1\nnum-images = 2", "num-images: found under another name, too"),
    ],
)
def test_a_config_file_that_would_not_do_what_it_says_is_refused(runner, tmp_path, text, named):
    path = tmp_path / "run.toml"
    path.write_text(text)
    result = runner.invoke(tool, ["--config", str(path), "show"])

    assert result.exit_code == 2
    assert named in result.stderr


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"= nonsense", "line 1"),
        (b"[show]\nn = " + b"9" * 5000, "limit"),
        (b"x = " + b"[" * 20_000, "recursion"),
        (None, "not found, expected a TOML file"),
        (b"\xff\xfe", "found no UTF-8 text, expected a TOML file"),
    ],
)
def test_a_bad_config_file_is_a_usage_error(runner, tmp_path, contents, words):
    path = tmp_path / "run.toml"
    if contents is not None:
        path.write_bytes(contents)
    result = runner.invoke(tool, ["--config", str(path), "show"])

    assert result.exit_code == 2
    assert f"{path}: " in result.stderr
    assert words in result.stderr


@pytest.mark.parametrize(
    ("flag", "variable", "expected"),
    [
        ("--n", "TOY_SHOW_N", "expected a whole number"),
        ("--rate", "TOY_SHOW_RATE", "expected a number"),
        ("--jitter", "TOY_SHOW_JITTER", "expected a whole number"),
        ("--kind", "TOY_SHOW_KIND", "is not one of 'a', 'b'."),
    ],
)
def test_a_wrong_value_is_told_with_where_it_was_said(runner, flag, variable, expected):
    result = runner.invoke(tool, ["show"], env={variable: "many"})

    assert result.exit_code == 2
    assert "'many'" in result.stderr
    assert result.stderr.endswith(f"{expected} (from {variable})\n")
    assert run(runner, flag, "few").stderr.endswith(f"{expected}\n")


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("failed", 1),
        ("disk", 1),
        ("memory", 1),
        ("device memory", 1),
        ("allocator", 1),
        ("escapes", 3),
        ("config", 2),
        ("checkpoint", 3),
        ("dreams", 3),
        ("foreign", 4),
        ("interrupt", 130),
        ("terminate", 130),
    ],
)
def test_errors_are_one_line_on_stderr_and_a_documented_exit_code(runner, name, exit_code):
    result = run(runner, "--raise", name)

    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert result.stderr.startswith("tool: error: ")
    assert result.stderr.count("\n") == 1
    assert result.stderr.removesuffix("\n").isprintable()


def test_an_interruption_is_heard_while_numpy_is_imported():
    """PyTorch swallows one that comes while it imports NumPy itself: the teacher would be read."""
    code = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy._utils":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # what is in the background ignores it
sys.meta_path.insert(0, Interrupting())
from dreamforge.cli import main
main(["synth", "--teacher", "missing.pt"], prog_name="dreamforge")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "missing.pt: " not in done.stderr
    assert "dreamforge: error: interrupted; " in done.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_python_drops_is_heard_at_the_next_report(number):
    class Finalized:
        def __del__(self):
            os.kill(os.getpid(), number)
            sum(range(100))  # the signal is handled before this object is gone

    report, before = Progress(stage="work", done=1, total=2, unit="steps"), signal.getsignal(number)
    with interruptible(), cli_progress.progress_display() as show:
        show(report)
        Finalized()
        with pytest.raises(KeyboardInterrupt):
            show(report)
        show(report)  # it was heard
    assert signal.getsignal(number) is before


def test_an_unknown_error_is_a_bug_and_shows_its_traceback(runner):
    with pytest.raises(KeyError):
        run(runner, "--raise", "unheard-of", catch_exceptions=False)
    with pytest.raises(RuntimeError, match="shapes"):
        run(runner, "--raise", "bug", catch_exceptions=False)


@pytest.mark.parametrize("arguments", [["--n", "0"], ["--rate", "1"], ["--kind", "c"]])
def test_bounds_are_checked_and_shown(runner, arguments):
    assert run(runner, *arguments).exit_code == 2


def test_help_shows_ranges_and_defaults(runner):
    text = run(runner, "--help").stdout

    assert "x>=1" in text
    assert "0<x<1" in text
    assert "[default: 10]" in text
    assert "[default: --flip]" in text


def test_the_command_is_recorded_as_it_can_be_typed_again(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/x/toy/__main__.py", "show", "--out", "my dreams.h5"])
    with click.Context(tool, info_name="python -m toy"):
        assert cli.command_line() == "python -m toy show --out 'my dreams.h5'"


def test_the_command_begins_with_the_variables_that_it_uses(monkeypatch):
    monkeypatch.setattr("sys.argv", ["toy", "show", "--n", "3"])
    monkeypatch.setenv("TOY_SHOW_RATE", "0.75")
    monkeypatch.setenv("TOY_SHOW_KIND", "")  # not set, to click
    monkeypatch.setenv("TOY_SHOW_NONSENSE", "1")
    monkeypatch.setenv("TOY_OTHER_N", "4")
    with click.Context(tool, info_name="toy") as context:
        context.invoked_subcommand = "show"
        assert cli.command_line() == "TOY_SHOW_RATE=0.75 toy show --n 3"


def test_no_run_begins_whose_date_cannot_be_recorded(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "tomorrow")
    with click.Context(tool, info_name="toy"), pytest.raises(ConfigError, match="tomorrow"):
        cli.command_line()


def test_what_goes_on_after_an_interruption_removes_nothing(runner, monkeypatch):
    words = ["show", "--n", "3", "--raise", "begun"]
    monkeypatch.setattr("sys.argv", ["toy", *words])
    assert "; the same command goes on from here: " in run(runner, *words[1:]).stderr

    monkeypatch.setattr("sys.argv", ["toy", *words, "--overwrite"])
    said = run(runner, *words[1:], "--overwrite").stderr
    assert said.startswith("tool: error: interrupted; without --overwrite the command goes on")
    assert said.endswith("from here: tool show --n 3 --raise begun\n")

    monkeypatch.setattr("sys.argv", ["toy", *words])
    said = run(runner, *words[1:], env={"TOY_SHOW_OVERWRITE": "1"}).stderr
    assert said.endswith("from here: TOY_SHOW_OVERWRITE=0 tool show --n 3 --raise begun\n")


def test_what_had_not_begun_to_overwrite_begins_again_as_it_was_typed(runner, monkeypatch):
    words = ["show", "--raise", "interrupt"]
    monkeypatch.setattr("sys.argv", ["toy", *words, "--overwrite"])
    said = run(runner, *words[1:], "--overwrite").stderr
    assert said.endswith("the same command begins again: tool show --raise interrupt --overwrite\n")

    monkeypatch.setattr("sys.argv", ["toy", *words])
    said = run(runner, *words[1:], env={"TOY_SHOW_OVERWRITE": "1"}).stderr
    assert said.endswith("begins again: TOY_SHOW_OVERWRITE=1 tool show --raise interrupt\n")
    assert "; the same command goes on from here: " in run(runner, *words[1:]).stderr


def test_what_leaves_nothing_to_go_on_with_begins_again_as_it_was_typed(runner, monkeypatch):
    words = ["show", "--raise", "interrupt", "--overwrite"]
    monkeypatch.setattr("sys.argv", ["toy", *words])
    monkeypatch.setattr(tool, "resumed", ())
    assert run(runner, *words[1:]).stderr.endswith(f"begins again: tool {shlex.join(words)}\n")


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
@pytest.mark.parametrize("by_variable", [False, True])
@pytest.mark.parametrize("text", ["true", "'yes'", "1"])
def test_what_goes_on_removes_nothing_though_the_file_says_overwrite(
    runner, monkeypatch, tmp_path, more, by_variable, text
):
    path = tmp_path / "run.toml"
    path.write_text(f"[show]\noverwrite = {text}\n[means]\nmean = 1\n")
    words = ["show", "--raise", "begun"]
    env, before = ({"TOY_CONFIG": str(path)}, []) if by_variable else ({}, ["--config", str(path)])
    monkeypatch.setattr("sys.argv", ["toy", *before, *words, *more])

    said = runner.invoke(tool, [*before, *words, *more], env=env).stderr

    assert "without --overwrite the command goes on from here: " in said
    typed = shlex.split(said.partition("from here: ")[2])
    named = [f"{name}={value}" for name, value in env.items()]
    assert typed == [*named, "TOY_SHOW_OVERWRITE=0", "tool", *before, *words]


def test_a_file_that_says_no_to_overwrite_needs_no_variable(runner, monkeypatch, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[show]\noverwrite = false\n[means]\nmean = 1\n")
    words = ["--config", str(path), "show", "--raise", "interrupt"]
    monkeypatch.setattr("sys.argv", ["toy", *words])

    assert "; the same command goes on from here: tool " in runner.invoke(tool, words).stderr


def test_the_variable_of_the_file_is_recorded_and_arguments_have_none(monkeypatch):
    monkeypatch.setattr("sys.argv", ["toy", "several", "x"])
    monkeypatch.setenv("TOY_CONFIG", "run.toml")
    monkeypatch.setenv("None", "1")
    with click.Context(tool, info_name="toy") as context:
        context.invoked_subcommand = "several"
        assert cli.command_line() == "TOY_CONFIG=run.toml toy several x"


@pytest.mark.parametrize(
    ("text", "values"),
    [("'a b'", ["a b"]), ("['a', 'b,c']", ["a", "b,c"]), ("2", ["2"]), ("[]", [])],
)
def test_options_that_may_be_repeated_take_a_list_or_one_value(runner, tmp_path, text, values):
    path = tmp_path / "run.toml"
    for name in ("item", "items"):
        path.write_text(f"[several]\n{name} = {text}\n")
        result = runner.invoke(tool, ["--config", str(path), "several", "x"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout) == values


@pytest.mark.parametrize("text", ["true", "['a', true]", "[['a']]", "[{a = 1}]"])
def test_repeated_options_take_nothing_else(runner, tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(f"[several]\nitem = {text}\n")

    result = runner.invoke(tool, ["--config", str(path), "several", "x"])

    assert result.exit_code == 2
    assert "item: found " in result.stderr


def test_a_list_is_what_options_of_several_values_take(runner, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("[means]\nmean = [0.5, 0.25]\n")

    result = runner.invoke(tool, ["--config", str(config), "means"])

    assert result.stdout == "0.5,0.25\n", result.output


def test_a_reader_that_has_enough_is_no_error(runner):
    result = run(runner, "--raise", "pipe")

    assert result.output == ""


def test_the_file_that_cannot_be_written_is_named(runner):
    result = run(runner, "--raise", "unwritable")

    assert result.exit_code == 1
    assert result.stderr == (
        "tool: error: x.png: cannot be written to (Permission denied); choose another place\n"
    )


def test_durations_are_read_at_a_glance():
    assert cli.format_duration(0.4) == "0 min 0 s"
    assert cli.format_duration(200) == "3 min 20 s"
    assert cli.format_duration(3600 * 1234 + 120) == "1,234 h 2 min"


def test_parsers():
    assert cli_options.parse_floats("--mean", "0.5,1") == (0.5, 1.0)
    assert cli_options.parse_floats("--mean", None) is None
    assert cli_options.parse_image_size("32") == (32, 32)
    assert cli_options.parse_image_size("32x48") == (32, 48)
    assert cli_options.parse_image_size(None) is None
    for wrong in ("", "0", "3x3x3", "big"):
        with pytest.raises(ConfigError, match="--image-size"):
            cli_options.parse_image_size(wrong)
    with pytest.raises(ConfigError, match="--mean"):
        cli_options.parse_floats("--mean", "a,b")


def test_json_and_tables_go_to_stdout_and_markup_stays_text(capsys):
    cli.emit({"a": 1}, as_json=True, render=lambda: None)
    assert json.loads(capsys.readouterr().out) == {"a": 1}

    cli.show_table("[red]title[/red]", ("[bold]a", "b"), [("[link=x]evil[/link]", "1")])
    printed = capsys.readouterr()
    assert "[link=x]evil[/link]" in printed.out
    assert "[red]title[/red]" in printed.out
    assert printed.err == ""


def test_what_is_no_text_or_acts_on_a_terminal_is_shown_as_question_marks(runner, capsys):
    hostile = "\x1b[2J\ud800\u202e\nx"

    cli.say(hostile)
    cli.show_table(hostile, (hostile, "b"), [(hostile, "1")])
    printed = capsys.readouterr()
    path = runner.invoke(tool, ["means", "--mean", "caf\udce9"])

    assert printed.err == "?[2J??\nx\n"
    assert printed.out.count("?[2J??") == 3
    assert not set(printed.out) & set(hostile) - set("[2J\nx")
    assert path.stdout == "caf?\n", path.output


def test_spaces_and_joined_letters_are_part_of_names():
    name = "Mes r\u00e9seaux\u00a0x \u0645\u06cc\u200c\u3000\U0001f469\u200d"
    assert plain(name) == name


def test_a_log_that_takes_no_more_ends_nothing(monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(click, "echo", full)
    cli.say("a remark")


def test_without_a_terminal_progress_is_a_line_every_half_minute(capsys):
    now = [0.0]
    show = cli_progress._line_printer(lambda: now[0])
    for second in range(0, 101, 10):
        now[0] = float(second)
        show(Progress(stage="work", done=second, total=100, unit="steps", facts={"loss": 0.5}))
    lines = capsys.readouterr().err.splitlines()

    assert [line.split()[1] for line in lines] == ["30/100", "60/100", "90/100", "100/100"]
    assert "eta 70 s" in lines[0]
    assert "loss 0.5" in lines[0]


def test_nothing_is_drawn_when_stderr_is_no_terminal(capsys):
    with cli_progress.progress_display() as show:
        show(Progress(stage="work", done=1, total=1, unit="steps"))

    assert capsys.readouterr().err == "work: 1/1 steps\n"


@pytest.mark.parametrize(
    "text", ["\ufeffcat\ndog\n", "cat\r\ndog\r\n", "cat \n dog\n\n\n \n", "cat\ndog"]
)
def test_names_are_the_lines_of_a_file(tmp_path, text):
    (tmp_path / "names.txt").write_bytes(text.encode())

    assert cli_options.read_class_names(tmp_path / "names.txt") == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"cat\n\ndog\n", "nothing on line 2"),
        (b"cat\ndog\ncat\n", "'cat' on lines 1 and 3"),
        (b"\n \n", "found no names"),
        (b"\xff\xfec\0a\0t\0", "can't decode"),
    ],
)
def test_a_file_of_doubtful_names_is_refused(tmp_path, text, words):
    (tmp_path / "names.txt").write_bytes(text)

    with pytest.raises(InputFileError, match=words) as caught:
        cli_options.read_class_names(tmp_path / "names.txt")
    assert "\n" not in str(caught.value)
