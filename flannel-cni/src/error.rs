//! Errors as a runtime reads them: JSON on stdout, with a code.

use serde_json::{Value, json};
use thiserror::Error;

use crate::go_json;

/// Codes of the CNI specification, "Error", and flannel's own use of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Of a delegate that said nothing to be read.
    Unknown = 0,
    IncompatibleVersion = 1,
    UnknownContainer = 3,
    InvalidVariables = 4,
    InputOutput = 5,
    Decoding = 6,
    InvalidConfig = 7,
    InvalidNetns = 8,
    /// STATUS: "the plugin is not available".
    NotAvailable = 50,
    /// All that flannel's plugin has no code for.
    Internal = 999,
}

/// What went wrong, for the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{msg}")]
pub(crate) struct CniError {
    code: u64,
    msg: String,
    details: String,
    ours: bool,
}

impl CniError {
    pub(crate) fn new(code: Code, msg: impl Into<String>) -> Self {
        Self::detailed(code, msg, "")
    }

    pub(crate) fn internal(msg: impl Into<String>) -> Self {
        Self::new(Code::Internal, msg)
    }

    pub(crate) fn detailed(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code: code as u64,
            msg: msg.into(),
            details: details.into(),
            ours: true,
        }
    }

    /// What a delegate that failed wrote on stdout; `None` if that is no JSON object. It is handed on as it is.
    pub(crate) fn of_delegate(stdout: &[u8]) -> Option<Self> {
        let said: Value = serde_json::from_slice(stdout).ok()?;
        let said = said.as_object()?;
        let text = |name| {
            let value = said.get(name).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        Some(Self {
            code: said.get("code").and_then(Value::as_u64).unwrap_or_default(),
            msg: text("msg"),
            details: text("details"),
            ours: false,
        })
    }

    /// Whether a delegate does not know the command: it is older than the command.
    pub(crate) fn is_unknown_command(&self) -> bool {
        self.code == Code::InvalidVariables as u64 && self.msg.starts_with("unknown CNI_COMMAND")
    }

    /// Whether a delegate was not even heard.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours
    }

    pub(crate) fn code(&self) -> u64 {
        self.code
    }

    pub(crate) fn to_json(&self) -> String {
        let mut object = json!({ "code": self.code, "msg": self.msg });
        if !self.details.is_empty() {
            object["details"] = json!(self.details);
        }
        go_json::indented(&object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_as_the_go_plugin_writes_it() {
        let error = CniError::new(Code::InvalidConfig, "missing network name");
        assert_eq!(
            error.to_json(),
            "{\n    \"code\": 7,\n    \"msg\": \"missing network name\"\n}"
        );
    }

    #[test]
    fn details_are_written_where_there_are_some() {
        let error = CniError::detailed(Code::IncompatibleVersion, "a", "config is \"9\"");
        let text = error.to_json();
        assert!(
            text.ends_with(",\n    \"details\": \"config is \\\"9\\\"\"\n}"),
            "{text}"
        );
    }

    #[test]
    fn a_delegates_error_is_handed_on_as_it_is() {
        let said = br#"{"cniVersion":"0.3.1","code":11,"msg":"busy","details":"later"}"#;
        let error = CniError::of_delegate(said).unwrap();
        assert_eq!(error.code(), 11);
        assert_eq!(
            error.to_json(),
            "{\n    \"code\": 11,\n    \"msg\": \"busy\",\n    \"details\": \"later\"\n}"
        );
        assert_eq!(CniError::of_delegate(b"panic: x"), None);
        assert_eq!(CniError::of_delegate(b"[]"), None);
    }

    #[test]
    fn an_older_delegate_is_known_by_what_it_says() {
        let older = br#"{"code":4,"msg":"unknown CNI_COMMAND: STATUS"}"#;
        assert!(CniError::of_delegate(older).unwrap().is_unknown_command());
        let other = br#"{"code":4,"msg":"required env variables missing"}"#;
        assert!(!CniError::of_delegate(other).unwrap().is_unknown_command());
    }
}
