//! What is wanted: `cargo xtask test --sig-network` hands it over as words.

use super::left_out::{self, LeftOut, OF_NETPOL};

/// On what, with what, and which.
#[derive(Debug)]
pub(super) struct Choice {
    /// Or ours.
    pub(super) flannel: bool,
    /// kube-proxy's.
    pub(super) mode: String,
    pub(super) netpol: bool,
    pub(super) at_once: String,
    /// Of names; none for all.
    parts: Vec<String>,
    pub(super) left_out: Vec<LeftOut>,
}

impl Choice {
    /// # Panics
    /// If nobody but a person would say this.
    pub(super) fn of(words: &[String]) -> Self {
        let [daemon, mode, tests, at_once, parts @ ..] = words else {
            panic!("daemon, kube-proxy's mode, tests and their number, not {words:?}");
        };
        let netpol = tests == "netpol";
        Self {
            flannel: daemon == "flannel",
            mode: mode.clone(),
            netpol,
            at_once: at_once.clone(),
            parts: parts.to_vec(),
            left_out: left_out::list(netpol),
        }
    }

    /// Of a folder: no run is in another's way.
    pub(super) fn title(&self) -> String {
        let daemon = if self.flannel { "flannel" } else { "ours" };
        let tests = if self.netpol { "netpol" } else { "net" };
        format!("{daemon}-{}-{tests}", self.mode)
    }

    /// By the whole name.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        name.starts_with("[sig-network]")
            && (!self.netpol || name.contains(OF_NETPOL))
            && (self.parts.is_empty() || self.parts.iter().any(|part| name.contains(part)))
    }

    /// Why it does not run, if it does not.
    pub(super) fn reason(&self, name: &str) -> Option<&'static str> {
        let of = |(part, _): &&LeftOut| name.contains(part);
        self.left_out.iter().find(of).map(|(_, reason)| *reason)
    }

    /// The same as a regular expression.
    pub(super) fn focus(&self) -> String {
        let mut focus = regex("[sig-network]");
        if !self.parts.is_empty() {
            let parts: Vec<String> = self.parts.iter().map(|part| regex(part)).collect();
            focus += &format!(".*({})", parts.join("|"));
        }
        if self.netpol {
            // It is what their names end in.
            focus += &format!(".*{}", regex(OF_NETPOL));
        }
        focus
    }

    pub(super) fn skips(&self) -> impl Iterator<Item = String> {
        self.left_out.iter().map(|(part, _)| regex(part))
    }
}

/// Of exactly this text, for Go.
fn regex(text: &str) -> String {
    let mut regex = String::new();
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            regex.push('\\');
        }
        regex.push(c);
    }
    regex
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(words: &[&str]) -> Choice {
        let words: Vec<String> = words.iter().map(|&it| it.to_owned()).collect();
        Choice::of(&words)
    }

    #[test]
    fn parts_of_names_are_not_expressions() {
        let all = choice(&["ours", "iptables", "net", "3"]);
        assert_eq!(all.focus(), r"\[sig-network\]");
        let some = choice(&["ours", "iptables", "net", "3", "DNS should", "(none)"]);
        assert_eq!(some.focus(), r"\[sig-network\].*(DNS should|\(none\))");
        assert!(some.is_wanted("[sig-network] DNS should answer"));
        assert!(!some.is_wanted("[sig-network] Services should serve"));
        assert!(!some.is_wanted("[sig-node] DNS should answer"));
    }

    #[test]
    fn policies_are_alone() {
        let name = "[sig-network] Netpol should deny [Feature:NetworkPolicy]";
        let without = choice(&["ours", "iptables", "net", "3"]);
        assert!(without.reason(name).is_some());
        let with = choice(&["flannel", "nftables", "netpol", "1", "deny"]);
        assert!(with.is_wanted(name) && with.reason(name).is_none());
        assert!(!with.is_wanted("[sig-network] DNS should deny"));
        assert!(
            with.focus()
                .ends_with(r".*(deny).*\[Feature:NetworkPolicy\]")
        );
    }
}
