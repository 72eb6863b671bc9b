//! The node agent: follows the leases of a flannel network and keeps this node's dataplane equal to them.
//!
//! The flow is always the same: sources (etcd, netlink, timers) feed [`desired`], a pure function;
//! the dataplane observes what the kernel holds, plans the difference and applies it.

pub mod base;
pub mod cleanup;
pub mod cli;
pub mod daemon;
pub mod dataplane;
pub mod flannel;
pub mod inspect;
pub mod node;
pub mod reconcile;
pub mod server;
pub mod settings;
pub mod source;
