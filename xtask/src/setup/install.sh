# Installs the packages given as arguments; as a script, because only a trap takes the guard away
# again when somebody presses Ctrl-C.
set -eu

# etcd-server starts its service on installation, on the ports that a real etcd may want later. A
# policy-rc.d that says 101 forbids that; an existing one is the owner's decision and stays.
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap 'rm -f "$guard"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' > "$guard"
    chmod 755 "$guard"
fi

had_etcd=no
if dpkg-query --show etcd-server > /dev/null 2>&1; then had_etcd=yes; fi

apt-get update
apt-get install --yes --no-install-recommends "$@"

# Nor at the next boot, unless it was there before us.
if [ "$had_etcd" = no ] && [ -d /run/systemd/system ]; then
    systemctl disable etcd.service || true
fi
