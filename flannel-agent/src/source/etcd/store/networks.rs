//! The networks below the prefix: all whose configuration is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use etcd_client::{GetOptions, KeyValue};

use super::super::error::EtcdError;
use super::super::session::Watch;
use super::{Position, Store};

impl Store {
    /// The network `name` below this one, over the same connections.
    pub(in super::super) fn network(&self, name: &str) -> Self {
        Self {
            session: Arc::clone(&self.session),
            paths: self.paths.network(name),
        }
    }

    /// The network whose configuration has this key.
    pub(in super::super) fn parse_network<'a>(&self, key: &'a str) -> Option<&'a str> {
        self.paths.parse_network(key)
    }

    /// All names at one revision.
    pub(in super::super) async fn networks(
        &self,
    ) -> Result<(Position, BTreeSet<String>), EtcdError> {
        let folder = self.paths.folder();
        let options = GetOptions::new().with_prefix().with_keys_only();
        let answer = self
            .session
            .read(&format!("list the networks under {folder}"), |client| {
                let options = options.clone();
                async move {
                    client
                        .kv_client()
                        .max_decoding_message_size(usize::MAX)
                        .get(folder, Some(options))
                        .await
                }
            })
            .await?;
        let keys = answer
            .kvs()
            .iter()
            .filter_map(|kv: &KeyValue| kv.key_str().ok());
        let names = keys.filter_map(|key| self.parse_network(key));
        let names = names.map(str::to_owned).collect();
        Ok((Position::new(answer.header()), names))
    }

    pub(in super::super) async fn watch_networks(&self, revision: i64) -> Result<Watch, EtcdError> {
        self.session
            .watch(self.paths.folder(), true, revision)
            .await
    }
}
