"""The command tree, its options, its exit codes: a list, so that a change to it is seen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import nvlm_trt.errors
from nvlm_trt.cli import main
from nvlm_trt.errors import NvlmError

ROOT = Path(__file__).parents[2]

GATEWAY = {
    *("--model-name", "--api-key-file", "--tls-cert", "--tls-key", "--allow-origin", "--allow-image-host", "--limit"),
    *("--no-page", "--request-log", "--otlp-traces-endpoint"),
    *("--host", "--checkpoint", "--drain-s", "--dry-run", "--json", "--quiet"),
}
SUPERVISE = {
    *("--health-port", "--ask-every-s", "--ask-timeout-s", "--start-timeout-s", "--max-failures", "--failure-window-s"),
    *("--triton-nice", "--json-log", "--server-log"),
}
TREE = {
    "doctor": {"--json", "--quiet"},
    "inspect": {"--json", "--quiet"},
    "plan": {"--recipe", "--pictures", "--text-tokens", "--answer-tokens", "--json", "--quiet"},
    "build": {"--recipe", "-o", "--until", "--dry-run", "--json", "--quiet"},
    "verify": {"--checkpoint", "--json", "--quiet"},
    "explain": {"--json", "--quiet"},
    "serve": GATEWAY
    | SUPERVISE
    | {"--http-port", "--grpc-port", "--metrics-port", "--gateway-port", "--no-gateway", "--container"},
    "gateway": GATEWAY | {"--port"},
    "ask": {
        *("--image", "--protocol", "--stream", "--max-tokens", "--temperature", "--top-k", "--top-p", "--seed"),
        *("--timeout", "--checkpoint", "--json", "--quiet"),
    },
    "eval": set(),
    "eval run": {
        *("--data", "--server", "-o", "--annotations", "--pictures", "--concurrency", "--max-tokens", "--first-line"),
        *("--no-answer", "--seed", "--partitions", "--partition", "--limit", "--timeout"),
        *("--deployment", "--json", "--quiet"),
    },
    "eval score": {"--ground-truth", "--strict", "--json", "--quiet"},
    "eval compare": {"--ground-truth", "--strict", "--json", "--quiet"},
    "report": {"-o", "--latency", "--choose", "--recipe", "--base", "--json", "--quiet"},
    "eval precisions": {
        *("--data", "-o", "--precision", "--recipe", "--max-tiles", "--annotations", "--pictures", "--limit"),
        *("--max-tokens", "--strict", "--kl-questions", "--layer-questions", "--build", "--threads"),
        *("--dry-run", "--json", "--quiet"),
    },
}
EXIT_CODES = {
    "UsageError": 2,
    "RequestError": 4,
    "CheckpointError": 5,
    "ArtefactError": 6,
    "BuildError": 7,
    "MissingToolError": 8,
    "ServerError": 9,
    "OverloadedError": 10,
    "CancelledError": 11,
}


def commands(group: click.Group = main, above: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{above}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")


def test_the_command_tree() -> None:
    told = {
        name: {option.opts[0] for option in command.params if isinstance(option, click.Option)}
        for name, command in commands()
    }
    assert told == TREE


def test_exit_codes() -> None:
    assert {cls.__name__: cls.exit_code for cls in NvlmError.__subclasses__()} == EXIT_CODES


@pytest.mark.parametrize("name", sorted(EXIT_CODES))
def test_an_error_is_one_line_and_its_exit_code(name: str) -> None:
    error = getattr(nvlm_trt.errors, name)("E-TEST-WHAT", "It broke.", "Mend it.")

    @click.command("fail")
    def fail() -> None:
        raise error

    main.add_command(fail)
    try:
        result = CliRunner().invoke(main, ["fail"])
    finally:
        del main.commands["fail"]
    assert result.exit_code == EXIT_CODES[name]
    assert result.stdout == ""
    assert result.stderr == "error: E-TEST-WHAT: It broke. Mend it.\n"


def test_a_result_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "nvlm_trt", "doctor", "--json"]
        told = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert told.returncode == 2
    assert told.stderr == (
        "error: E-USAGE-STDOUT: The result cannot be written: No space left on device. "
        "Free some space, or write it elsewhere.\n"
    )


def test_a_bug_shows_its_traceback() -> None:
    @click.command("fail")
    def fail() -> None:
        raise KeyError("bug")

    main.add_command(fail)
    try:
        result = CliRunner().invoke(main, ["fail"])
    finally:
        del main.commands["fail"]
    assert isinstance(result.exception, KeyError)


def test_every_command_and_option_has_help() -> None:
    for name, command in commands():
        assert command.help, name
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} {option.name}"


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from nvlm_trt.cli import main\n"
        "inner = [['eval', 'run'], ['eval', 'score'], ['eval', 'compare'], ['eval', 'precisions']]\n"
        "for words in ([], *([name] for name in main.commands), *inner):\n"
        "    main([*words, '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'tokenizers', 'tritonclient', 'grpc', 'rich', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_the_commands_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_commands_page_names_every_option() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for name, command in commands():
        section = page.partition(f"## nvlm-trt {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for option in command.params:
            if isinstance(option, click.Option):
                assert all(opt in section for opt in option.opts), f"{name} {option.opts}"


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["build"], ["inspect"], ["serve", "--http-port", "70000", "x"], ["doctor", "--nothing"]]
)
def test_a_command_line_that_cannot_be_meant_exits_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"nvlm-trt, version {nvlm_trt.__version__}\n"
