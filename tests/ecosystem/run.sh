#!/usr/bin/env bash
# Opens every table of finished outputs with pyarrow, pandas, polars, DuckDB and Hugging Face
# datasets, and compares what they read with the manifest.
#
#     tests/ecosystem/run.sh OUTPUT...
#     tests/ecosystem/run.sh --delta GLEANER    a job of its own, published as Delta tables
#
# The virtual environment is made once, outside of the checkout; PYTHON names the interpreter
# to make it with (default: python3).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${XDG_CACHE_HOME:-$HOME/.cache}/gleaner/ecosystem-venv

if [ $# -eq 0 ]; then
    echo "usage: $0 OUTPUT... | --delta GLEANER" >&2
    exit 2
fi

# The stamp is written last: an installation that was cut short is made again.
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
    echo "making $venv" >&2
    "${PYTHON:-python3}" -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/requirements.txt"
fi

if [ "$1" = --delta ]; then
    exec "$venv/bin/python" "$here/check_delta.py" "${@:2}"
fi
exec "$venv/bin/python" "$here/check_outputs.py" "$@"
