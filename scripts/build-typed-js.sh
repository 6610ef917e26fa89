#!/usr/bin/env bash
# Builds tests/typed-js to target/programs/typed-js.wasm: a plugin in the typed width by componentize-js.
# Does nothing when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly FOLDER=target/typed-js
readonly OUT=target/programs/typed-js.wasm

say() { echo "build-typed-js: $*" >&2; }
die() { say "$*"; exit 1; }

if [ -f "$OUT" ] && [ -z "$(find tests/typed tests/typed-js wit scripts/typed-wit.sh scripts/build-typed-js.sh -newer "$OUT" -type f -print -quit)" ]; then
  exit 0
fi

for tool in node npm; do
  command -v "$tool" >/dev/null || die "$tool is missing: install Node.js 20 or newer (on Debian: apt-get install nodejs npm)"
done

mkdir -p "$FOLDER" target/programs
exec 9>"$FOLDER/.lock"
flock 9
if ! cmp -s tests/typed-js/package.json "$FOLDER/package.json" || ! [ -d "$FOLDER/node_modules" ]; then
  say "installing componentize-js with npm into $FOLDER"
  cp tests/typed-js/package.json "$FOLDER/package.json.new"
  npm install --prefix "$FOLDER" --silent --no-audit --no-fund "$(node -p \
    'Object.entries(require("./tests/typed-js/package.json").dependencies).map(([n, v]) => `${n}@${v}`).join(" ")')"
  mv "$FOLDER/package.json.new" "$FOLDER/package.json"
fi
cp tests/typed-js/build.mjs "$FOLDER/build.mjs"
node "$FOLDER/build.mjs" tests/typed-js/app.js "$(scripts/typed-wit.sh)" every-kind "$OUT"
