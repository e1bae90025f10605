#!/bin/sh
# Make a virtual environment with the first Python that can: make_venv.sh FOLDER [PYTHON]
set -eu
folder=$1

for python in ${2:-python3 python3.13 python3.12 python3.11 python3.14}; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "making $folder with $("$python" --version)"
        exec "$python" -m venv "$folder"
    fi
    bare=$python
done

if [ -n "${bare:-}" ]; then
    echo "$("$bare" --version) is here but cannot make virtual environments: its venv or ensurepip is missing." >&2
    echo "On Debian and Ubuntu: apt-get install python3-venv" >&2
else
    echo "no Python 3.11 or later found; name one with: make PYTHON=/path/to/python …" >&2
fi
exit 1
