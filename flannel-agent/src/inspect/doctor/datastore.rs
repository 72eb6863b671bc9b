//! etcd: does it answer, does it hold a configuration, and does its clock agree with ours.

use std::time::{Duration, SystemTime};

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
/// More makes certificates invalid and logs of several nodes hard to read.
const SKEW: Duration = Duration::from_secs(10);
/// `/version` is small; whoever sends more is no etcd.
const ANSWER_MAX: u64 = 16 << 10;

pub(super) async fn check(patient: &Patient<'_>, report: &mut Report) -> Option<NetworkConfig> {
    if let Some(kube) = &patient.config.kube {
        return super::kubernetes::check(kube, report).await;
    }
    let options = &patient.config.etcd;
    let source = match EtcdSource::new(options) {
        Ok(source) => source,
        Err(error) => {
            report.failure(error.to_string(), "correct the flag that it names");
            return None;
        }
    };
    for endpoint in &options.endpoints {
        clock(endpoint, report).await;
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
            report.failure(
                describe(&error),
                "check --etcd-endpoints, --etcd-prefix and the network between here and etcd",
            );
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

/// Every HTTP answer of etcd says what time it thinks it is.
async fn clock(endpoint: &str, report: &mut Report) {
    let Some(host) = plain_host(endpoint) else {
        return;
    };
    let Ok(Ok(answer)) = timeout(CLOCK_ANSWER, version(host)).await else {
        return;
    };
    let Some(theirs) = date(&answer) else {
        return;
    };
    compare(endpoint, theirs, report);
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
    fn only_endpoints_without_tls_are_asked_for_the_time() {
        assert_eq!(plain_host("http://10.0.0.1:2379/"), Some("10.0.0.1:2379"));
        assert_eq!(plain_host("https://10.0.0.1:2379"), None);
    }
}
