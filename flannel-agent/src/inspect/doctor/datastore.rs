//! etcd: does it answer, does it hold a configuration, and does its clock agree with ours.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Patient, Report};
use crate::base::logging::describe;
use crate::base::wall::Moment;
use crate::flannel::config::NetworkConfig;
use crate::source::etcd::EtcdSource;

/// Long enough for a cluster that elects a leader.
const ANSWER: Duration = Duration::from_secs(10);
const CLOCK_ANSWER: Duration = Duration::from_secs(3);
/// Of etcd's first years, and one of flannel's defaults still.
const OLD_DEFAULT: &str = "http://127.0.0.1:4001";
/// More makes certificates invalid and logs of several nodes hard to read.
const SKEW: Duration = Duration::from_secs(10);
/// `/version` is small; whoever sends more is no etcd.
const ANSWER_MAX: u64 = 16 << 10;

pub(super) async fn check(patient: &Patient<'_>, report: &mut Report) -> Option<NetworkConfig> {
    let options = &patient.config.etcd;
    let source = match EtcdSource::new(options) {
        Ok(source) => source,
        Err(error) => {
            report.failure(error.to_string(), "correct the flag that it names");
            return None;
        }
    };
    let asked = options.endpoints.iter().map(|endpoint| ask(endpoint));
    for (endpoint, answer) in options.endpoints.iter().zip(join_all(asked).await) {
        match answer {
            Some(Ok(Some(theirs))) => compare(endpoint, theirs, report),
            Some(Err(why)) if names_silent(endpoint, options.endpoints.len()) => report.warning(
                format!("{endpoint} gives no answer: {why}"),
                "start that member again, or take it out of --etcd-endpoints: a cluster serves while more than half of its \
                 members run",
            ),
            _ => {}
        }
    }
    match timeout(ANSWER, source.read_network_config()).await {
        Ok(Ok(config)) => {
            report.ok(format!(
                "{}/config: network {}, backend {}",
                options.prefix,
                config.network,
                config.backend.name()
            ));
            Some(config)
        }
        Ok(Err(error)) => {
            let error = describe(&error);
            let fix = fix(&error);
            report.failure(error, fix);
            None
        }
        Err(_) => {
            report.failure(
                format!("etcd gave no answer in {} s", ANSWER.as_secs()),
                "check --etcd-endpoints and the network between here and etcd",
            );
            None
        }
    }
}

/// A member that has lost the others says so, and nobody serves.
fn fix(error: &str) -> &'static str {
    match ["no leader", "etcdserver: request timed out"]
        .iter()
        .any(|words| error.contains(words))
    {
        true => {
            "etcd has no quorum: start its other members again, so that more than half of them run, and see that they reach each \
             other (etcdctl endpoint status --cluster)"
        }
        false => "check --etcd-endpoints, --etcd-prefix and the network between here and etcd",
    }
}

/// Of one that is alone the configuration says it; and on every machine one of flannel's two default endpoints is dead.
fn names_silent(endpoint: &str, endpoints: usize) -> bool {
    endpoints > 1 && endpoint != OLD_DEFAULT
}

/// What an endpoint without TLS says of its time, if it answers at all: every HTTP answer of etcd has that.
async fn ask(endpoint: &str) -> Option<Result<Option<SystemTime>, String>> {
    let host = plain_host(endpoint)?;
    Some(match timeout(CLOCK_ANSWER, version(host)).await {
        Ok(Ok(answer)) => Ok(date(&answer)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nothing in {} s", CLOCK_ANSWER.as_secs())),
    })
}

/// The clock of `endpoint` with ours.
pub(super) fn compare(endpoint: &str, theirs: SystemTime, report: &mut Report) {
    let skew = Moment::now().apart(theirs);
    if skew > SKEW {
        report.warning(
            format!(
                "the clock of {endpoint} differs by {} s from this node's",
                skew.as_secs()
            ),
            "synchronise both clocks (NTP): certificates and logs depend on them",
        );
    } else {
        report.ok(format!("{endpoint} answers, and its clock agrees"));
    }
}

/// `host:port` of an endpoint without TLS.
fn plain_host(endpoint: &str) -> Option<&str> {
    let host = endpoint.strip_prefix("http://")?;
    Some(host.split('/').next().unwrap_or(host))
}

async fn version(host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(host).await?;
    let request = format!("GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}

fn date(answer: &str) -> Option<SystemTime> {
    let headers = answer.split("\r\n\r\n").next()?;
    headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date")
            .then(|| httpdate::parse_http_date(value.trim()).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_read_from_the_headers_only() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: x\r\ndate: Thu, 01 Jan 1970 00:01:00 GMT\r\n\r\nDate: no";
        let minute = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        assert_eq!(date(answer), Some(minute));
        assert_eq!(
            date("HTTP/1.1 200 OK\r\n\r\nDate: Thu, 01 Jan 1970 00:01:00 GMT"),
            None
        );
    }

    #[test]
    fn a_cluster_without_a_quorum_is_named() {
        for (error, words) in [
            ("172.31.7.3: etcdserver: no leader", "no quorum"),
            ("172.31.7.3: connection refused", "--etcd-endpoints"),
        ] {
            assert!(fix(error).contains(words), "{error}");
        }
    }

    #[test]
    fn a_dead_member_of_several_is_named_but_for_the_default_that_nobody_has() {
        assert!(names_silent("http://192.0.2.1:2379", 3));
        assert!(!names_silent("http://192.0.2.1:2379", 1));
        assert!(!names_silent(OLD_DEFAULT, 2));
    }

    #[tokio::test]
    async fn an_endpoint_that_refuses_is_told_from_one_that_is_not_asked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        assert!(matches!(ask(&endpoint).await, Some(Err(_))));
        assert_eq!(ask("https://127.0.0.1:1").await, None);
    }

    #[test]
    fn only_endpoints_without_tls_are_asked_for_the_time() {
        assert_eq!(plain_host("http://10.0.0.1:2379/"), Some("10.0.0.1:2379"));
        assert_eq!(plain_host("https://10.0.0.1:2379"), None);
    }
}
