//! `docs/reasons.md` from the one list of reasons.

use std::fmt::Write as _;

use flannel_common::reason::{Class, Reason};

use super::Page;

const INTRODUCTION: &str = "\
# Reasons

When one of our programs decides about a packet of the overlay, it counts the packet under one of these words; a packet that crosses
two programs is counted by each. Other traffic of the uplink and of pods is not counted. The same words are in
`bpftool map dump name fl_stats`, which shows the counters of each program and CPU.
Numbers are never reused.
";

const CLASSES: [(Class, &str, &str); 3] = [
    (Class::Drop, "Dropped", "The packet ends here."),
    (
        Class::Pass,
        "Left to the stack",
        "The packet goes on as if we were not there: to the next program on the hook, then to the IP stack.",
    ),
    (
        Class::Forward,
        "Forwarded by us",
        "Encapsulated, decapsulated, or past the stack.",
    ),
];

pub(super) fn page() -> Page {
    let mut text = String::from(
        "<!-- Made by `cargo xtask docs` from flannel-common/src/reason.rs: change that. -->\n\n",
    );
    text.push_str(INTRODUCTION);
    for (class, title, what) in CLASSES {
        let _ = write!(
            text,
            "\n## {title}\n\n{what}\n\n| number | reason | what happened | what to do |\n| ---: | --- | --- | --- |\n"
        );
        for reason in Reason::ALL.iter().filter(|reason| reason.class() == class) {
            let _ = writeln!(
                text,
                "| {} | `{}` | {} | {} |",
                *reason as u32,
                reason.name(),
                reason.meaning(),
                reason.advice()
            );
        }
    }
    Page {
        name: "reasons.md",
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_one_row_with_advice() {
        let text = page().text;
        for reason in Reason::ALL {
            let start = format!("| {} | `{}` | ", *reason as u32, reason.name());
            let rows: Vec<_> = text.lines().filter(|l| l.starts_with(&start)).collect();
            assert_eq!(rows.len(), 1, "{reason:?}");
            assert_eq!(rows[0].matches('|').count(), 5, "{}", rows[0]);
            assert!(!reason.advice().is_empty() && !reason.meaning().is_empty());
        }
    }
}
