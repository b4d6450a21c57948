"""README.md of this folder: it names what is there, and what it shows works."""

import re
import tomllib
import unittest

from common import DEPLOY, FakeFiles

README = (DEPLOY / "README.md").read_text()


class Documentation(unittest.TestCase):
    def test_links_lead_somewhere(self):
        for file in (DEPLOY / "README.md", DEPLOY / "helm" / "gantry" / "README.md"):
            for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", file.read_text()):
                self.assertTrue(not target or (file.parent / target).exists(), f"{file}: {target}")
        headings = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"(?m)^#+ (.+)$", README)}
        for anchor in re.findall(r"\]\(#([^)]+)\)", README):
            self.assertIn(anchor, headings)

    def test_every_file_and_folder_is_told_of(self):
        for entry in DEPLOY.iterdir():
            if entry.name not in {"README.md", "checks", "container", ".env.example"}:
                self.assertIn(entry.name, README)
        self.assertIn(".env.example", README)

    def test_the_configuration_for_systemd_loads(self):
        (shown,) = re.findall(r"```text\n(.*?)```", README, re.S)
        rest = """
            [identity]
            source = "forward_auth"
            [identity.forward_auth]
            url = "https://app.example.com/api/me"
        """
        toml = shown.replace("[server]\n", '[server]\npublic_url = "https://chat.example.com"\n')
        toml = toml.replace("[server.acme]", '[server.acme]\ncache_dir = "/var/lib/gantry/acme"\ncontact = "ops@example.com"\n#', 1)
        toml = toml.replace("[rocketchat]\n", '[rocketchat]\nurl = "http://127.0.0.1:3000"\nuser_id = "id"\n') + rest
        tomllib.loads(toml)
        fake = FakeFiles()
        self.addCleanup(fake.close)
        done = fake.check(toml)
        self.assertEqual((done.returncode, done.stdout), (0, "The configuration is sound.\n"), done.stderr)
