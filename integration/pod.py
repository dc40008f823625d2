"""A container of a Kubernetes manifest, as arguments for `docker run`, one a line.

    pod.py MANIFEST CONTAINER VOLUMES

The Deployment in MANIFEST has CONTAINER, an init container or not; VOLUMES is a directory with a
directory for each of its volumes. The pod is the network namespace, /etc/hosts and /dev/shm of
another container, which whoever calls this adds, with the image and what replaces `args`.
`pod.py MANIFEST aliases` prints the pod's host aliases as NAME:ADDRESS, `pod.py MANIFEST data KEY` what
its ConfigMap has under that key.

What this does not know it refuses: no field of a container stays without effect unseen.
"""

import sys

import yaml

# What has no counterpart outside of a cluster; the probes' commands are run by the test itself, and
# it restarts what the kubelet would.
ELSEWHERE = {"name", "image", "args", "ports", "startupProbe", "readinessProbe", "livenessProbe", "restartPolicy"}


def document(manifest, kind):
    with open(manifest, encoding="utf-8") as file:
        (found,) = [document for document in yaml.safe_load_all(file) if document["kind"] == kind]
    return found


def security(context):
    context = dict(context)
    user, group = context.pop("runAsUser"), context.pop("runAsGroup")
    if context.pop("runAsNonRoot", False) and user == 0:
        sys.exit("runAsNonRoot with runAsUser 0: the kubelet would refuse")
    yield f"--user={user}:{group}"
    if context.pop("readOnlyRootFilesystem"):
        yield "--read-only"
    if not context.pop("allowPrivilegeEscalation"):
        yield "--security-opt=no-new-privileges"
    capabilities = context.pop("capabilities")
    yield from (f"--cap-drop={name}" for name in capabilities.pop("drop", []))
    yield from (f"--cap-add={name}" for name in capabilities.pop("add", []))
    # Docker's own seccomp profile is the runtime's default.
    assert context.pop("seccompProfile") == {"type": "RuntimeDefault"}
    refuse("securityContext", context | capabilities)


def mount(volume_mount, volumes, directory):
    volume_mount = dict(volume_mount)
    name = volume_mount.pop("name")
    assert name in {volume["name"] for volume in volumes}, f"no volume {name}"
    source = "/".join(filter(None, [directory, name, volume_mount.pop("subPath", None)]))
    read_only = ",readonly" if volume_mount.pop("readOnly", False) else ""
    yield f"--mount=type=bind,source={source},target={volume_mount.pop('mountPath')}{read_only}"
    refuse("volumeMounts", volume_mount)


def container(spec, name, directory):
    found = spec.get("initContainers", []) + spec["containers"]
    (fields,) = [dict(each) for each in found if each["name"] == name]
    for field in ELSEWHERE:
        fields.pop(field, None)
    yield from security(fields.pop("securityContext"))
    limits = fields.pop("resources")["limits"]
    yield f"--cpus={limits['cpu']}"
    yield f"--memory={limits['memory'].removesuffix('i').lower()}"
    for variable in fields.pop("env", []):
        yield f"--env={variable['name']}={variable['value']}"
    for volume_mount in fields.pop("volumeMounts"):
        yield from mount(volume_mount, spec["volumes"], directory)
    program, *arguments = fields.pop("command")
    yield f"--entrypoint={program}"
    refuse(name, fields)
    yield "--"
    yield from arguments


def refuse(where, fields):
    if fields:
        sys.exit(f"{where}: {', '.join(fields)}: unknown to this rehearsal")


def main(manifest, name, directory=None):
    if name == "data":
        print(document(manifest, "ConfigMap")["data"][directory], end="")
        return
    spec = document(manifest, "Deployment")["spec"]["template"]["spec"]
    if name == "aliases":
        lines = (f"{host}:{alias['ip']}" for alias in spec.get("hostAliases", []) for host in alias["hostnames"])
    else:
        lines = container(spec, name, directory)
    for line in lines:
        print(line)


main(*sys.argv[1:])
