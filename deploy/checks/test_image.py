"""The image, built by buildah from a static binary, and run with nothing around it.

STATIC names a static binary that is there already; without it, one is built: for musl, as the Containerfile does, or for
glibc where that target cannot be had. Wants root, for buildah and chroot.
"""

import http.client
import json
import os
import re
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common import PATIENCE, ROOT, openssl_pair, run

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
NAME = "workspace.test"
RESOLVER = "127.0.0.77"
"""A name server of our own, that knows one name."""


def static_binary():
    """The path of a static program."""
    if "STATIC" in os.environ:
        return Path(os.environ["STATIC"])
    machine = os.uname().machine
    target = f"{machine}-unknown-linux-musl"
    env = dict(os.environ)
    added = run("rustup", "target", "add", target, check=False) if shutil.which("rustup") else None
    if added and added.returncode == 0:
        if not shutil.which("musl-gcc"):
            run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "musl-tools", env={**env, "DEBIAN_FRONTEND": "noninteractive"})
        env["CC_" + target.replace("-", "_")] = "musl-gcc"
    else:
        print(f"\nNOTE: the target {target} cannot be had here; the image is tried with a static glibc instead", flush=True)
        target = f"{machine}-unknown-linux-gnu"
        env["RUSTFLAGS"] = "-Ctarget-feature=+crt-static"
    run("cargo", "build", "--locked", "--quiet", "--bin", "gantry", "--target", target, env=env)
    return Path(os.environ["CARGO_TARGET_DIR"]) / target / "debug" / "gantry"


