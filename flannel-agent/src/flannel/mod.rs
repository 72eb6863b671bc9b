//! flannel's formats and rules, pure: what is in the datastore and in the files that others read.

pub mod alloc;
pub mod backend;
pub mod cni;
pub mod config;
pub mod docker_opts;
pub mod lease;
pub mod remote;
pub mod subnet_env;
