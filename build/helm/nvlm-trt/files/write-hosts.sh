#!/usr/bin/env bash
# Waits until every worker of the group takes SSH connections, then writes mpirun's list of hosts.
#
#     LWS_LEADER_ADDRESS=NAME-0.NAME.NAMESPACE LWS_GROUP_SIZE=2 GPUS=8 SSH_PORT=2222 write-hosts.sh FILE
#
# Workers are called after their leader, NAME-0-1.NAME.NAMESPACE and on; the first two variables come from the set.
set -euo pipefail
: "${LWS_LEADER_ADDRESS:?} ${LWS_GROUP_SIZE:?} ${GPUS:?} ${SSH_PORT:?}"
leader=${LWS_LEADER_ADDRESS%%.*}
domain=${LWS_LEADER_ADDRESS#*.}
hosts=("$LWS_LEADER_ADDRESS")
for ((worker = 1; worker < LWS_GROUP_SIZE; worker++)); do
    host=$leader-$worker.$domain
    until (exec 3<>"/dev/tcp/$host/$SSH_PORT") 2>/dev/null; do
        echo "waiting for $host"
        sleep 1
    done
    hosts+=("$host")
done
# The leader first: rank 0 is the one that answers.
printf "%s slots=$GPUS\n" "${hosts[@]}" >"$1"
