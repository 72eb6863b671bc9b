//! One measurement of one kind of traffic through one dataplane.

use serde::{Deserialize, Serialize};

use crate::job::{Job, Side, TcpCounters, Traffic};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Seconds a transaction or a datagram, or bytes a second.
    pub(crate) value: f64,
    /// CPU seconds a transaction, a datagram received, or a byte: both sides and `ksoftirqd`. On one core this
    /// is what the value would be on a machine with nothing else to do.
    pub(crate) cpu: f64,
    /// UDP one way: share of the datagrams that did not arrive.
    pub(crate) loss: f64,
    pub(crate) tcp: TcpCounters,
}

impl Sample {
    /// # Errors
    /// When nothing came through.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn new(job: &Job, client: &Side, server: &Side) -> Result<Self, String> {
        let (sent, received) = (client.count as f64, server.count as f64);
        let (value, cpu, loss) = match job.traffic {
            Traffic::TcpStream(_) => (
                server.bytes_per_second,
                (client.cpu + server.cpu) / server.bytes as f64,
                0.0,
            ),
            Traffic::UdpOneWay(_) => (
                (server.last - client.first) / received,
                (client.cpu + server.cpu) / received,
                1.0 - received / sent,
            ),
            _ => (
                client.seconds / sent,
                client.cpu / sent + server.cpu / received,
                0.0,
            ),
        };
        let is_something = |number: f64| number.is_finite() && number > 0.0;
        if job.traffic != Traffic::Fill && !(is_something(value) && is_something(cpu)) {
            return Err(format!("nothing came through: {client:?}, {server:?}"));
        }
        let (c, s) = (client.tcp, server.tcp);
        Ok(Self {
            value,
            cpu,
            loss,
            tcp: TcpCounters {
                reordered: c.reordered + s.reordered,
                out_of_order: c.out_of_order + s.out_of_order,
                retransmitted: c.retransmitted + s.retransmitted,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn job(traffic: Traffic) -> Job {
        Job {
            traffic,
            flows: 1,
            warm_up: Duration::ZERO,
            time: Duration::from_secs(1),
            core: 0,
            server: [192, 0, 2, 1].into(),
            ports: vec![9],
        }
    }

    #[test]
    fn what_is_lost_costs_the_receiver_nothing_and_counts_as_loss() {
        let client = Side {
            count: 1_000,
            cpu: 0.3,
            first: 100.0,
            ..Side::default()
        };
        let server = Side {
            count: 800,
            cpu: 0.1,
            last: 100.4,
            ..Side::default()
        };
        let sample = Sample::new(&job(Traffic::UdpOneWay(64)), &client, &server).unwrap();
        assert!((sample.loss - 0.2).abs() < 1e-9);
        assert!((sample.value - 0.4 / 800.0).abs() < 1e-9);
        assert!((sample.cpu - 0.4 / 800.0).abs() < 1e-9);
    }

    #[test]
    fn a_transaction_costs_what_both_sides_spent_on_it() {
        let client = Side {
            count: 1_000,
            seconds: 1.0,
            cpu: 0.4,
            ..Side::default()
        };
        // With those of the warm-up.
        let server = Side {
            count: 1_100,
            cpu: 0.55,
            ..Side::default()
        };
        let sample = Sample::new(&job(Traffic::TcpRr), &client, &server).unwrap();
        assert!((sample.value - 1e-3).abs() < 1e-9);
        assert!((sample.cpu - 0.9e-3).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_no_result() {
        let nothing = Side::default();
        for traffic in Traffic::MEASURED {
            let said = Sample::new(&job(traffic), &nothing, &nothing).unwrap_err();
            assert!(said.contains("nothing came through"), "{said}");
        }
        assert!(Sample::new(&job(Traffic::Fill), &nothing, &nothing).is_ok());
    }
}