class Workspace(BaseHTTPRequestHandler):
    """As much of a workspace as one forwarded request and a readiness check need."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"success": True, "version": "8.8", "path": self.path}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Names(socketserver.BaseRequestHandler):
    """DNS (RFC 1035): A of the one name is loopback, AAAA is empty, everything else does not exist."""

    asked = set()

    def handle(self):
        query, reply_to = self.request
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
        name = ".".join(labels).lower()
        Names.asked.add(name)
        answers = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton("127.0.0.1") if name == NAME and kind == 1 else b""
        code = 0 if name == NAME else 3
        head = query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, 1 if answers else 0, 0, 0)
        reply_to.sendto(head + query[12 : at + 5] + answers, self.client_address)


@unittest.skipUnless(os.geteuid() == 0, "buildah and chroot want root here")
class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp(prefix="gantry-image-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir, ignore_errors=True)
        cls.buildah = ["buildah", "--storage-driver", "vfs", "--root", cls.dir / "storage", "--runroot", cls.dir / "run"]
        # The context: the repository's files that .dockerignore lets through, and the binary where a release puts it.
        context = cls.dir / "context"
        (context / "dist").mkdir(parents=True)
        (context / "deploy").mkdir()
        for name in ("LICENSE-APACHE", "LICENSE-MIT", ".dockerignore"):
            shutil.copy(ROOT / name, context)
        shutil.copy(ROOT / "deploy" / "Containerfile", context / "deploy")
        shutil.copytree(ROOT / "deploy" / "container", context / "deploy" / "container")
        shutil.copy(static_binary(), context / "dist" / f"gantry-{ARCH}")
        # The image's roots: one authority, ours, so that the test knows that it is this file that is read.
        tls = cls.dir / "tls"
        tls.mkdir()
        openssl_pair(tls, NAME)
        shutil.copy(tls / "tls.crt", context / "dist" / "ca-certificates.crt")
        run(*cls.buildah, "build", "--format", "docker", "--isolation", "chroot", "--build-arg", "BINARY=prebuilt",
            "--build-arg", f"TARGETARCH={ARCH}", "-f", "deploy/Containerfile", "-t", "gantry:check", ".", cwd=context)
        container = run(*cls.buildah, "from", "--pull-never", "gantry:check").stdout.strip()
        cls.root = Path(run(*cls.buildah, "mount", container).stdout.strip())
        cls.addClassCleanup(run, *cls.buildah, "rm", container)

    def inside(self, *arguments):
        """The command that runs the image's program as its user, in its root, which is read-only; and nothing else there."""
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec chroot --userspec=65532:65532 "$0" /gantry "$@"'
        return ["unshare", "--mount", "sh", "-c", script, self.root, *arguments]

    def test_what_is_in_it(self):
        files = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        # A runtime puts resolv.conf and hosts there; buildah makes their place.
        files -= {"etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/gantry/proxy.toml", "etc/gantry/token"}
        self.assertEqual(files, {"gantry", "etc/ssl/certs/ca-certificates.crt", "var/lib/gantry/README", "licenses/LICENSE-MIT", "licenses/LICENSE-APACHE"})
        state = (self.root / "var/lib/gantry").stat()
        self.assertEqual((state.st_uid, state.st_gid), (65532, 65532))
        self.assertEqual((self.root / "gantry").stat().st_mode & 0o777, 0o755)

    def test_its_configuration(self):
        said = json.loads(run(*self.buildah, "inspect", "--type", "image", "gantry:check").stdout)["Docker"]["config"]
        self.assertEqual(said["User"], "65532:65532")
        self.assertEqual(said["Entrypoint"], ["/gantry"])
        self.assertEqual(said["Healthcheck"]["Test"], ["CMD", "/gantry", "healthcheck"])
        self.assertEqual(set(said["ExposedPorts"]), {"8080/tcp", "8443/tcp", "9090/tcp"})
        self.assertEqual(said["Labels"]["org.opencontainers.image.title"], "gantry")
        self.assertRegex(said["Labels"]["org.opencontainers.image.version"], r"^\d+\.\d+\.\d+$")

    def test_it_says_its_version(self):
        self.assertRegex(run(*self.inside("--version")).stdout, r"^gantry \d")

    def test_it_serves_from_an_https_workspace_that_it_finds_by_name(self):
        workspace = ThreadingHTTPServer(("127.0.0.1", 0), Workspace)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.dir / "tls" / "tls.crt", self.dir / "tls" / "tls.key")
        workspace.socket = context.wrap_socket(workspace.socket, server_side=True)
        names = socketserver.ThreadingUDPServer((RESOLVER, 53), Names)
        for server in (workspace, names):
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.addCleanup(server.server_close)
            self.addCleanup(server.shutdown)
        # What a container runtime adds: the name server, the configuration, a secret.
        (self.root / "etc/resolv.conf").write_text(f"nameserver {RESOLVER}\n")
        (self.root / "etc/gantry").mkdir(exist_ok=True)
        token = self.root / "etc/gantry/token"
        token.write_text("token\n")
        token.chmod(0o440)
        os.chown(token, 65532, 65532)
        admin = free_port()
        (self.root / "etc/gantry/proxy.toml").write_text(f"""
            [server]
            listen = "127.0.0.1:0"
            admin_listen = "127.0.0.1:{admin}"
            public_url = "https://chat.example.com"
            [rocketchat]
            url = "https://{NAME}:{workspace.server_address[1]}"
            user_id = "id"
            auth_token_file = "/etc/gantry/token"
            create_token_secret = "x"
            [identity]
            source = "forward_auth"
            [identity.forward_auth]
            url = "https://{NAME}/me"
            [log]
            format = "json"
        """)
        self.assertEqual(run(*self.inside("check")).stdout, "The configuration is sound.\n")
        down = run(*self.inside("healthcheck"), check=False)
        self.assertEqual(down.returncode, 1, "nothing runs yet")

        process = subprocess.Popen(self.inside(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        impatience = threading.Timer(PATIENCE, process.kill)
        impatience.start()
        for cleanup in (process.stdout.close, process.wait, process.kill, impatience.cancel):
            self.addCleanup(cleanup)
        said = []
        for line in process.stdout:
            said.append(line)
            if "is listening" in line:
                break
        else:
            self.fail("it did not come to listen:\n" + "".join(said))
        port = re.search(r'"listen":"127\.0\.0\.1:(\d+)"', line).group(1)
        client = http.client.HTTPConnection("127.0.0.1", int(port), timeout=PATIENCE)
        self.addCleanup(client.close)
        client.request("GET", "/channel/general")
        answer = client.getresponse()
        body = json.load(answer)
        self.assertEqual((answer.status, body.get("path")), (200, "/channel/general"), body)
        self.assertIn("frame-ancestors", answer.headers["content-security-policy"])
        client.close()
        self.assertIn(NAME, Names.asked)
        run(*self.inside("healthcheck"))
        process.terminate()
        rest = process.stdout.read()
        self.assertEqual(process.wait(), 0, "".join(said) + rest)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
