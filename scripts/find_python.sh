#!/bin/sh
# Print the first Python on this machine that is 3.11 or newer and can create virtual environments.
# $PYTHON, if set, is the only one that is tried.
set -eu

usable='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
for name in ${PYTHON:-python3 python3.11 python3.12 python3.13 python}; do
    if "$name" -c "$usable" >/dev/null 2>&1; then
        "$name" -c 'import sys; print(sys.executable)'
        exit 0
    fi
done
cat >&2 <<END
PipeSD needs Python 3.11 or newer with the venv module, and found none among: ${PYTHON:-python3 python3.11 python3.12 python3.13 python}
Install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13)
or name one: make PYTHON=/path/to/python3 ...
END
exit 1
