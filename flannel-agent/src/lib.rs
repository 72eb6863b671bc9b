//! The node agent: follows the leases of a flannel network and keeps this node's dataplane equal to them.
//!
//! The flow is always the same: sources (etcd, netlink, timers) feed [`desired`], a pure function;
//! the dataplane observes what the kernel holds, plans the difference and applies it.

pub mod actual;
pub mod alloc;
mod apply;
pub mod blackhole;
mod by_stack;
mod causes;
pub mod cleanup;
pub mod cli;
pub mod cni;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod desired;
pub mod direct;
pub mod docker_opts;
pub(crate) mod files;
pub mod flanneld_masq;
pub mod forward_rules;
pub mod health;
pub mod inspect;
pub mod iptables;
mod json_fields;
pub mod lease;
pub mod logbook;
pub mod logging;
pub mod mac;
pub mod mark;
pub mod metrics;
pub mod net;
pub mod node_sysctls;
pub mod observe;
pub mod path_mtu;
pub mod plan;
mod ports;
pub mod redact;
pub mod rescue;
pub mod senders;
pub mod source;
pub mod subnet_env;
pub mod sweep;
pub mod unreached;
pub mod uplink;
pub mod wall;
