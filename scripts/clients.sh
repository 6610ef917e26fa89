#!/usr/bin/env bash
# The clients of other languages that the tests read and write brokers with: prints the Python that has them.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
folder=$root/target/clients
wanted=$root/tests/clients/requirements.txt

fail() {
  echo "clients.sh: $*" >&2
  exit 1
}

mkdir -p "$folder"
exec 9>"$folder/.lock"
flock 9
if ! cmp -s "$wanted" "$folder/installed.txt"; then
  command -v python3 >/dev/null || fail "python3 is missing: install Python 3.9 or newer"
  python3 -m venv "$folder/python" >&2 || fail "python3 has no venv (on Debian: apt-get install python3-venv)"
  "$folder/python/bin/pip" install --quiet --disable-pip-version-check -r "$wanted" >&2
  cp "$wanted" "$folder/installed.txt"
fi
echo "$folder/python/bin/python"
