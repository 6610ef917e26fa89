#!/usr/bin/env bash
# Builds tests/typed-py to target/programs/typed-py.wasm: a plugin in the typed width by componentize-py.
# Does nothing when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly FOLDER=target/typed-py
readonly OUT=target/programs/typed-py.wasm

say() { echo "build-typed-py: $*" >&2; }
die() { say "$*"; exit 1; }

if [ -f "$OUT" ] && [ -z "$(find tests/typed tests/typed-py wit scripts/typed-wit.sh scripts/build-typed-py.sh -newer "$OUT" -type f -print -quit)" ]; then
  exit 0
fi

mkdir -p "$FOLDER" target/programs
exec 9>"$FOLDER/.lock"
flock 9
if ! cmp -s tests/typed-py/requirements.txt "$FOLDER/installed.txt"; then
  command -v python3 >/dev/null || die "python3 is missing: install Python 3.10 or newer"
  say "installing componentize-py with pip into $FOLDER"
  python3 -m venv "$FOLDER/venv" || die "python3 has no venv (on Debian: apt-get install python3-venv)"
  "$FOLDER/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/typed-py/requirements.txt
  cp tests/typed-py/requirements.txt "$FOLDER/installed.txt"
fi
wit=$(scripts/typed-wit.sh)
# A copy, for what Python compiles it puts beside the source.
mkdir -p "$FOLDER/source"
cp tests/typed-py/app.py "$FOLDER/source/"
# Renamed into place, so that a host which watches the folder never sees half a file.
"$FOLDER/venv/bin/componentize-py" --quiet -d "$wit" -w every-kind componentize app -p "$FOLDER/source" -o "$OUT.part"
mv "$OUT.part" "$OUT"
