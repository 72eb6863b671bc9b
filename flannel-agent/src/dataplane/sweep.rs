//! Flows that are over leave the SNAT table, so that their ports are free and the LRU takes none that lives.
//!
//! Nothing depends on it: the programs judge every entry by its age themselves, and take the port of a flow that
//! is over when they need one.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::base::{clock, counters, cpu_time};
use crate::dataplane::{DataplaneError, SnatTable, Swept};

/// Half of the shortest time-out (TCP after a reset), unless somebody has made one shorter.
const SHORTEST: Duration = Duration::from_secs(5);
/// Sweeping may take this share of one CPU, no more: a table may have millions of entries.
const ONE_PART_IN: u32 = 100;

/// Whose table is swept.
#[derive(Debug, Clone)]
pub struct Sweeper {
    pub bpffs: PathBuf,
    /// See [`crate::node::mark::network_name`].
    pub network: String,
}

impl Sweeper {
    /// Sweeps until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut pause = SHORTEST;
        let mut said = None;
        while cancel
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            let sweeper = self.clone();
            let outcome = tokio::task::spawn_blocking(move || {
                // Not what passed: on a busy node the table would be looked at ever more rarely.
                let begun = cpu_time();
                (sweeper.sweep(), cpu_time().saturating_sub(begun))
            });
            // Only a panic or the end of the runtime can come between.
            let Ok((outcome, took)) = outcome.await else {
                return;
            };
            pause = pause_after(took);
            match outcome {
                Ok(Swept { entries, flows }) => {
                    counters::swept(entries, flows);
                    said = None;
                }
                Err(error) => {
                    let error = error.to_string();
                    if said.as_ref() != Some(&error) {
                        tracing::warn!("flows that are over stay in the SNAT table: {error}");
                    }
                    said = Some(error);
                }
            }
        }
    }

    /// Once. The map is opened each time: the one behind the pin may be another.
    fn sweep(&self) -> Result<Swept, DataplaneError> {
        match SnatTable::open(&self.bpffs, &self.network)? {
            Some(mut table) => table.sweep(clock()),
            None => Ok(Swept::default()),
        }
    }
}

fn pause_after(took: Duration) -> Duration {
    SHORTEST.max(took.saturating_mul(ONE_PART_IN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_table_is_looked_at_often_and_a_huge_one_as_often_as_is_cheap() {
        assert_eq!(pause_after(Duration::from_millis(2)), SHORTEST);
        assert_eq!(
            pause_after(Duration::from_secs(3)),
            Duration::from_secs(300)
        );
    }

    #[test]
    fn no_table_is_nothing_to_sweep() {
        let folder = tempfile::tempdir().unwrap();
        let sweeper = Sweeper {
            bpffs: folder.path().to_owned(),
            network: "none".to_owned(),
        };
        assert_eq!(sweeper.sweep().unwrap(), Swept::default());
    }
}
