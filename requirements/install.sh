#!/bin/sh
# Install a complete list without a resolver: install.sh PYTHON requirements/cpu.txt
set -eu
pip_install() { "$python" -m pip install --quiet --disable-pip-version-check --no-deps "$@"; }
python=$1 list=$2
torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' "$list")

case $torch in
  # A CPU build is not on PyPI: it comes from where pip is set up to look, else from PyTorch's own
  # index. Its pin can never be met by a CUDA build.
  *+cpu) pip_install "$torch" 2>/dev/null ||
    pip_install "$torch" --index-url https://download.pytorch.org/whl/cpu ;;
  *) pip_install "$torch" ;;
esac
grep -v '^flash-attn==' "$list" | pip_install -r /dev/stdin
# flash-attn has no wheel: its build imports torch and wheel, so it comes last.
if grep -q '^flash-attn==' "$list"; then
  grep '^flash-attn==' "$list" | pip_install --no-build-isolation -r /dev/stdin
fi
