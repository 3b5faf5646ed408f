"""What is chosen reaches the command's parts by the environment, and nothing after it."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.testing import CliRunner

from nvlm_trt.cli.telemetry_options import telemetry_options
from nvlm_trt.telemetry.settings import TelemetrySettings


@click.command()
@telemetry_options
def show() -> None:
    click.echo(repr(TelemetrySettings.from_environment()))


def test_options_and_variables_mean_the_same(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = repr(TelemetrySettings(tmp_path / "log", "http://collector:4318/v1/traces")) + "\n"
    options = ["--request-log", "log", "--otlp-traces-endpoint", "http://collector:4318/v1/traces"]
    variables = {"NVLM_TRT_REQUEST_LOG": "log", "NVLM_TRT_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}
    before = dict(os.environ)
    assert CliRunner().invoke(show, options).stdout == wanted
    assert CliRunner(env=variables).invoke(show, []).stdout == wanted
    assert CliRunner().invoke(show, []).stdout == repr(TelemetrySettings()) + "\n"
    assert dict(os.environ) == before
