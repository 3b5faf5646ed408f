#!/usr/bin/env bash
# An SSH server for mpirun alone. Sessions get the image's environment, which a login shell would not have.
exec /usr/sbin/sshd -D -e -f "$(dirname "$0")/sshd_config" \
    -o "SetEnv=PATH=$PATH LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-} HOME=$HOME"
