//! What kube-proxy (iptables mode) installs for a service, chain by chain.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::host::Host;
use crate::iptables::Iptables;

/// A TCP and UDP service.
#[derive(Debug, Clone)]
pub struct Service {
    pub cluster_ip: Ipv4Addr,
    pub port: u16,
    pub node_port: Option<u16>,
    pub endpoints: Vec<SocketAddrV4>,
}

/// The mark that asks KUBE-POSTROUTING to masquerade.
pub(crate) const MASQUERADE: &str = "0x4000";

impl Service {
    pub fn new(cluster_ip: Ipv4Addr, port: u16, endpoints: Vec<SocketAddrV4>) -> Self {
        Self {
            cluster_ip,
            port,
            node_port: None,
            endpoints,
        }
    }

    #[must_use]
    pub fn node_port(mut self, port: u16) -> Self {
        self.node_port = Some(port);
        self
    }

    pub fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.cluster_ip, self.port)
    }

    /// Installs the chains in the namespace of `host`: DNAT of the service, masquerading of hairpin, node port
    /// and off-cluster clients, the drop of INVALID packets, and FORWARD policy DROP with kube-proxy's exceptions.
    ///
    /// Traffic between pods that is no service passes only where [`crate::flannel_rules::forward`] lets it.
    pub fn install(&self, host: &(impl Host + ?Sized), iptables: Iptables, cluster: &str) {
        install(&[self], host, iptables, cluster);
    }

    /// Who is sent to its chain.
    fn rules(&self, number: usize) -> Vec<String> {
        let (ip, port) = (self.cluster_ip, self.port);
        let chain = format!("KUBE-SVC-{number}");
        let mut lines = Vec::new();
        for proto in ["tcp", "udp"] {
            let service = format!("-d {ip}/32 -p {proto} --dport {port}");
            lines.push(format!("-A KUBE-SERVICES {service} -j {chain}"));
            if let Some(node_port) = self.node_port {
                lines.push(format!(
                    "-A KUBE-NODEPORTS -p {proto} --dport {node_port} -j KUBE-MARK-MASQ"
                ));
                lines.push(format!(
                    "-A KUBE-NODEPORTS -p {proto} --dport {node_port} -j {chain}"
                ));
            }
        }
        lines
    }

    /// Its chain, and one per endpoint, chosen with equal probability.
    fn chains(&self, number: usize, cluster: &str) -> Vec<String> {
        let (ip, port) = (self.cluster_ip, self.port);
        let own = format!("KUBE-SVC-{number}");
        let mut lines = vec![format!(":{own} - [0:0]")];
        for proto in ["tcp", "udp"] {
            lines.push(format!(
                "-A {own} ! -s {cluster} -d {ip}/32 -p {proto} --dport {port} -j KUBE-MARK-MASQ"
            ));
        }
        let total = self.endpoints.len();
        for (n, endpoint) in self.endpoints.iter().enumerate() {
            let chain = format!("KUBE-SEP-{number}-{n}");
            lines.push(format!(":{chain} - [0:0]"));
            let ip = endpoint.ip();
            lines.push(format!("-A {chain} -s {ip}/32 -j KUBE-MARK-MASQ"));
            for proto in ["tcp", "udp"] {
                lines.push(format!(
                    "-A {chain} -p {proto} -j DNAT --to-destination {endpoint}"
                ));
            }
            let left = total - n;
            lines.push(if left == 1 {
                format!("-A {own} -j {chain}")
            } else {
                let percent = 100 / left;
                format!(
                    "-A {own} -m statistic --mode random --probability 0.{percent:02} -j {chain}"
                )
            });
        }
        lines
    }
}

/// As [`Service::install`], of several: kube-proxy too writes them all at once.
pub fn install(
    services: &[&Service],
    host: &(impl Host + ?Sized),
    iptables: Iptables,
    cluster: &str,
) {
    iptables.restore(host, &nat(services, cluster));
    iptables.restore(host, &filter());
}

fn nat(services: &[&Service], cluster: &str) -> Vec<String> {
    let mut lines: Vec<String> = [
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-NODEPORTS - [0:0]",
        ":KUBE-POSTROUTING - [0:0]",
        ":KUBE-MARK-MASQ - [0:0]",
        "-I PREROUTING -j KUBE-SERVICES",
        "-I OUTPUT -j KUBE-SERVICES",
        "-I POSTROUTING -j KUBE-POSTROUTING",
    ]
    .map(str::to_owned)
    .to_vec();
    lines.push(format!("-A KUBE-MARK-MASQ -j MARK --or-mark {MASQUERADE}"));
    lines.push(format!(
        "-A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE}/{MASQUERADE} -j RETURN"
    ));
    lines.push(format!(
        "-A KUBE-POSTROUTING -j MARK --xor-mark {MASQUERADE}"
    ));
    lines.push("-A KUBE-POSTROUTING -j MASQUERADE --random-fully".to_owned());
    for (number, service) in services.iter().enumerate() {
        lines.extend(service.chains(number, cluster));
        lines.extend(service.rules(number));
    }
    lines.push("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS".to_owned());
    lines.push("COMMIT".to_owned());
    lines
}

fn filter() -> Vec<String> {
    [
        "*filter".to_owned(),
        ":FORWARD DROP [0:0]".to_owned(),
        ":KUBE-FORWARD - [0:0]".to_owned(),
        "-I FORWARD -j KUBE-FORWARD".to_owned(),
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP".to_owned(),
        format!("-A KUBE-FORWARD -m mark --mark {MASQUERADE}/{MASQUERADE} -j ACCEPT"),
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
        "COMMIT".to_owned(),
    ]
    .to_vec()
}
