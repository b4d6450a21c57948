"""What is made from the chart: plain manifests, and the sidecar of the kustomize component."""

import re

import yaml

from common import DEPLOY, one, render, resources, values

HEAD = "# Made from deploy/helm/gantry with ci/{}-values.yaml by `deploy/check --write`: change those, not this.\n"


def without_helm(text):
    """Leaves out what means something to Helm alone: its labels, and the checksum, which nobody would keep true by hand."""
    text = re.sub(r"(?m)^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", "", text)
    return re.sub(r"(?m)^ *annotations:\n *# A changed .*\n *checksum/config: .*\n", "", text)


def tidy(text):
    """One document, comments kept, without blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.strip("\n").split("\n")) + "\n"


def manifests(name):
    """The chart's output with these values. Comments stay."""
    rendered = render(values(name))
    texts = [text for template, text in sorted(rendered.items()) if text.strip() and template not in ("NOTES.txt", "tests/healthcheck.yaml", "sidecar.yaml")]
    return HEAD.format(name) + "".join("---\n" + tidy(without_helm(text)) for text in texts)


def sidecar_patch():
    """The sidecar as a strategic merge patch of Rocket.Chat's Deployment."""
    sidecar = one(resources(render(values("sidecar"))), "ConfigMap", "gantry-sidecar")
    given = yaml.safe_load(sidecar["data"]["rocketchat-values.yaml"])
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "any"},
        "spec": {"template": {"spec": {"initContainers": given["extraInitContainers"], "volumes": given["extraVolumes"]}}},
    }
    return HEAD.format("sidecar") + yaml.safe_dump(patch, sort_keys=False)


def files():
    """Path to content."""
    return {
        DEPLOY / "kubernetes" / "standalone.yaml": manifests("standalone"),
        DEPLOY / "kubernetes" / "sidecar.yaml": manifests("sidecar"),
        DEPLOY / "kustomize" / "sidecar" / "deployment.yaml": sidecar_patch(),
    }


if __name__ == "__main__":
    for path, content in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        print(path.relative_to(DEPLOY.parent))
