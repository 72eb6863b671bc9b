//! The servers of client–server mode: does each answer, does its clock agree with ours, and is there a configuration.

use std::time::Duration;

use tokio::time::timeout;

use super::Report;
use super::datastore::compare;
use crate::base::logging::describe;
use crate::flannel::config::NetworkConfig;
use crate::source::remote::{Health, RemoteError, RemoteOptions, RemoteSource};

/// Each may be tried for as long as a client waits.
const ANSWER: Duration = Duration::from_secs(15);

pub(super) async fn check(options: &RemoteOptions, report: &mut Report) -> Option<NetworkConfig> {
    let source = match RemoteSource::new(options) {
        Ok(source) => source,
        Err(error) => {
            report.failure(error.to_string(), "correct the flag that it names");
            return None;
        }
    };
    let several = options.servers.len() > 1;
    if let Ok(servers) = timeout(ANSWER, source.examine()).await {
        for server in &servers {
            judge(server, several, report);
        }
    }
    match timeout(ANSWER, source.read_network_config()).await {
        Ok(Ok(config)) => {
            report.ok(format!(
                "the server's configuration: network {}, backend {}",
                config.network,
                config.backend.name()
            ));
            Some(config)
        }
        Ok(Err(error)) => {
            report.failure(describe(&error), FIX);
            None
        }
        Err(_) => {
            let what = format!("the server gave no answer in {} s", ANSWER.as_secs());
            report.failure(what, FIX);
            None
        }
    }
}

const FIX: &str = "check --remote, the network between here and the server, and its log";

fn judge(health: &Health, several: bool, report: &mut Report) {
    match &health.answer {
        Ok(theirs) => compare(&format!("the server {}", health.server), *theirs, report),
        // Of one that is alone the configuration says it.
        Err(_) if !several => {}
        Err(error) if has_no_etcd(error) => report.warning(
            error.to_string(),
            "this server runs, and its etcd does not answer it: see that etcd runs and has a quorum, and the server's log",
        ),
        Err(error) => report.warning(
            error.to_string(),
            "see that it runs, and the network to it; nodes ask the others meanwhile",
        ),
    }
}

/// Whether the server itself said that nobody answers it.
fn has_no_etcd(error: &RemoteError) -> bool {
    error.to_string().contains("no etcd endpoint answers")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::Mark;
    use super::super::tests::said;
    use super::*;
    use crate::base::wall::Moment;

    fn health(answer: Result<SystemTime, RemoteError>) -> Health {
        Health {
            server: "10.0.0.3:8888".to_owned(),
            answer,
        }
    }

    #[test]
    fn one_of_several_that_is_away_is_named() {
        let away = || {
            health(Err(RemoteError::Unreachable {
                what: "read the network configuration".to_owned(),
                failures: "10.0.0.3:8888: refused".to_owned(),
            }))
        };
        let lines = said(|report| judge(&away(), true, report));
        assert_eq!(lines[0].0, Mark::Warning);
        assert!(lines[0].1.contains("10.0.0.3:8888"), "{lines:?}");
        assert!(said(|report| judge(&away(), false, report)).is_empty());
    }

    #[test]
    fn a_server_without_its_etcd_is_not_to_be_started_again() {
        let of = |failures: &str| {
            let answer = Err(RemoteError::Unreachable {
                what: "read the network configuration".to_owned(),
                failures: format!("10.0.0.3:8888: {failures}"),
            });
            let lines = said(|report| judge(&health(answer), true, report));
            (lines[0].0, lines[0].2.clone().unwrap_or_default())
        };
        let (mark, fix) = of("503: cannot read: no etcd endpoint answers (x: no answer in 10 s)");
        assert!(
            mark == Mark::Warning && fix.contains("its etcd does not answer"),
            "{fix}"
        );
        let (mark, fix) = of("refused");
        assert!(mark == Mark::Warning && !fix.contains("etcd"), "{fix}");
    }

    #[test]
    fn its_clock_is_compared() {
        let now = SystemTime::UNIX_EPOCH + Moment::now().unix();
        let mark = |at| said(|report| judge(&health(Ok(at)), false, report))[0].0;
        assert_eq!(mark(now), Mark::Ok);
        assert_eq!(mark(now - Duration::from_secs(100)), Mark::Warning);
    }
}
