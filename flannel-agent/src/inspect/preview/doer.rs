//! Who does what a plan says.

use serde::Serialize;

use crate::reconcile::logbook::Page;
use crate::settings::Config;
use crate::settings::shown::differing;

/// The agent of this network, as far as what it wrote down tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Doer {
    #[serde(rename = "agent_running")]
    pub(super) runs: bool,
    /// Flags that it was started with another value of; `None`: it has not said.
    #[serde(rename = "agent_differs_in")]
    differs_in: Option<Vec<String>>,
    /// Why it does not get on.
    #[serde(rename = "agent_failing")]
    failing: Option<String>,
}

impl Doer {
    pub(super) fn new(runs: bool, page: Option<&Page>, config: &Config) -> Self {
        let page = page.filter(|_| runs);
        let said = page.filter(|page| !page.settings.is_empty());
        Self {
            runs,
            differs_in: said.map(|page| differing(&page.settings, &config.shown())),
            failing: page.and_then(why_not),
        }
    }

    /// The last line of a plan of so many steps.
    pub(super) fn end(&self, steps: usize) -> String {
        let (runs, differs) = (self.runs, self.differs_in.as_deref());
        match (steps, runs) {
            (0, true) => return "nothing to do".to_owned(),
            (0, false) => {
                return "nothing to do; no agent runs that would notice changes".to_owned();
            }
            (_, false) => {
                return format!(
                    "{steps} steps to do; nobody does them: no agent runs for this network"
                );
            }
            (_, true) => {}
        }
        let end = match (differs, &self.failing) {
            (Some(flags @ [_, ..]), _) => format!(
                "the agent that runs here was started with other values of {}: what comes of these it does only if it is restarted \
                 with them",
                flags.join(", ")
            ),
            (_, Some(why)) => format!("the agent that runs here does not get on with them: {why}"),
            (Some([]), None) => "the agent that runs here does them within 30 s".to_owned(),
            (None, None) => {
                "the agent that runs here does them within 30 s, if it was started with these flags"
                    .to_owned()
            }
        };
        format!("{steps} steps to do; {end}")
    }
}

fn why_not(page: &Page) -> Option<String> {
    let failing = page.failing.as_ref().map(|failing| failing.error.clone());
    let ahead = || {
        let ahead = page.last.is_none();
        ahead.then(|| "it has not begun with this network, its log and /readyz say why".to_owned())
    };
    failing.or_else(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doer(differs_in: Option<&[&str]>, failing: Option<&str>) -> Doer {
        let names = |flags: &[&str]| flags.iter().map(|flag| (*flag).to_owned()).collect();
        Doer {
            runs: true,
            differs_in: differs_in.map(names),
            failing: failing.map(str::to_owned),
        }
    }

    #[test]
    fn only_an_agent_with_these_settings_does_the_steps() {
        let end = |differs, failing| doer(differs, failing).end(3);
        assert_eq!(
            end(Some(&[]), None),
            "3 steps to do; the agent that runs here does them within 30 s"
        );
        let other = end(Some(&["--fast-path", "--ip-masq"]), Some("no"));
        assert!(
            other.contains("was started with other values of --fast-path, --ip-masq: "),
            "{other}"
        );
        assert!(!other.contains("within 30 s"), "{other}");
        let failing = end(Some(&[]), Some("no room"));
        assert!(
            failing.ends_with("does not get on with them: no room"),
            "{failing}"
        );
        // Of an earlier version.
        assert!(end(None, None).ends_with("within 30 s, if it was started with these flags"));
    }

    #[test]
    fn without_an_agent_nobody_does_them() {
        assert!(Doer::default().end(3).contains("nobody does them"));
        assert!(
            Doer::default()
                .end(0)
                .starts_with("nothing to do; no agent runs")
        );
        assert_eq!(doer(Some(&["--gro"]), None).end(0), "nothing to do");
    }

    #[test]
    fn one_that_has_not_begun_is_said_to_be() {
        let page = Page::default();
        assert!(why_not(&page).unwrap().contains("not begun"));
    }
}
