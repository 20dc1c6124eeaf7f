#!/usr/bin/env bash
# Every supported Python in a fresh clone: `make setup` and what the arguments name (default: demo). Logs stay in var/pythons.
# Those on the path are taken; PYTHONS="python3.12 /elsewhere/bin/python3.13" names others.
set -uo pipefail
cd "$(dirname "$0")/.."
logs=$PWD/var/pythons
mkdir -p "$logs"
targets=("${@:-demo}")
failed=0
for python in ${PYTHONS:-python3.11 python3.12 python3.13}; do
    if ! version=$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null); then
        echo "$python: not on the path; name it in PYTHONS."
        failed=1
        continue
    fi
    clone=$(mktemp -d)
    log=$logs/$version.log
    began=$SECONDS
    if git clone --quiet . "$clone/pangu" && make -C "$clone/pangu" PYTHON="$(command -v "$python")" setup "${targets[@]}" >"$log" 2>&1; then
        echo "Python $version: setup ${targets[*]} passed in $((SECONDS - began)) s."
    else
        echo "Python $version: failed after $((SECONDS - began)) s; see var/pythons/$version.log."
        failed=1
    fi
    rm -rf "$clone"
done
exit $failed
