#!/usr/bin/env bash
# Puts the world of tests/typed with the contract that it includes into one folder, as foreign toolchains want
# them, and prints the folder.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly FOLDER=target/typed/wit
mkdir -p "$FOLDER/deps/wasmill-plugin"
cp tests/typed/world.wit "$FOLDER/"
cp wit/0.1.0/plugin.wit "$FOLDER/deps/wasmill-plugin/"
echo "$FOLDER"
