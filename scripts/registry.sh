#!/usr/bin/env bash
# A real schema registry for tests and demos: Apicurio, which speaks Confluent's API too. Needs Maven, and Java 17;
# with Java 21 or newer it is Apicurio's newer line.
#
#   scripts/registry.sh fetch             fetches the registry into target/registry, once; prints its folder
#   scripts/registry.sh start DIR PORT    runs it on 127.0.0.1:PORT in the foreground, its log in DIR, its schemas in
#                                         memory; Confluent's API is at http://127.0.0.1:PORT/apis/ccompat/v7;
#                                         its health is told at MANAGEMENT_PORT (default: PORT + 1)
#
# REGISTRY_JAVA names a java to take. A registry that is started again is empty. Stop it with a signal.
set -euo pipefail

# The newer line needs Java 21, which not every system has.
readonly NEW=3.3.3 NEW_JAVA=21
readonly OLD=2.6.13.Final OLD_JAVA=17

root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
  echo "registry.sh: $*" >&2
  exit 1
}

# The number of a java's release; 0 where there is none.
release() {
  local told
  told=$("$1" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n1) || true
  echo "${told:-0}"
}

# Sets java and version: the newest java there is, and what it can run.
choose() {
  local found best=0 candidate
  java=
  local candidates=("${REGISTRY_JAVA:-}")
  if [[ -z ${REGISTRY_JAVA:-} ]]; then
    candidates=("${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)" /usr/lib/jvm/*/bin/java)
  fi
  for candidate in "${candidates[@]}"; do
    [[ -n $candidate && -x $candidate ]] || continue
    found=$(release "$candidate")
    if ((found > best)); then
      best=$found java=$candidate
    fi
  done
  if ((best >= NEW_JAVA)); then
    version=$NEW
  elif ((best >= OLD_JAVA)); then
    version=$OLD
  else
    fail "there is no Java of $OLD_JAVA or newer${REGISTRY_JAVA:+ at $REGISTRY_JAVA}: install one (on Debian: default-jre-headless), or name it by REGISTRY_JAVA"
  fi
  folder=$root/target/registry/apicurio-$version
}

fetch() {
  choose
  [[ -e $folder/done ]] && return
  command -v mvn >/dev/null || fail "mvn is missing: install Maven"
  # Unpacked aside first, so that what was interrupted isn't taken for whole.
  local new="$folder.new.$$"
  mkdir -p "$new"
  local copy=org.apache.maven.plugins:maven-dependency-plugin:3.6.1
  local artifact=io.apicurio:apicurio-registry-app:$version:tar.gz:all
  mvn -q "$copy:get" -Dtransitive=false -Dartifact="$artifact" >&2
  mvn -q "$copy:copy" -Dartifact="$artifact" -DoutputDirectory="$new" -Dmdep.useBaseVersion=true >&2
  tar -xzf "$new"/*.tar.gz -C "$new"
  rm "$new"/*.tar.gz
  touch "$new/done"
  mv -T "$new" "$folder" 2>/dev/null || rm -rf "$new"
}

start() {
  local dir=$1 port=$2 jar
  fetch
  jar=$(ls "$folder"/quarkus-run.jar "$folder"/*-runner.jar 2>/dev/null | head -n1) || true
  [[ -n $jar ]] || fail "there is no registry in $folder: remove the folder and run again"
  mkdir -p "$dir"
  cd "$dir"
  exec "$java" -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port="$port" \
    -Dquarkus.management.host=127.0.0.1 -Dquarkus.management.port="${MANAGEMENT_PORT:-$((port + 1))}" \
    -jar "$jar" >"$dir/registry.log" 2>&1
}

case "${1:-}" in
fetch) [[ $# -eq 1 ]] || fail "usage: registry.sh fetch"; fetch; echo "$folder" ;;
start) [[ $# -eq 3 ]] || fail "usage: registry.sh start DIR PORT"; start "$2" "$3" ;;
*) fail "usage: registry.sh fetch | registry.sh start DIR PORT" ;;
esac
