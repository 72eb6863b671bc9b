# What starts a node, in its network namespace: joins cgroups of its own, and becomes `init.sh` in fresh namespaces.
# Arguments: lab, node, then those of init.sh.
set -euo pipefail
lab=$1 node=$2
shift

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo "this machine has cgroup v2 alone, and the cluster knows how to part hierarchies of v1 only" >&2
    exit 1
fi
# Read at once: it changes below.
cgroups=$(cat /proc/self/cgroup)
while IFS=: read -r _ controllers path; do
    # A hierarchy without a controller, and v2 beside v1.
    hierarchy=/sys/fs/cgroup/${controllers#name=}
    [ -n "$controllers" ] || hierarchy=/sys/fs/cgroup/unified
    [ -d "$hierarchy" ] || continue
    own=$hierarchy
    for part in ${path#/} "$lab" "$node"; do
        above=$own own=$own/$part
        mkdir -p "$own"
        # A new cpuset admits nobody.
        for file in cpuset.cpus cpuset.mems; do
            [ ! -e "$above/$file" ] || [ -n "$(cat "$own/$file")" ] || cat "$above/$file" > "$own/$file"
        done
    done
    echo $$ > "$own/cgroup.procs"
done <<< "$cgroups"

exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child -- bash "$(dirname "$0")/init.sh" "$@"
