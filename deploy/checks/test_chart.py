"""The Helm chart: lint, schema, rendering, the Kubernetes schemas, and the configuration in it."""

import copy
import json
import re
import shutil
import tomllib
import unittest

import helm_python as helm
import kubernetes_validate
import yaml

from common import CHART, ROOT, TOOLS, FakeFiles, all_values, one, render, resources, run, values

CUSTOM = {"HTTPRoute", "ServiceMonitor"}
VERSIONS = ["1.29", kubernetes_validate.latest_version()]


def merged(base, **changes):
    """Values with changes at dotted keys, `config__server__listen=…`."""
    result = copy.deepcopy(base)
    for path, value in changes.items():
        *sections, last = path.split("__")
        at = result
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    return result


class Chart(unittest.TestCase):
    """Every ci/ file, one feature each."""

    @classmethod
    def setUpClass(cls):
        cls.rendered = {name: render(values(name)) for name in all_values()}
        cls.found = {name: resources(rendered) for name, rendered in cls.rendered.items()}

    def test_lint(self):
        for name in all_values():
            for message in helm.lint(str(CHART), values(name), strict=True, kube_version="v1.29.0")["messages"]:
                if message["error"] != "icon is recommended":
                    self.fail(f"{name}: {message}")

    def test_kubernetes_schemas(self):
        seen = set()
        for name, found in self.found.items():
            for resource in found:
                seen.add(resource["kind"])
                if resource["kind"] in CUSTOM:
                    continue
                for version in VERSIONS:
                    with self.subTest(values=name, kind=resource["kind"], version=version):
                        kubernetes_validate.validate(resource, version, strict=True)
        wanted = {"Deployment", "Service", "ConfigMap", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount",
                  "HorizontalPodAutoscaler", "Pod"} | CUSTOM
        self.assertEqual(wanted, seen)

    def test_schemas_of_custom_resources(self):
        custom = [resource for found in self.found.values() for resource in found if resource["kind"] in CUSTOM]
        # Beside its packages.
        script = shutil.copy(ROOT / "deploy" / "checks" / "validate-custom.mjs", TOOLS)
        run("node", script, stdin=json.dumps(custom), cwd=TOOLS)
        # The check can fail.
        broken = copy.deepcopy(custom)
        for resource in broken:
            resource["spec"]["endpoints" if resource["kind"] == "ServiceMonitor" else "rules"] = "none"
        done = run("node", script, stdin=json.dumps(broken), cwd=TOOLS, check=False)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, len(custom)), done.stderr)

    def test_the_configuration_loads(self):
        fake = FakeFiles()
        self.addCleanup(fake.close)
        for name, found in self.found.items():
            maps = [r for r in found if r["kind"] == "ConfigMap" and "proxy.toml" in r["data"]]
            if not maps:
                self.assertEqual(name, "existing-config")
                continue
            with self.subTest(values=name):
                done = fake.check(maps[0]["data"]["proxy.toml"])
                self.assertEqual((done.returncode, done.stdout), (0, "The configuration is sound.\n"), done.stderr)
                self.assertNotIn("warning: server.trusted", done.stderr)
        # The check can fail: a key that Gantry does not know.
        bad = render(merged(values("standalone"), config__server__lisen="x"))
        toml = one(resources(bad), "ConfigMap")["data"]["proxy.toml"]
        self.assertIn("server.lisen", fake.check(toml).stderr)

    def test_numbers_and_text_survive_as_toml(self):
        text = 'a "quoted" \\ back & <b> é'
        given = merged(values("standalone"), config__login__app_name=text, config__upstream__max_idle=1_000_000, config__users__create=False)
        toml = one(resources(render(given)), "ConfigMap")["data"]["proxy.toml"]
        self.assertIn("max_idle = 1000000\n", toml)
        self.assertIn("create = false", toml)
        read = tomllib.loads(toml)
        self.assertEqual(read["login"]["app_name"], text)
        self.assertEqual(read["identity"]["forward_auth"]["cookies"], ["session"])

    def test_what_is_refused(self):
        base = values("standalone")
        sidecar = values("sidecar")
        cases = [
            ({}, "existingSecret"),
            (merged(base, config__server__public_url=""), "config.server.public_url"),
            (merged(base, config__rocketchat__url=""), "config.rocketchat.url"),
            (merged(base, config__identity__source=""), "config.identity.source"),
            (merged(base, config__rocketchat__auth_token="hunter2"), "config.rocketchat.auth_token would be readable in a ConfigMap"),
            (merged(base, config__identity__jwt__secret="hunter2"), "config.identity.jwt.secret"),
            (merged(base, config__server__listen="0.0.0.0:80"), "config.server.listen is set by the chart"),
            (merged(base, config__server__shutdown_grace="60s"), "terminationGracePeriodSeconds (40) has to be longer"),
            (merged(base, configToml="x"), "config would have no effect"),
            (merged(base, existingConfig="x"), "config would have no effect"),
            (merged(base, tls__enabled=True), "tls.existingSecret"),
            (merged(base, ingress__enabled=True), "ingress.hosts"),
            (merged(base, gatewayApi__enabled=True), "gatewayApi.parentRefs"),
            (merged(base, metrics__enabled=False, metrics__serviceMonitor__enabled=True), "metrics.serviceMonitor needs"),
            (merged(sidecar, autoscaling__enabled=True), "scale Rocket.Chat"),
            (merged(sidecar, podDisruptionBudget__enabled=True), "podDisruptionBudget"),
            # The schema.
            (merged(base, mod="sidecar"), "mod"),
            (merged(base, mode="daemonset"), "mode"),
            (merged(base, config__sever={}), "sever"),
            (merged(base, image__tagg="x"), "tagg"),
            (merged(base, service__port="http"), "port"),
            (merged(base, replicaCount=-1), "replicaCount"),
            (merged(base, ingress__hosts=["https://chat.example.com"]), "hosts"),
        ]
        for given, why in cases:
            with self.subTest(why=why):
                with self.assertRaises(helm.HelmError) as raised:
                    render(given)
                self.assertIn(why, str(raised.exception))

    def test_no_secret_is_rendered(self):
        for name, found in self.found.items():
            self.assertNotIn("Secret", [r["kind"] for r in found], name)
            text = yaml.safe_dump_all(found)
            self.assertIsNone(re.search(r"\b(auth_token|create_token_secret|logout_secret|jwt_secret|admin_token) *=", text), name)

    def test_pods_are_hardened(self):
        for name, found in self.found.items():
            for resource in found:
                if resource["kind"] not in ("Deployment", "Pod"):
                    continue
                pod = resource["spec"]["template"]["spec"] if resource["kind"] == "Deployment" else resource["spec"]
                with self.subTest(values=name, kind=resource["kind"]):
                    self.assertFalse(pod["automountServiceAccountToken"])
                    self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                    self.assertEqual(pod["securityContext"]["runAsUser"], 65532)
                    mounts = pod["containers"][0]["volumeMounts"]
                    self.assertFalse([m for m in mounts if "subPath" in m], "a file mounted by subPath is never renewed")
                    self.assertTrue(all(m["readOnly"] for m in mounts))
                    context = pod["containers"][0]["securityContext"]
                    self.assertTrue(context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"])
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]})

    def test_the_sidecar_is_native_and_stands_before_rocketchat(self):
        sidecar = one(self.found["sidecar-full"], "ConfigMap", "gantry-sidecar")
        given = yaml.safe_load(sidecar["data"]["rocketchat-values.yaml"])
        (container,) = given["extraInitContainers"]
        self.assertEqual(container["restartPolicy"], "Always")
        self.assertEqual(container["startupProbe"]["httpGet"]["path"], "/livez")
        self.assertEqual(container["readinessProbe"]["httpGet"]["path"], "/readyz")
        self.assertTrue(container["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"])
        self.assertEqual(given["imagePullSecrets"], [{"name": "registry"}])
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        self.assertEqual(mounts, {volume["name"] for volume in given["extraVolumes"]})
        # Rocket.Chat's chart runs these through tpl, and names a port "http" itself.
        self.assertNotIn("{{", sidecar["data"]["rocketchat-values.yaml"])
        self.assertNotIn("http", [port["name"] for port in container["ports"]])
        # As that chart puts them into a pod, beside a container of its own.
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {
            "initContainers": given["extraInitContainers"], "volumes": given["extraVolumes"],
            "containers": [{"name": "rocketchat", "image": "rocketchat", "ports": [{"name": "http", "containerPort": 3000}]}]}}
        for version in VERSIONS:
            kubernetes_validate.validate(pod, version, strict=True)

    def test_services_lead_to_the_right_pods(self):
        for name, found in self.found.items():
            services = [r for r in found if r["kind"] == "Service"]
            for service in services:
                ports = [port["port"] for port in service["spec"]["ports"]]
                is_metrics = service["metadata"]["labels"].get("app.kubernetes.io/component") == "metrics"
                admin = values(name).get("metrics", {}).get("port", 9090)
                self.assertEqual(is_metrics, admin in ports, f"{name}: the admin port is in no public Service")
                selector = service["spec"]["selector"].items()
                for pod in (r for r in found if r["kind"] == "Pod"):
                    self.assertFalse(selector <= pod["metadata"]["labels"].items(), f"{name}: the test pod takes traffic")
                for deployment in (r for r in found if r["kind"] == "Deployment"):
                    self.assertLessEqual(selector, deployment["spec"]["template"]["metadata"]["labels"].items())
        for monitor in [r for found in self.found.values() for r in found if r["kind"] == "ServiceMonitor"]:
            wanted = monitor["spec"]["selector"]["matchLabels"].items()
            self.assertTrue(any(wanted <= s["metadata"]["labels"].items() for s in self.found["metrics"] if s["kind"] == "Service"))

    def test_a_changed_configuration_rolls_the_pods(self):
        def checksum(given):
            return one(resources(render(given)), "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

        base = values("standalone")
        self.assertEqual(checksum(base), checksum(merged(base, replicaCount=3)))
        self.assertNotEqual(checksum(base), checksum(merged(base, config__login__app_name="Other")))

    def test_every_template_is_used(self):
        templates = {str(path.relative_to(CHART / "templates")) for path in (CHART / "templates").rglob("*.yaml")}
        used = {template for rendered in self.rendered.values() for template, text in rendered.items() if text.strip()}
        self.assertEqual(templates, used - {"NOTES.txt"})

    def test_notes_name_what_is_missing(self):
        notes = render(merged(values("standalone"), config__server__trusted_proxies=[]))["NOTES.txt"]
        self.assertIn("trusted_proxies is empty", notes)
        self.assertIn("extraInitContainers", self.rendered["sidecar"]["NOTES.txt"])


class Documentation(unittest.TestCase):
    """values.yaml, values.schema.json, README.md and proxy.toml tell the same."""

    def test_the_schema_knows_exactly_the_values(self):
        def compare(value, schema, path):
            if isinstance(value, dict) and "properties" in schema:
                self.assertFalse(schema["additionalProperties"], path)
                # Free forms, empty by default.
                self.assertLessEqual(set(value), set(schema["properties"]), path)
                extra = set(schema["properties"]) - set(value)
                probe = {"initialDelaySeconds", "successThreshold", "claims", "global"}
                if path != "config":
                    self.assertFalse(extra - probe, f"{path}: in the schema and not in values.yaml")
                for key, one_value in value.items():
                    compare(one_value, schema["properties"][key], f"{path}.{key}".lstrip("."))

        compare(yaml.safe_load((CHART / "values.yaml").read_text()), json.loads((CHART / "values.schema.json").read_text()), "")

    def test_the_sections_of_config_are_those_of_proxy_toml(self):
        sections = {line.strip("[]").split(".")[0] for line in re.findall(r"(?m)^\[[a-z0-9_.]+\]$", (ROOT / "proxy.toml").read_text())}
        schema = json.loads((CHART / "values.schema.json").read_text())
        self.assertEqual(sections, set(schema["properties"]["config"]["properties"]))

    def test_the_readme_lists_every_value_and_its_default(self):
        def flat(value, path=""):
            for key, one_value in value.items():
                at = f"{path}.{key}".lstrip(".")
                if isinstance(one_value, dict) and one_value and at not in WHOLE:
                    yield from flat(one_value, at)
                else:
                    yield at, one_value

        listed = dict(re.findall(r"(?m)^\| `([A-Za-z.]+)` \| `(.*?)` \|", (CHART / "README.md").read_text()))
        wanted = {at: json.dumps(value) for at, value in flat(yaml.safe_load((CHART / "values.yaml").read_text()))}
        self.assertEqual(wanted, listed)

    def test_versions_agree(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        (version,) = re.findall(r'(?m)^version = "(.+)"', (ROOT / "Cargo.toml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))
        self.assertIn(f"ARG VERSION={version}\n", (ROOT / "deploy" / "Containerfile").read_text())


WHOLE = {"strategy", "resources", "podSecurityContext", "securityContext", "startupProbe", "livenessProbe", "readinessProbe", "sidecar.podLabels"}
