"""compose.yaml: read by Docker Compose itself, and wired as Rocket.Chat wants it."""

import json
import os
import re
import subprocess
import unittest
import urllib.error
import urllib.request

import yaml

from common import DEPLOY, ROOT, FakeFiles, run

# The wrapper that the package installs loses the exit code.
import compose as compose_package

COMPOSE = os.path.join(os.path.dirname(compose_package.__file__), "docker-compose")
ACME = {"DOMAIN": "chat.example.com", "ACME_CONTACT": "ops@example.com", "PUBLIC_URL": "https://chat.example.com"}


def config(*files, profile=None, env=None, check=True):
    """The files as Compose understands them; without an .env."""
    given = [argument for file in files for argument in ("-f", DEPLOY / file)]
    profiles = ["--profile", profile] if profile else []
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **(env or {})}
    return run(COMPOSE, "--env-file", "/dev/null", *given, *profiles, "config", "--format", "json", env=env, check=check)


def services(*files, **options):
    return json.loads(config(*files, **options).stdout)["services"]


def env_example():
    """.env.example with every line in force."""
    lines = re.findall(r"(?m)^(?:# )?([A-Z_]+)=(.*)$", (DEPLOY / ".env.example").read_text())
    return dict(lines)


class Compose(unittest.TestCase):
    def setUp(self):
        self.services = services("compose.yaml", profile="demo")

    def test_the_check_can_fail(self):
        done = run(COMPOSE, "-f", "-", "config", "-q", stdin="services: {a: {imagee: x}}", cwd=ROOT / "deploy", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("imagee", done.stderr)

    def test_nothing_but_gantry_and_the_demo_is_published(self):
        published = {name: service["ports"] for name, service in self.services.items() if service.get("ports")}
        self.assertEqual(set(published), {"gantry", "host-app"})
        for ports in published.values():
            self.assertEqual([port["host_ip"] for port in ports], ["127.0.0.1"], "loopback until somebody decides otherwise")
        self.assertNotIn("host-app", services("compose.yaml"))

    def test_the_database_is_reachable_for_rocketchat_only(self):
        on = {name for name, service in self.services.items() if "database" in service.get("networks", {})}
        self.assertEqual(on, {"mongodb", "rocketchat"})
        self.assertTrue(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["networks"]["database"]["internal"])

    def test_no_secret_is_written_down(self):
        text = (DEPLOY / "compose.yaml").read_text() + (DEPLOY / ".env.example").read_text()
        for service in self.services.values():
            for variable in service.get("environment") or {}:
                self.assertIsNone(re.search("PASS|TOKEN$|SECRET", variable), variable)
        self.assertNotRegex(text, r"(?i)(password|secret|token)=\S{8}")

    def test_secrets_are_split_between_their_readers(self):
        def volumes(name):
            return {(v["source"], v.get("read_only", False)) for v in self.services[name].get("volumes", []) if v["type"] == "volume"}

        self.assertEqual(volumes("gantry"), {("gantry-secrets", True)})
        self.assertEqual(volumes("rocketchat"), {("rocketchat-secrets", True), ("uploads", False)})
        self.assertEqual(volumes("host-app"), set())

    def test_it_comes_up_in_order(self):
        waits = {name: {on: how["condition"] for on, how in service.get("depends_on", {}).items()} for name, service in self.services.items()}
        self.assertEqual(waits["rocketchat"], {"mongodb": "service_healthy", "secrets": "service_completed_successfully"})
        self.assertEqual(waits["account"]["secrets"], "service_completed_successfully")
        self.assertEqual(waits["gantry"], {"account": "service_completed_successfully"})
        for name in ("mongodb", "rocketchat", "gantry"):
            self.assertEqual(self.services[name]["restart"], "unless-stopped")

    def test_rocketchats_settings_are_those_of_the_readme(self):
        given = {k: v for k, v in self.services["rocketchat"]["environment"].items() if k.startswith("OVERWRITE_SETTING_")}
        readme = (ROOT / "README.md").read_text()
        documented = dict(re.findall(r"(?m)^(OVERWRITE_SETTING_\w+)=(.*)$", readme))
        self.assertGreaterEqual(len(documented), 8)
        here = {"https://chat.example.com": "http://localhost:8080", "https://app.example.com": "http://localhost:8000"}
        for name, value in documented.items():
            for there, instead in here.items():
                value = value.replace(there, instead)
            self.assertEqual(given[name], value, name)

    def test_variables_reach_every_place(self):
        env = {"PUBLIC_URL": "https://chat.test", "APP_URL": "https://app.test", "APP_WHO_AM_I": "https://app.test/me"}
        found = services("compose.yaml", env=env)
        left = json.dumps(found)
        self.assertNotIn("localhost:8000/api", left)
        self.assertNotIn("localhost:8080", left)
        self.assertEqual(found["gantry"]["environment"]["GANTRY_IDENTITY__FORWARD_AUTH__URL"], "https://app.test/me")
        self.assertEqual(found["rocketchat"]["environment"]["ROOT_URL"], "https://chat.test")

    def test_env_example_names_every_variable_that_matters(self):
        used = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text() + (DEPLOY / "compose.acme.yaml").read_text()))
        self.assertEqual(used - set(env_example()), {"ROCKETCHAT_IMAGE", "GANTRY_IMAGE", "SERVICE_USERNAME", "SERVICE_EMAIL"})
        self.assertLessEqual(set(env_example()), used)

    def test_gantrys_configuration_loads(self):
        toml = (DEPLOY / "compose" / "gantry" / "proxy.toml").read_text()
        for files, env in [(("compose.yaml",), {}), (("compose.yaml",), env_example()), (("compose.yaml", "compose.acme.yaml"), {**env_example(), **ACME})]:
            with self.subTest(files=files, env=env):
                fake = FakeFiles()
                self.addCleanup(fake.close)
                environment = services(*files, env=env)["gantry"]["environment"]
                if "compose.acme.yaml" in files:
                    cache = fake.dir / "acme"
                    cache.mkdir(mode=0o700)
                    environment["GANTRY_SERVER__ACME__CACHE_DIR"] = str(cache)
                done = fake.check(toml, env=environment)
                self.assertEqual((done.returncode, done.stdout), (0, "The configuration is sound.\n"), done.stderr)

    def test_acme_takes_the_usual_ports_and_keeps_its_state(self):
        gantry = services("compose.yaml", "compose.acme.yaml", env=ACME)["gantry"]
        self.assertEqual({port["published"] for port in gantry["ports"]}, {"80", "443"})
        self.assertIn("/var/lib/gantry", [volume["target"] for volume in gantry["volumes"]])
        without = config("compose.yaml", "compose.acme.yaml", check=False)
        self.assertNotEqual(without.returncode, 0)
        self.assertRegex(without.stderr, "(DOMAIN|ACME_CONTACT) is missing a value")

    def test_containers_are_hardened(self):
        for name in ("gantry", "account", "secrets", "host-app"):
            service = self.services[name]
            self.assertTrue(service["read_only"], name)
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"], name)
        self.assertNotIn("user", self.services["gantry"], "the image's own 65532")


