#!/usr/bin/env bash
# An SSH server for mpirun alone. Sessions get this pod's whole environment, which a login shell would not have: the
# image's paths, and what the chart's serve.env says to NCCL.
set -euo pipefail
environment=()
while IFS= read -r -d '' variable; do
    name=${variable%%=*} value=${variable#*=}
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || continue
    if [[ $value == *$'\n'* ]]; then
        echo "$name has several lines and is not handed on" >&2
        continue
    fi
    value=${value//\\/\\\\}
    environment+=("$name=\"${value//\"/\\\"}\"")
done < <(env -0)
exec /usr/sbin/sshd -D -e -f "$(dirname "$0")/sshd_config" -o "SetEnv=${environment[*]}"
