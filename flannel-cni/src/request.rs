//! What the runtime asks: environment variables and a configuration on stdin.

use std::io;

use serde_json::Value;

use crate::conf;
use crate::error::{CniError, Code};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Command {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "ADD" => Self::Add,
            "CHECK" => Self::Check,
            "DEL" => Self::Del,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// Whether it is about one container.
    fn has_container(self) -> bool {
        matches!(self, Self::Add | Self::Check | Self::Del)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) command: Command,
    /// Of letters, digits, `_`, `.` and `-`, the first a letter or digit: safe as the name of a file. Empty where the
    /// command is about none.
    pub(crate) container: String,
    /// Empty if the container's namespace is gone (DEL).
    pub(crate) netns: String,
    /// Whether a container may be in the plugin's own namespace.
    pub(crate) own_netns_too: bool,
    /// Folders of plugins, by colons.
    pub(crate) path: String,
    /// An object with a name; null for VERSION.
    pub(crate) config: Value,
}

impl Request {
    /// Reads stdin only where the command has a configuration.
    ///
    /// # Errors
    /// As skel of the CNI project: 4 for variables, 5 for stdin, 6 for what is no JSON, 7 for a missing name.
    pub(crate) fn read(
        variable: impl Fn(&str) -> String,
        stdin: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> Result<Self, CniError> {
        let name = variable("CNI_COMMAND");
        let command = Command::named(&name).ok_or_else(|| {
            let msg = format!("unknown CNI_COMMAND: {name}");
            CniError::new(Code::InvalidVariables, msg)
        })?;
        let mut missing = Vec::new();
        let mut take = |name, needed: bool| {
            let value = variable(name);
            if needed && value.is_empty() {
                missing.push(name);
            }
            value
        };
        let container = take("CNI_CONTAINERID", command.has_container());
        let netns = take(
            "CNI_NETNS",
            command.has_container() && command != Command::Del,
        );
        let interface = take("CNI_IFNAME", command.has_container());
        let path = take("CNI_PATH", command != Command::Version);
        if !missing.is_empty() {
            let msg = format!("required env variables [{}] missing", missing.join(","));
            return Err(CniError::new(Code::InvalidVariables, msg));
        }
        if command.has_container() {
            check_container(&container)?;
            check_interface(&interface)?;
        }
        let override_netns = variable("CNI_NETNS_OVERRIDE");
        let config = match command {
            Command::Version => Value::Null,
            _ => config(&stdin().map_err(|error| {
                let msg = format!("error reading from stdin: {error}");
                CniError::new(Code::InputOutput, msg)
            })?)?,
        };
        Ok(Self {
            command,
            container,
            netns,
            own_netns_too: override_netns == "1" || override_netns.eq_ignore_ascii_case("true"),
            path,
            config,
        })
    }
}

fn config(text: &[u8]) -> Result<Value, CniError> {
    let config: Value = serde_json::from_slice(text).map_err(|error| {
        let msg = format!("error unmarshall network config: {error}");
        CniError::new(Code::Decoding, msg)
    })?;
    let object = config.as_object().ok_or_else(|| {
        let msg = "error unmarshall network config: it is no JSON object";
        CniError::new(Code::Decoding, msg)
    })?;
    match conf::field(object, "name") {
        None | Some(Value::Null) => Err(missing_name()),
        Some(Value::String(name)) if name.is_empty() => Err(missing_name()),
        Some(Value::String(name)) if is_name(name) => Ok(config),
        Some(Value::String(name)) => Err(CniError::detailed(
            Code::InvalidConfig,
            "invalid characters found in network name",
            name,
        )),
        Some(other) => Err(CniError::new(
            Code::Decoding,
            format!("error unmarshall network config: the name is no string: {other}"),
        )),
    }
}

fn missing_name() -> CniError {
    CniError::new(Code::InvalidConfig, "missing network name")
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn check_container(name: &str) -> Result<(), CniError> {
    if is_name(name) {
        return Ok(());
    }
    let msg = "invalid characters in containerID";
    Err(CniError::detailed(Code::InvalidVariables, msg, name))
}

fn check_interface(name: &str) -> Result<(), CniError> {
    // IFNAMSIZ holds a zero at the end.
    const LONGEST: usize = 15;
    let (msg, details) = if name.len() > LONGEST {
        let details = format!(
            "interface name should be less than {} characters",
            LONGEST + 1
        );
        ("interface name is too long", details)
    } else if name == "." || name == ".." {
        ("interface name is . or ..", String::new())
    } else if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        let msg = "interface name contains / or : or whitespace characters";
        (msg, String::new())
    } else {
        return Ok(());
    };
    Err(CniError::detailed(Code::InvalidVariables, msg, details))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const CONFIG: &str = r#"{"name":"cbr0","cniVersion":"0.3.1"}"#;

    fn read(changed: &[(&str, &str)], stdin: &str) -> Result<Request, CniError> {
        let usual = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/var/run/netns/c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let variable = |name: &str| {
            let all = changed.iter().chain(&usual);
            let value = all.into_iter().find(|(key, _)| *key == name);
            value
                .map(|(_, value)| (*value).to_owned())
                .unwrap_or_default()
        };
        Request::read(variable, || Ok(stdin.as_bytes().to_vec()))
    }

    #[test]
    fn a_whole_request_is_taken() {
        let request = read(&[("CNI_NETNS_OVERRIDE", "TRUE")], CONFIG).unwrap();
        assert_eq!(request.command, Command::Add);
        assert_eq!(request.container, "c1");
        assert!(request.own_netns_too);
    }

    #[test]
    fn a_container_that_is_gone_has_no_namespace() {
        let gone = [("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")];
        assert_eq!(read(&gone, CONFIG).unwrap().netns, "");
    }

    #[test]
    fn version_needs_nothing() {
        let nothing = [
            ("CNI_COMMAND", "VERSION"),
            ("CNI_CONTAINERID", ""),
            ("CNI_NETNS", ""),
            ("CNI_IFNAME", ""),
            ("CNI_PATH", ""),
        ];
        assert_eq!(read(&nothing, "no JSON").unwrap().config, Value::Null);
    }

    #[rstest]
    #[case(&[("CNI_COMMAND", "FOO")], CONFIG, 4, "unknown CNI_COMMAND: FOO")]
    #[case(&[("CNI_CONTAINERID", ""), ("CNI_IFNAME", "")], CONFIG, 4, "required env variables [CNI_CONTAINERID,CNI_IFNAME] missing")]
    #[case(&[("CNI_COMMAND", "STATUS"), ("CNI_PATH", "")], CONFIG, 4, "required env variables [CNI_PATH] missing")]
    #[case(&[("CNI_CONTAINERID", "../etc/passwd")], CONFIG, 4, "invalid characters in containerID")]
    #[case(&[("CNI_CONTAINERID", ".hidden")], CONFIG, 4, "invalid characters in containerID")]
    #[case(&[("CNI_IFNAME", "sixteencharacter")], CONFIG, 4, "interface name is too long")]
    #[case(&[("CNI_IFNAME", "..")], CONFIG, 4, "interface name is . or ..")]
    #[case(&[("CNI_IFNAME", "a b")], CONFIG, 4, "interface name contains / or : or whitespace characters")]
    #[case(&[], "x", 6, "error unmarshall network config: expected value at line 1 column 1")]
    #[case(&[], "[]", 6, "error unmarshall network config: it is no JSON object")]
    #[case(&[], r#"{"name":1}"#, 6, "error unmarshall network config: the name is no string: 1")]
    #[case(&[], "{}", 7, "missing network name")]
    #[case(&[], r#"{"name":""}"#, 7, "missing network name")]
    #[case(&[], r#"{"name":"a/b"}"#, 7, "invalid characters found in network name")]
    fn what_is_wrong_is_said(
        #[case] changed: &[(&str, &str)],
        #[case] stdin: &str,
        #[case] code: u64,
        #[case] msg: &str,
    ) {
        let error = read(changed, stdin).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, msg));
    }

    #[test]
    fn a_broken_stdin_is_said() {
        let variable = |name: &str| match name {
            "CNI_COMMAND" => "GC".to_owned(),
            _ => "x".to_owned(),
        };
        let error = Request::read(variable, || Err(io::Error::other("gone"))).unwrap_err();
        assert_eq!(error.code(), 5);
    }
}
