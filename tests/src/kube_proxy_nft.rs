//! What kube-proxy's nftables mode installs for a service: one table of its own, chosen by maps instead of chains of rules.

use std::fmt::Write as _;

use crate::host::{Host, batch};
use crate::kube_proxy::{MASQUERADE, Service};

impl Service {
    /// The table in the namespace of `host`: DNAT of the service, masquerading of hairpin, node port and off-cluster clients,
    /// and the drop of INVALID packets.
    #[track_caller]
    pub fn install_nftables(&self, host: &(impl Host + ?Sized), cluster: &str) {
        batch(&mut host.command("nft -f -"), &[self.table(cluster)]);
    }

    fn table(&self, cluster: &str) -> String {
        let (ip, port) = (self.cluster_ip, self.port);
        let protocols = ["tcp", "udp"];
        let by = |what: &dyn Fn(&str) -> String| protocols.map(what).join(", ");
        let services = by(&|p| format!("{ip} . {p} . {port} : goto service"));
        let node_ports = self.node_port.map(|port| {
            let map = by(&|p| format!("{p} . {port} : goto external"));
            format!("fib daddr type local meta l4proto . th dport vmap {{ {map} }}")
        });
        let (mut endpoints, mut chosen) = (String::new(), Vec::new());
        for (n, endpoint) in self.endpoints.iter().enumerate() {
            let _ = write!(
                endpoints,
                "chain endpoint-{n} {{
                    ip saddr {} jump mark-for-masquerade
                    meta l4proto {{ tcp, udp }} dnat to {endpoint}
                }}
                ",
                endpoint.ip()
            );
            chosen.push(format!("{n} : goto endpoint-{n}"));
        }
        format!(
            "table ip kube-proxy {{
                chain mark-for-masquerade {{
                    meta mark set meta mark or {MASQUERADE}
                }}
                {endpoints}
                chain service {{
                    ip daddr {ip} ip saddr != {cluster} jump mark-for-masquerade
                    numgen random mod {} vmap {{ {} }}
                }}
                chain external {{
                    jump mark-for-masquerade
                    goto service
                }}
                chain services {{
                    ip daddr . meta l4proto . th dport vmap {{ {services} }}
                    {}
                }}
                chain nat-prerouting {{
                    type nat hook prerouting priority dstnat
                    jump services
                }}
                chain nat-output {{
                    type nat hook output priority -100
                    jump services
                }}
                chain nat-postrouting {{
                    type nat hook postrouting priority srcnat
                    meta mark & {MASQUERADE} == 0 return
                    meta mark set meta mark xor {MASQUERADE}
                    masquerade fully-random
                }}
                chain filter-forward {{
                    type filter hook forward priority -110
                    ct state invalid drop
                }}
            }}",
            self.endpoints.len(),
            chosen.join(", "),
            node_ports.unwrap_or_default(),
        )
    }
}
