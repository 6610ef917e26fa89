"""Checks docker-compose.yml, deploy/prometheus.yml and the Dockerfile's copies by rules.

With --health PORT: prints the Dockerfile's health check for that port, its words ended by zero bytes.
"""

import json
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
NAMED = re.compile(r"(?<!\$)\$\{([A-Z_]+)")


def health_check():
    found = re.search(r"^HEALTHCHECK.*\\\n\s*CMD (\[.*\])$", DOCKERFILE, re.M)
    return json.loads(found.group(1)) if found else None


def image_mistakes(name, service):
    image = service.get("image", "")
    tag = image.rpartition(":")[2]
    if not re.fullmatch(r"[\w./-]+:[\w.-]+", image) or tag == "latest":
        yield f"{name}: the image `{image}` has no tag of its own"


def dependency_mistakes(name, service, services):
    for other, how in service.get("depends_on", {}).items():
        condition = how.get("condition")
        if other not in services:
            yield f"{name}: depends on `{other}`, which is no service"
        elif condition == "service_healthy" and "healthcheck" not in services[other]:
            yield f"{name}: waits for the health of `{other}`, which has no health check"
        elif condition == "service_completed_successfully" and services[other].get("restart") != "no":
            yield f"{name}: waits for the end of `{other}`, which is restarted"


def service_mistakes(name, service, compose):
    yield from image_mistakes(name, service)
    yield from dependency_mistakes(name, service, compose["services"])
    ends = service.get("restart") == "no"
    if not ends and "healthcheck" not in service and not (service.get("build") and health_check()):
        yield f"{name}: no health check"
    for port in service.get("ports", []):
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port):
            yield f"{name}: the port {port} is not bound to 127.0.0.1"
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            if not (ROOT / source).exists():
                yield f"{name}: {source} does not exist"
        elif source not in compose["volumes"]:
            yield f"{name}: the volume `{source}` is not declared"


def variable_mistakes(compose, text):
    example = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M))
    documented = (ROOT / "docs/configuration.md").read_text()
    for name in sorted(set(NAMED.findall(text)) - example):
        yield f"${{{name}}} is not in .env.example"
    for name in compose["services"]["wasmill"]["environment"]:
        if f"| `{name}` |" not in documented:
            yield f"wasmill: docs/configuration.md doesn't know the variable {name}"


def scrape_mistakes(compose):
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
    exposed = int(re.search(r"^EXPOSE (\d+)$", DOCKERFILE, re.M).group(1))
    for job in prometheus["scrape_configs"]:
        for targets in job["dns_sd_configs"]:
            for name in targets["names"]:
                if name not in compose["services"] or targets["port"] != exposed:
                    yield f"prometheus: {name}:{targets['port']} is not what the image exposes"


def copy_mistakes():
    """What the build runs must get past .dockerignore, which lets through what it names."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    for path in ["Cargo.toml", "Cargo.lock", "host", "sdk", "wit", "plugins", "tests", "scripts"]:
        if path not in let_in or not (ROOT / path).exists():
            yield f"the image's build needs {path}, which .dockerignore holds back"
    for script in re.findall(r"scripts/[\w.-]+", DOCKERFILE):
        if not (ROOT / script).exists():
            yield f"the Dockerfile runs {script}, which does not exist"
    plugins = re.search(r"build-plugins\.sh (.*?)\s*\\?$", DOCKERFILE, re.M).group(1).split()
    for plugin in plugins:
        if not (ROOT / "plugins" / plugin).is_dir():
            yield f"the Dockerfile builds the plugin {plugin}, which does not exist"


def main():
    if sys.argv[1:2] == ["--health"]:
        words = [word.replace("9464", sys.argv[2]) for word in health_check()]
        sys.stdout.write("".join(word + "\0" for word in words))
        return
    text = (ROOT / "docker-compose.yml").read_text()
    compose = yaml.safe_load(text)
    mistakes = [m for name, s in compose["services"].items() for m in service_mistakes(name, s, compose)]
    wanted = {"wasmill", "kafka", "topics", "redis", "nats", "postgres", "prometheus"}
    mistakes += [f"the service {name} is missing" for name in sorted(wanted - set(compose["services"]))]
    mistakes += variable_mistakes(compose, text)
    mistakes += scrape_mistakes(compose)
    mistakes += copy_mistakes()
    for mistake in mistakes:
        print(f"check-container: {mistake}", file=sys.stderr)
    if mistakes:
        sys.exit(1)
    print(f"check-container: docker-compose.yml: {len(compose['services'])} services, right by the rules", file=sys.stderr)


main()
