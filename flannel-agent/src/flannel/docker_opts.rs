//! `mk-docker-opts`: the subnet file as options for Docker's daemon, for nodes without Kubernetes.
//!
//! Options and output are those of flannel's `mk-docker-opts.sh`, so that a unit file with it in
//! `ExecStartPre=` needs another path and nothing else.

mod routes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::base::files;
use crate::flannel::subnet_env;

/// Variables of this prefix become options, whoever set them.
const OPTION: &str = "DOCKER_OPT_";

/// `flannel-agent mk-docker-opts`
#[derive(Debug, Clone, Args)]
pub struct DockerOpts {
    /// Subnet file to read
    #[arg(short = 'f', value_name = "FILE", default_value = subnet_env::DEFAULT_PATH)]
    pub subnet_file: PathBuf,
    /// Environment file to write, for Docker's unit
    #[arg(
        short = 'd',
        value_name = "FILE",
        default_value = "/run/docker_opts.env"
    )]
    pub docker_file: PathBuf,
    /// Write each option as a variable of its own, such as DOCKER_OPT_MTU
    #[arg(short = 'i')]
    pub individual: bool,
    /// Write all options as one variable [default: both kinds]
    #[arg(short = 'c')]
    pub combined: bool,
    /// Leave --ip-masq out, for very old versions of Docker
    #[arg(short = 'm')]
    pub no_ip_masq: bool,
    /// Name of the variable with all options
    #[arg(short = 'k', value_name = "NAME", default_value = "DOCKER_OPTS")]
    pub key: String,
}

/// Writes Docker's environment file. `env` is this process's environment: options in it are kept.
///
/// # Errors
/// A file that cannot be read or written, a `FLANNEL_IPMASQ` that is no boolean, a route that
/// already sends the subnet elsewhere.
pub fn make(opts: &DockerOpts, env: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let flannel = subnet_env::text(&opts.subnet_file)?.unwrap_or_default();
    let text = docker_env(opts, &flannel, env)?;
    files::replace(&opts.docker_file, text.as_bytes()).with_context(|| {
        format!(
            "cannot write {}: choose a file in a writable folder with -d",
            opts.docker_file.display()
        )
    })?;
    let subnet = subnet_env::parse(&flannel).subnet;
    let table = Path::new("/proc/net/route");
    let routes = std::fs::read_to_string(table)
        .with_context(|| format!("cannot read {}", table.display()))?;
    if let Some(gateway) = subnet.and_then(|subnet| routes::gateway(&routes, subnet)) {
        let subnet = subnet.map(|s| s.to_string()).unwrap_or_default();
        bail!(
            "the routing table sends {subnet} to {gateway}: two nodes use this subnet, \
             or the route is left over; remove it with `ip route del {subnet} via {gateway}`"
        );
    }
    Ok(())
}

/// The environment file's text.
fn docker_env(
    opts: &DockerOpts,
    flannel: &str,
    env: &BTreeMap<String, String>,
) -> anyhow::Result<String> {
    let mut options: BTreeMap<String, String> = env
        .iter()
        .filter(|(name, _)| name.starts_with(OPTION))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut set = |name: &str, value: String| options.insert(format!("{OPTION}{name}"), value);
    let given = |name| subnet_env::value(flannel, name).filter(|value| !value.is_empty());
    if let Some(subnet) = given("FLANNEL_SUBNET") {
        set("BIP", format!("--bip={subnet}"));
    }
    if let Some(mtu) = given("FLANNEL_MTU") {
        set("MTU", format!("--mtu={mtu}"));
    }
    if let Some(flannel_masquerades) = given("FLANNEL_IPMASQ").filter(|_| !opts.no_ip_masq) {
        // Only one of the two may do it.
        let docker_masquerades = match flannel_masquerades {
            "true" => false,
            "false" => true,
            other => bail!(
                "FLANNEL_IPMASQ={other} in {}: must be true or false; delete the line to leave --ip-masq out",
                opts.subnet_file.display()
            ),
        };
        set("IPMASQ", format!("--ip-masq={docker_masquerades}"));
    }
    let all = opts.individual == opts.combined;
    let mut text = String::new();
    if all || opts.individual {
        for (name, value) in &options {
            let _ = writeln!(text, "{name}=\"{value}\"");
        }
    }
    if all || opts.combined {
        let mut combined = match env.get(&opts.key).map(String::as_str) {
            None | Some("") => String::new(),
            Some(before) => format!("{before} "),
        };
        for value in options.values() {
            combined.push(' ');
            combined.push_str(value);
        }
        let _ = writeln!(text, "{}=\"{combined}\"", opts.key);
    }
    Ok(text)
}
