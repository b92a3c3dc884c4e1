#!/usr/bin/env bash
# Make the environment of the packages that ours is compared with: install.sh DIRECTORY
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python3 -m venv "$1"
"$1/bin/python" -m pip install --quiet -r "$here/requirements.txt"

# learn2learn does not build on Python 3.11 and later: the C files that it ships are stale, and its
# setup.py ignores Cython. MAML is pure Python, so its files are enough; worker.py imports that
# module alone.
sources=$(mktemp -d)
trap 'rm -rf "$sources"' EXIT
"$1/bin/python" -m pip install --quiet "setuptools" "cython>=3"
"$1/bin/python" -m pip download --quiet --no-deps --no-build-isolation --no-binary :all: \
    --dest "$sources" learn2learn==0.2.0
tar -xzf "$sources"/learn2learn-0.2.0.tar.gz -C "$sources"
site=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp -r "$sources/learn2learn-0.2.0/learn2learn" "$site/"
