"""What the documents say is true: commands parse, links lead to files, every option has help."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import dreamforge.cli
import recover.cli

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
from write_cli_docs import cli_docs  # noqa: E402  a script, not a package

TOOLS = {"dreamforge": dreamforge.cli.main, "recover": recover.cli.main}
COMMANDS = [(tool, name) for tool, group in TOOLS.items() for name in group.commands]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
PAGES = [page for page in PAGES if page.exists()]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
SHELLS = ("", "sh", "bash", "shell", "console")
LINK = re.compile(r"""(?:\]\(|(?:src|href)=["'])([^)#\s"']+)""")


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of every call of one of the tools, however it is launched."""
    for line in text.replace("\\\n", " ").splitlines():
        if "dreamforge " not in line and "recover " not in line:
            continue
        for part in re.split(r"&&|;|\|", line.strip().removeprefix("$ ").removeprefix("%")):
            words = shlex.split(part, comments=True) if part.count("'") % 2 == 0 else []
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and Path(words[0]).name in TOOLS:
                yield [Path(words[0]).name, *words[1:]]
            elif "-m" in words and words[words.index("-m") + 1] in TOOLS:
                yield words[words.index("-m") + 1 :]


def parse(words: list[str]) -> None:
    """Parse a call as the tool would, without running it."""
    tool, *arguments = words
    group = TOOLS[tool]
    try:
        context = group.make_context(tool, list(arguments), resilient_parsing=True)
        name, command, rest = group.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        if command is None:
            pytest.fail(f"{shlex.join(words)}: no such command")
        command.make_context(name, rest, parent=context)
    except click.exceptions.Exit:  # --help
        pass
    except click.ClickException as error:
        pytest.fail(f"{shlex.join(words)}: {error.format_message()}")


def examples() -> list[list[str]]:
    texts = [command.help or "" for tool in TOOLS.values() for command in tool.commands.values()]
    for page in PAGES:
        if page.name != "cli.md":  # that one is made of the help texts
            blocks = FENCE.findall(page.read_text())
            texts += [text for language, text in blocks if language in SHELLS]
    return [words for text in texts for words in commands_in(text)]


EXAMPLES = examples()


@pytest.mark.parametrize("words", EXAMPLES, ids=shlex.join)
def test_every_command_in_the_documents_parses(words):
    parse(words)


@pytest.mark.parametrize(
    "line",
    [
        "dreamforge sinth --teacher x.pt",
        "recover run --dreams d.h5 --sparseness 0.8",
        "recover run --dreams d.h5 --sparsity 1.5",
        "recover run --sparsity 0.5",
        "FOO=1 .venv/bin/recover run --dreams d.h5 --steps many  # comment",
        "torchrun --nproc-per-node 8 -m dreamforge synth --teecher resnet50.pt",
        "$ dreamforge synth \\\n   --teacher x.pt --n 1",
    ],
)
def test_the_check_above_sees_mistakes(line):
    (words,) = commands_in(line)

    with pytest.raises(pytest.fail.Exception):
        parse(words)


def test_the_readers_of_documents_find_something():
    assert len(EXAMPLES) > 10
    assert ["dreamforge", "synth", "--teacher", "resnet50.pt"] in [e[:4] for e in EXAMPLES]


def test_the_reference_says_what_the_commands_say():
    written = (ROOT / "docs" / "cli.md").read_text()

    # Wrapping may differ from one version of click to the next.
    assert written.split() == cli_docs().split(), "run make docs"


@pytest.mark.parametrize(("tool", "name"), COMMANDS)
def test_every_command_and_option_has_help(tool, name):
    command = TOOLS[tool].commands[name]

    assert command.help
    assert f"{tool} {name} " in command.help, "an example is missing"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts


@pytest.mark.parametrize("tool", TOOLS)
def test_no_two_options_of_a_command_share_a_name_in_the_environment(tool):
    for command in TOOLS[tool].commands.values():
        names = [p.envvar for p in command.params if isinstance(p, click.Option)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    text = FENCE.sub("", page.read_text())
    for target in LINK.findall(text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


SECTION = re.compile(r'(RESULTS|TRIALS)\.md(?:\]\([^)]*\)\)?)?, "([^"]+)"')


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_section_that_is_named_exists(page):
    for name, title in SECTION.findall(page.read_text()):
        sections = (ROOT / "benchmarks" / f"{name}.md").read_text()
        assert re.search(rf"^(##+ |\*\*){re.escape(title)}", sections, re.MULTILINE), (
            f"{name}.md: {title}"
        )


def test_the_design_page_names_every_module():
    layout = (ROOT / "docs" / "design.md").read_text().partition("## 3.")[0]
    sections = re.split(r"^(?=dreamforge/|recover/|shared/|data/)", layout, flags=re.MULTILINE)
    for section in sections:
        package = section.partition("/")[0]
        if package in (*TOOLS, "shared"):
            words = set(re.findall(r"\w+", section))
            modules = {path.stem for path in (ROOT / package).rglob("*.py")}
            missing = modules - words - {"__init__", "__main__"}
            assert not missing, f"docs/design.md, {package}/"


@pytest.mark.parametrize("tool", TOOLS)
def test_no_line_of_the_list_of_commands_is_cut(tool):
    group = TOOLS[tool]
    page = group.get_help(click.Context(group, info_name=tool, terminal_width=80))
    listed = page.partition("Commands:")[2]

    assert all(name in listed for name in group.commands)
    assert not [line for line in listed.splitlines() if re.search(r"[^R]\.\.\.$", line)]
