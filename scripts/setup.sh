# Sourced by the other scripts: finds a Python, brings .venv up to date, and goes to the project root.
# A script that needs more sets `environment` and `extra` first: another folder, another extra of pyproject.toml.
# It needs a POSIX shell and Python 3.11 or newer; PYTHON names another interpreter than python3.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"

enough='import sys; sys.exit(sys.version_info < (3, 11))'
found=
for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c "$enough" >/dev/null 2>&1; then
        found=$candidate
        break
    fi
done
if [ -z "$found" ]; then
    echo "Python 3.11 or newer is needed, and ${PYTHON:-python3} is not." >&2
    echo "Install one, or name it: PYTHON=/path/to/python3 $0" >&2
    exit 1
fi
"$found" scripts/setup.py "${environment:-.venv}" "${extra:-dev}"
