#!/usr/bin/env bash
# Install latentune on a node, from its own lock, into ~/latentune/venv. Run again, it does nothing
# unless the package or the lock has changed. Beside it: what `make dist` wrote.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=$HOME/latentune/venv
extras=${1:-}                                       # for example [service,aws] on the head
wheel=$(ls -t "$here"/*.whl | head -n 1)              # the last that was built: earlier ones stay
mark=$( (cat "$wheel" "$here/constraints.txt"; cat "$here/requirements.lock" 2>/dev/null || true
         echo "$extras") | sha256sum)

grep -qs "$here/environment.sh" ~/.bashrc || {
  [ -s ~/.bashrc ] || echo > ~/.bashrc
  sed -i "1i . $here/environment.sh" ~/.bashrc      # before the line that leaves other shells
}
[ "$(cat "$venv/installed" 2>/dev/null)" = "$mark" ] && exit 0
python3 -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
if [ -f "$here/requirements.lock" ]; then           # all with hashes, but torch and extras
  "$venv/bin/pip" install --quiet --require-hashes --no-deps -r "$here/requirements.lock"
fi
"$venv/bin/pip" install --quiet -c "$here/constraints.txt" torch
"$venv/bin/pip" install --quiet -c "$here/constraints.txt" "latentune${extras} @ file://$wheel"
"$venv/bin/pip" install --quiet --force-reinstall --no-deps "$wheel"  # the same version, changed
echo "$mark" > "$venv/installed"
