//! What an agent tells at `/metrics`.

use std::str::FromStr;

use crate::agent::{Agent, http_get};
use crate::member::Member as _;

/// The value of the sample `name`, labels included; `None` if there is no such sample.
///
/// # Panics
/// If nobody answers, or the value is of another type.
#[track_caller]
pub fn sample<T: FromStr>(agent: &Agent, name: &str) -> Option<T> {
    let port = agent.daemon().health_port();
    let text = http_get(agent.node(), port, "/metrics").expect("metrics");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let parsed = value.parse().ok();
    Some(parsed.unwrap_or_else(|| panic!("{name} is {value}")))
}
