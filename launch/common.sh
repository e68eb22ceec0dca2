# Sourced by the other scripts: goes to the repository's root; `install [EXTRA]` makes or reuses
# .venv there and installs the project into it, editable.
#
# What was installed is remembered in a stamp (.venv/installed, .venv/installed-EXTRA) holding the
# files that decide it. While they stay the same nothing is installed again and no network is
# needed. The stamp is written last, so an interrupted installation is taken up by the next run.
#
# PYTHON names the interpreter for a new .venv; the default is the first Python >= 3.11 on the PATH.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python >= 3.11 found; name one with PYTHON=/path/to/python" >&2
    return 2
}

# What a stamp holds; the folder is in it because an editable installation points to its folder.
requirements() {
    pwd
    cat setup.cfg pyproject.toml
}

installed() { # EXTRA: is it installed as setup.cfg says?
    "$python" -c '' 2>/dev/null &&
        requirements | cmp -s - ".venv/installed${1:+-$1}"
}

install() { # [EXTRA]
    local extra=${1:-} found metadata
    if installed "$extra"; then return; fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        found=$(find_python)
        echo "Making .venv with $found ..."
        "$found" -m venv .venv
        # a newer pip chooses among versions in a third less time; the one that is there does, too
        "$python" -m pip install -qq --disable-pip-version-check --no-compile --upgrade pip || true
    fi
    # pip writes INSTALLER once all files of a package are there: without it a package is half
    # installed, and pip would take it for complete.
    for metadata in .venv/lib/python*/site-packages/*.dist-info; do
        if [ -d "$metadata" ] && [ ! -e "$metadata/INSTALLER" ]; then rm -rf "$metadata"; fi
    done
    rm -f .venv/installed*
    echo "Installing adapt_jax${extra:+ with the $extra extra} into .venv ..."
    # without bytecode, which takes half of the time; Python compiles what is imported. -qq: a newer
    # pip warns about each index without a package, and about editable installations
    "$python" -m pip install -qq --disable-pip-version-check --no-compile --editable ".${extra:+[$extra]}"
    requirements >.venv/installed.new
    cp .venv/installed.new ".venv/installed${extra:+-$extra}"
    mv .venv/installed.new .venv/installed # an extra comes with everything else
}
