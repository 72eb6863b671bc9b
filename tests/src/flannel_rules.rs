//! flanneld's iptables rules, as real flannel writes them: for kernel nodes and as a yardstick.

use crate::iptables::Iptables;
use crate::member::Member;

/// FLANNEL-POSTRTG (`--ip-masq`) and FLANNEL-FWD (`--iptables-forward-rules`) in flannel's order.
pub fn install(member: &(impl Member + ?Sized), iptables: Iptables) {
    masquerade(member, iptables);
    forward(member, iptables);
}

/// The seven rules of `--ip-masq`.
pub fn masquerade(member: &(impl Member + ?Sized), iptables: Iptables) {
    let (cluster, own) = (&member.net().cidr, member.subnet());
    let masquerade = "-m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully";
    let accept = "-m comment --comment \"flanneld masq\" -j RETURN";
    iptables.restore(
        member.node(),
        &[
            "*nat".to_owned(),
            ":FLANNEL-POSTRTG - [0:0]".to_owned(),
            "-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG".to_owned(),
            format!("-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {accept}"),
            format!("-A FLANNEL-POSTRTG -s {own} -d {cluster} {accept}"),
            format!("-A FLANNEL-POSTRTG -s {cluster} -d {own} {accept}"),
            format!("-A FLANNEL-POSTRTG ! -s {cluster} -d {own} {accept}"),
            format!("-A FLANNEL-POSTRTG -s {cluster} ! -d 224.0.0.0/4 {masquerade}"),
            format!("-A FLANNEL-POSTRTG ! -s {cluster} -d {cluster} {masquerade}"),
            "COMMIT".to_owned(),
        ],
    );
}

/// The two rules that let overlay packets through a FORWARD chain that drops.
pub fn forward(member: &(impl Member + ?Sized), iptables: Iptables) {
    let cluster = &member.net().cidr;
    let accept = "-m comment --comment \"flanneld forward\" -j ACCEPT";
    iptables.restore(
        member.node(),
        &[
            "*filter".to_owned(),
            ":FLANNEL-FWD - [0:0]".to_owned(),
            "-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD".to_owned(),
            format!("-A FLANNEL-FWD -s {cluster} {accept}"),
            format!("-A FLANNEL-FWD -d {cluster} {accept}"),
            "COMMIT".to_owned(),
        ],
    );
}
