"""Plain manifests and the kustomize component: made from the chart, and good for Kubernetes."""

import copy
import shutil
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

import generated
from common import DEPLOY, FakeFiles, one, run
from test_chart import CUSTOM, VERSIONS


def kustomize(directory):
    return list(yaml.safe_load_all(run("kubectl", "kustomize", directory).stdout))


class Generated(unittest.TestCase):
    def test_nothing_has_drifted_from_the_chart(self):
        for path, content in generated.files().items():
            self.assertTrue(path.exists(), f"{path} is missing: run deploy/check --write")
            self.assertEqual(content, path.read_text(), f"{path} has drifted: run deploy/check --write")

    def test_plain_manifests_are_valid_and_know_nothing_of_helm(self):
        for path in (DEPLOY / "kubernetes").glob("*.yaml"):
            text = path.read_text()
            self.assertNotIn("helm.sh", text)
            self.assertNotIn("managed-by", text)
            self.assertNotIn("checksum", text)
            for resource in yaml.safe_load_all(text):
                self.assertNotIn(resource["kind"], CUSTOM)
                for version in VERSIONS:
                    kubernetes_validate.validate(resource, version, strict=True)


class Component(unittest.TestCase):
    """deploy/kustomize, built by kustomize itself."""

    def setUp(self):
        self.found = kustomize(DEPLOY / "kustomize" / "example")

    def test_the_sidecar_stands_in_rocketchats_pod(self):
        before = list(yaml.safe_load_all((DEPLOY / "kustomize" / "example" / "rocketchat.yaml").read_text()))
        pod = one(self.found, "Deployment")["spec"]["template"]["spec"]
        given = copy.deepcopy(one(before, "Deployment")["spec"]["template"]["spec"])
        (sidecar,) = pod["initContainers"]
        self.assertEqual((sidecar["name"], sidecar["restartPolicy"], sidecar["image"]), ("gantry", "Always", "gantry:0.1.0"))
        self.assertEqual(pod["containers"], given["containers"])
        self.assertEqual([v["name"] for v in pod["volumes"]][-1:], ["tmp"], "Rocket.Chat's own volumes stay")
        self.assertEqual({m["name"] for m in sidecar["volumeMounts"]}, {v["name"] for v in pod["volumes"]} - {"tmp"})

    def test_the_service_leads_through_gantry_and_no_other(self):
        self.assertEqual(one(self.found, "Service", "rocketchat-rocketchat")["spec"]["ports"][0]["targetPort"], 8080)
        self.assertEqual(one(self.found, "Service", "rocketchat-rocketchat-monolith-ms-metrics")["spec"]["ports"][0]["targetPort"], 9458)

    def test_the_configuration_is_mounted_by_its_hashed_name_and_loads(self):
        config = one(self.found, "ConfigMap")
        self.assertRegex(config["metadata"]["name"], "^gantry-.+")
        volumes = one(self.found, "Deployment")["spec"]["template"]["spec"]["volumes"]
        self.assertIn(config["metadata"]["name"], [v.get("configMap", {}).get("name") for v in volumes])
        fake = FakeFiles()
        self.addCleanup(fake.close)
        done = fake.check(config["data"]["proxy.toml"])
        self.assertEqual((done.returncode, done.stdout), (0, "The configuration is sound.\n"), done.stderr)

    def test_the_result_is_valid(self):
        for resource in self.found:
            for version in VERSIONS:
                kubernetes_validate.validate(resource, version, strict=True)

    def test_containers_that_were_there_before_stay_behind_it(self):
        with tempfile.TemporaryDirectory() as directory:
            copied = Path(directory) / "kustomize"
            shutil.copytree(DEPLOY / "kustomize", copied)
            path = copied / "example" / "rocketchat.yaml"
            resources = list(yaml.safe_load_all(path.read_text()))
            one(resources, "Deployment")["spec"]["template"]["spec"]["initContainers"] = [{"name": "migrate", "image": "busybox:1.37"}]
            path.write_text(yaml.safe_dump_all(resources))
            names = [c["name"] for c in one(kustomize(copied / "example"), "Deployment")["spec"]["template"]["spec"]["initContainers"]]
        self.assertEqual(sorted(names), ["gantry", "migrate"])

    def test_a_service_of_another_shape_is_an_error_and_not_a_bypass(self):
        with tempfile.TemporaryDirectory() as directory:
            copied = Path(directory) / "kustomize"
            shutil.copytree(DEPLOY / "kustomize", copied)
            path = copied / "example" / "rocketchat.yaml"
            path.write_text(path.read_text().replace("- name: http\n      port: 80", "- name: web\n      port: 80"))
            done = run("kubectl", "kustomize", copied / "example", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("test", done.stderr)