class Scripts(unittest.TestCase):
    def test_they_parse(self):
        for path in (DEPLOY / "compose").glob("*.mjs"):
            run("node", "--check", path)

    def test_the_permissions_are_those_of_the_readme(self):
        (block,) = re.findall(r"const permissions = \[(.*?)\]", (DEPLOY / "compose" / "setup.mjs").read_text(), re.S)
        given = set(re.findall(r"'([a-z-]+)'", block))
        table = (ROOT / "README.md").read_text().partition("The service account:")[2].partition("\nSign in as that account")[0]
        documented = set(re.findall(r"(?m)^\| `([a-z-]+)` \|", table))
        # One is for making the token; others are for settings and versions that compose has not, and for the doctor.
        optional = {"edit-other-user-info", "view-d-room", "edit-privileged-setting", "view-privileged-setting"}
        self.assertEqual(given - {"create-personal-access-tokens"}, documented - optional)


class HostApp(unittest.TestCase):
    """The demo's host app, run."""

    def test_it_signs_in_and_tells_who_it_is(self):
        env = {**os.environ, "PORT": "0", "CHAT_URL": "http://chat.test"}
        process = subprocess.Popen(["node", str(DEPLOY / "compose" / "host-app.mjs")], env=env, stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        base = f"http://127.0.0.1:{process.stdout.readline().rsplit(' ', 1)[1].strip()}"
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{base}/api/me", timeout=30)
        self.assertEqual(refused.exception.code, 401)
        refused.exception.close()

        class NoRedirect(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None

        with self.assertRaises(urllib.error.HTTPError) as moved:
            urllib.request.build_opener(NoRedirect).open(urllib.request.Request(f"{base}/sign-in/ada", data=b""), timeout=30)
        cookie = moved.exception.headers["set-cookie"].split(";")[0]
        moved.exception.close()
        with urllib.request.urlopen(urllib.request.Request(f"{base}/api/me", headers={"cookie": cookie}), timeout=30) as answer:
            self.assertEqual(json.load(answer)["preferred_username"], "ada")
        with urllib.request.urlopen(urllib.request.Request(f"{base}/", headers={"cookie": cookie}), timeout=30) as answer:
            self.assertIn('<iframe src="http://chat.test/channel/general', answer.read().decode())
