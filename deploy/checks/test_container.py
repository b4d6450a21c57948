"""The Containerfile and the shell scripts: linted, and of one mind with what is around them. test_image builds it."""

import re
import shutil
import tempfile
import unittest
from pathlib import Path

from common import DEPLOY, GANTRY, ROOT, TOOLS, run


class Containerfile(unittest.TestCase):
    TEXT = (DEPLOY / "Containerfile").read_text()

    def test_hadolint(self):
        run("hadolint", DEPLOY / "Containerfile")
        done = run("hadolint", "-", stdin="FROM debian\nRUN cd /tmp && apt-get install curl\n", check=False)
        self.assertNotEqual(done.returncode, 0, "the check can fail")

    def test_the_last_stage_is_empty_and_nobody_s(self):
        last = self.TEXT.split("\nFROM ")[-1]
        self.assertTrue(last.startswith("scratch "))
        for line in ("USER 65532:65532", 'ENTRYPOINT ["/gantry"]', 'CMD ["/gantry", "healthcheck"]', "STOPSIGNAL SIGTERM"):
            self.assertIn(line, last)
        self.assertNotIn("RUN", last)

    def test_the_compiler_is_new_enough(self):
        (minimum,) = re.findall(r'(?m)^rust-version = "(.+)"', (ROOT / "Cargo.toml").read_text())
        self.assertIn(f"ARG RUST_VERSION={minimum}\n", self.TEXT)

    def test_the_context_has_what_is_copied_and_the_program_builds_from_it(self):
        """`COPY` of the build stage, made by hand: cargo finds all that it needs to plan the build."""
        ignored = (ROOT / ".dockerignore").read_text()
        copied = [name for line in re.findall(r"(?m)^COPY (?!--)(.+)$", self.TEXT) for name in line.split()[:-1] if not name.startswith("dist/")]
        for name in copied:
            self.assertTrue((ROOT / name).exists(), name)
            self.assertIn(f"!{name}\n", ignored)
        with tempfile.TemporaryDirectory() as directory:
            for name in ("Cargo.toml", "Cargo.lock", "proxy.toml"):
                shutil.copy(ROOT / name, directory)
            shutil.copytree(ROOT / "src", Path(directory) / "src")
            run("cargo", "metadata", "--locked", "--offline", "--format-version", "1", cwd=directory)
            included = [found for path in Path(directory, "src").rglob("*.rs") for found in re.findall(r'include_(?:str|bytes)!\("(.+?)"\)', path.read_text()) if not (path.parent / found).exists()]
            self.assertEqual(included, [], "files that the program takes in and the image's build does not have")

    def test_ports_are_those_of_the_examples(self):
        (ports,) = re.findall(r"(?m)^EXPOSE (.+)$", self.TEXT)
        self.assertEqual(ports, "8080 8443 9090")


class Shell(unittest.TestCase):
    def test_scripts_parse(self):
        for path in (DEPLOY / "check", ROOT / "tests" / "run", ROOT / ".ci" / "run"):
            run("bash", "-n", path)

    def test_shellcheck(self):
        run("shellcheck", DEPLOY / "check", ROOT / "tests" / "run", ROOT / ".ci" / "run")


class Yaml(unittest.TestCase):
    def test_yamllint(self):
        rules = "{extends: default, rules: {line-length: {max: 220}, document-start: disable, indentation: {indent-sequences: whatever}, comments: {min-spaces-from-content: 1}, comments-indentation: disable, braces: disable, truthy: {check-keys: false}, quoted-strings: disable}}"
        files = [path for path in DEPLOY.rglob("*.yaml") if not {"templates", "grafana", "prometheus"} & set(path.parts)]
        self.assertGreater(len(files), 20)
        run("yamllint", "--strict", "-d", rules, *files)


class Program(unittest.TestCase):
    def test_the_health_check_reads_the_same_configuration(self):
        done = run(GANTRY, "healthcheck", "--config", "/nonexistent.toml", check=False, cwd=TOOLS, env={})
        self.assertEqual(done.returncode, 64)
