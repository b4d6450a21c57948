"""What the checks share: paths, commands, the chart rendered by Helm's own engine."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import helm_python as helm
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "gantry"
TOOLS = Path(os.environ["TOOLS"])
GANTRY = os.environ["GANTRY"]
PATIENCE = 30
"""Seconds that a condition may take before a test gives up."""


def run(*command, stdin=None, cwd=ROOT, env=None, check=True):
    """Runs a command to its end. Its words are part of the error."""
    inside = TOOLS / "venv" / "bin" / command[0]
    command = [str(inside if inside.exists() else command[0]), *map(str, command[1:])]
    done = subprocess.run(command, input=stdin, cwd=cwd, env=env, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def values(name):
    """One of the chart's ci/ files."""
    return helm.values_from_yaml((CHART / "ci" / f"{name}-values.yaml").read_text())


def all_values():
    """Every ci/ file's name."""
    return sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))


def render(with_values, name="gantry", namespace="rocketchat"):
    """Template to text, as Helm renders it."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(with_values)
        rendered = chart.render(with_values, name=name, namespace=namespace)
    return {template.split("/templates/")[1]: text for template, text in rendered.items()}


def resources(rendered):
    """The resources in what was rendered, in Helm's order of kinds left aside."""
    texts = [text for template, text in sorted(rendered.items()) if template != "NOTES.txt"]
    return [resource for text in texts for resource in yaml.safe_load_all(text) if resource]


def one(found, kind, name=None):
    """The one resource of a kind, and of a name if there are several."""
    chosen = [r for r in found if r["kind"] == kind and name in (None, r["metadata"]["name"])]
    assert len(chosen) == 1, f"{len(chosen)} of {kind} {name}"
    return chosen[0]


def openssl_pair(directory, name="chat.example.com"):
    """A self-signed pair tls.crt, tls.key. No authority: a server may show it."""
    config = directory / "openssl.cnf"
    config.write_text(f"[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN={name}\n"
                      f"[ext]\nsubjectAltName=DNS:{name}\nbasicConstraints=critical,CA:FALSE\n")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
        "-config", config, "-keyout", directory / "tls.key", "-out", directory / "tls.crt")
    config.unlink()


class FakeFiles:
    """The files that a configuration names, made up below a directory."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="gantry-files-"))
        openssl_pair(self.dir)

    def check(self, toml, env=None):
        """Runs `gantry check` on a proxy.toml whose paths are moved here. The result of the command."""

        def move(match):
            path = match.group(2)
            there = self.dir / path.lstrip("/")
            there.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/acme"):
                there.mkdir(exist_ok=True)
            elif path.endswith((".crt", ".key")):
                shutil.copy(self.dir / ("tls.key" if path.endswith(".key") else "tls.crt"), there)
            else:
                there.write_text("made-up-and-longer-than-thirty-two-bytes\n")
            there.chmod(0o700 if there.is_dir() else 0o400)
            return f'{match.group(1)}"{there}"'

        toml = re.sub(r'((?:_file|_dir) *= *)"(/[^"]+)"', move, toml)
        (self.dir / "proxy.toml").write_text(toml)
        return run(GANTRY, "check", "--config", self.dir / "proxy.toml", env=env or {}, check=False)

    def close(self):
        shutil.rmtree(self.dir)
