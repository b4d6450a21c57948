"""The units: verified and measured by systemd's own tools, and their sandbox held against what Gantry does."""

import re
import subprocess
import tempfile
import threading
import unittest
import urllib.error
import urllib.request
from pathlib import Path

from common import DEPLOY, GANTRY, PATIENCE, ROOT, FakeFiles, run

UNITS = DEPLOY / "systemd"
NAMES = ["gantry.service", "gantry.socket", "gantry-tls.socket", "gantry-admin.socket"]


def settings(name):
    """Every `Key=value` line of a unit, in order."""
    return re.findall(r"(?m)^([A-Za-z]+)=(.*)$", (UNITS / name).read_text())


def seconds(text):
    (number,) = re.findall(r"^(\d+)s$", text)
    return int(number)


class Units(unittest.TestCase):
    def setUp(self):
        self.service = dict(settings("gantry.service"))

    def verify(self, change=lambda text: text):
        with tempfile.TemporaryDirectory() as directory:
            for name in NAMES:
                text = (UNITS / name).read_text().replace("/usr/local/bin/gantry", GANTRY)
                Path(directory, name).write_text(change(text))
            return run("systemd-analyze", "verify", "--man=no", *(Path(directory, name) for name in NAMES), check=False)

    def test_verify(self):
        done = self.verify()
        self.assertEqual((done.returncode, done.stderr), (0, ""), "systemd-analyze verify")
        broken = self.verify(lambda text: text.replace("Type=notify", "Type=notfy"))
        self.assertIn("notfy", broken.stderr, "the check can fail")

    def test_security(self):
        # 0 is sealed off, 10 is root without any sandbox. What is left is the network that it is there for.
        run("systemd-analyze", "security", "--offline=yes", "--threshold=15", UNITS / "gantry.service")
        done = run("systemd-analyze", "security", "--offline=yes", "--threshold=5", UNITS / "gantry.service", check=False)
        self.assertNotEqual(done.returncode, 0, "the check can fail")

    def test_it_stops_within_its_time(self):
        (grace,) = re.findall(r'(?m)^# shutdown_grace = "(\d+s)"', (ROOT / "proxy.toml").read_text())
        self.assertGreater(seconds(self.service["TimeoutStopSec"]), seconds(grace))

    def test_bad_configuration_is_not_tried_again(self):
        self.assertEqual(self.service["RestartPreventExitStatus"], "64")
        done = run(GANTRY, "run", "--config", "/nonexistent.toml", check=False, env={})
        self.assertEqual(done.returncode, 64)

    def test_the_user_is_made(self):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            (root / "etc" / "sysusers.d").mkdir(parents=True)
            (root / "etc" / "sysusers.d" / "gantry.conf").write_text((UNITS / "gantry.sysusers").read_text())
            run("systemd-sysusers", f"--root={root}")
            users = (root / "etc" / "passwd").read_text()
        (line,) = [line.split(":") for line in users.splitlines() if line.startswith("gantry:")]
        self.assertEqual(line[0], self.service["User"])
        self.assertEqual(line[5], "/" + "var/lib/" + self.service["StateDirectory"])
        self.assertTrue(line[6].endswith("nologin"))

    def test_sockets_carry_the_names_that_gantry_looks_for(self):
        names = {dict(settings(name)).get("FileDescriptorName") for name in NAMES[1:]}
        self.assertEqual(names, {"http", "https", "admin"})
        for name in NAMES[1:]:
            self.assertEqual(dict(settings(name))["Service"], "gantry.service")


class Sandbox(unittest.TestCase):
    """What Gantry does while it serves, seen by strace, against the filter of the unit."""

    def allowed(self):
        """The system calls that are left, by systemd's own list of its sets."""
        text = run("systemd-analyze", "syscall-filter").stdout
        sets = {}
        for line in text.splitlines():
            if line.startswith("@"):
                name = line.strip()
                sets[name] = []
            elif line.startswith("    ") and not line.strip().startswith("#"):
                sets[name].append(line.strip())

        def spread(word):
            return set().union(*map(spread, sets[word])) if word in sets else {word}

        calls = set()
        for key, value in settings("gantry.service"):
            if key == "SystemCallFilter":
                words = set().union(*map(spread, value.lstrip("~").split()))
                calls = calls - words if value.startswith("~") else calls | words
        # These are allowed whatever the filter says.
        return calls | spread("@default")

    def test_every_system_call_that_it_makes_is_allowed(self):
        fake = FakeFiles()
        self.addCleanup(fake.close)
        (fake.dir / "token").write_text("token")
        config = fake.dir / "proxy.toml"
        config.write_text(f"""
            [server]
            listen = "127.0.0.1:0"
            admin_listen = "127.0.0.1:0"
            public_url = "https://chat.example.com"
            workers = 2
            [server.tls]
            listen = "127.0.0.1:0"
            cert_file = "{fake.dir}/tls.crt"
            key_file = "{fake.dir}/tls.key"
            [rocketchat]
            url = "http://127.0.0.1:9"
            user_id = "id"
            auth_token_file = "{fake.dir}/token"
            create_token_secret = "x"
            [identity]
            source = "forward_auth"
            [identity.forward_auth]
            url = "https://localhost:9/me"
            [log]
            format = "json"
        """)
        trace = fake.dir / "trace"
        process = subprocess.Popen(["strace", "-f", "-qq", "-o", trace, GANTRY, "run", "--config", config],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={})
        impatience = threading.Timer(PATIENCE, process.kill)
        impatience.start()
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(impatience.cancel)
        said = []
        for line in process.stdout:
            said.append(line)
            if "is listening" in line:
                break
        else:
            self.fail("it did not come to listen:\n" + "".join(said))
        port = re.search(r'"listen":"127\.0\.0\.1:(\d+)"', line).group(1)
        for path in ("/", "/_gantry/login", "/_gantry/token"):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"cookie": "session=x"})
            try:
                urllib.request.urlopen(request, timeout=PATIENCE).close()
            except urllib.error.HTTPError as error:
                error.close()
        # strace passes signals on to nobody: the child is found by its parent.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        subprocess.run(["kill", "-HUP", children[0]], check=True)
        subprocess.run(["kill", "-TERM", children[0]], check=True)
        process.stdout.read()
        lines = trace.read_text().splitlines()
        made = {match.group(1) for line in lines if (match := re.match(r"\d+ +([a-z_0-9]+)\(", line))}
        self.assertIn("epoll_wait" if "epoll_wait" in made else "epoll_pwait", made)
        # The first is systemd's own, before the filter stands.
        forbidden = made - self.allowed() - {"execve"}
        self.assertEqual(forbidden, set(), "the unit's SystemCallFilter would break Gantry")
        both = [line for line in lines if "PROT_WRITE" in line and "PROT_EXEC" in line]
        self.assertEqual(both, [], "MemoryDenyWriteExecute would break Gantry")
        families = {match.group(1) for line in lines if (match := re.match(r"\d+ +socket\((AF_\w+)", line))}
        self.assertLessEqual(families, set(dict(settings("gantry.service"))["RestrictAddressFamilies"].split()))
