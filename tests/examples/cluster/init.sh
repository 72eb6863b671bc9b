# Process 1 of a node, in namespaces of its own. It ends, and the node with it, when its input does.
# Arguments: node, its address, its folder, the folder of Kubernetes' programs, the images to know.
set -euo pipefail
node=$1 address=$2 folder=$3 programs=$4
shift 4

hostname "$node"
mount -t proc proc /proc
# A kubelet sets these for the whole machine, unless they have the wanted values.
while read -r setting value; do
    echo "$value" > "$folder/$(basename "$setting")"
    mount --bind "$folder/$(basename "$setting")" "/proc/sys/$setting"
done <<'END'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END

# The machine's files below, the node's above: it makes what it wants, also where others look for it.
for path in etc opt var; do
    mkdir -p "$folder/$path/upper" "$folder/$path/work"
    mount -t overlay -o "lowerdir=/$path,upperdir=$folder/$path/upper,workdir=$folder/$path/work" overlay "/$path"
done
# Snapshots of containerd cannot be above an overlay.
for path in /var/lib/containerd /var/lib/kubelet; do
    mkdir -p "$path" "$folder$path"
    mount --bind "$folder$path" "$path"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /opt/cni/bin /etc/cni/net.d
cp /usr/lib/cni/{bandwidth,bridge,host-local,loopback,portmap} /opt/cni/bin/

# The network namespace's devices, and the cgroup namespace's hierarchies. Unmounted first: runc looks at what is hidden, too.
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
while IFS=: read -r _ controllers _; do
    mounted=/sys/fs/cgroup/${controllers#name=} kind=cgroup options=$controllers
    case $controllers in
    '') mounted=/sys/fs/cgroup/unified kind=cgroup2 options=rw ;;
    name=*) options=none,$controllers ;;
    esac
    mkdir "$mounted"
    mount -t "$kind" -o "$options" "$kind" "$mounted"
done < /proc/self/cgroup
mount -t bpf bpf /sys/fs/bpf
# Mounts of pods under a hostPath reach the node where they ask for it.
mount --make-rshared /

# Not ours to forward: whose end is looked for below.
containerd --config "$folder/containerd.toml" > "$folder/containerd.log" 2>&1 < /dev/null &
until ctr version > /dev/null 2>&1; do sleep 0.2; done
for image in "$@"; do
    # Of this node before it was started anew.
    [ -e "$image" ] && [ ! -e "/var/lib/containerd/$(basename "$image")" ] || continue
    ctr --namespace k8s.io images import "$image" > "$folder/import.log" 2>&1
    touch "/var/lib/containerd/$(basename "$image")"
done
"$programs/kubelet" --config="$folder/kubelet.yaml" --kubeconfig="$folder/kubeconfig" --hostname-override="$node" \
    --node-ip="$address" > "$folder/kubelet.log" 2>&1 < /dev/null &
"$programs/kube-proxy" --config="$folder/kube-proxy.yaml" > "$folder/kube-proxy.log" 2>&1 < /dev/null &
echo up
# Nobody writes: it is the end of whoever started this.
read -r _ || true
