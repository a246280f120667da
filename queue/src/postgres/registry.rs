//! The queues this node knows: their numbers and settings, read when first needed and again when another node says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use celesta_store::{Arg, QueryError, Row};
use hashbrown::HashMap;
use parking_lot::RwLock;
use tokio::sync::Notify;

use super::{Core, Entry, call};
use crate::error::{EnqueueError, Error};
use crate::limits::QUEUES_MAX;
use crate::name::QueueName;
use crate::settings::{ConfigureError, Settings, Transport};

#[derive(Default)]
pub(super) struct Known {
    by_name: HashMap<QueueName, Arc<Entry>, rustc_hash::FxBuildHasher>,
    by_id: HashMap<i64, Arc<Entry>, rustc_hash::FxBuildHasher>,
}

impl Known {
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.by_id.values().map(Arc::clone).collect()
    }
}

impl Core {
    /// Reads all queues; those that are known take their settings.
    pub(super) async fn load_queues(&self) -> Result<(), QueryError> {
        let sql = "SELECT id, name, settings FROM queue_queues";
        for row in self.database.ask(&call("queues", sql, Vec::new())).await? {
            self.take_row(&row);
        }
        Ok(())
    }

    fn take_row(&self, row: &Row) -> Option<Arc<Entry>> {
        let id = row.int(0)?;
        let name = QueueName::new(row.text(1)?).ok()?;
        let settings: Settings = serde_json::from_str(row.text(2)?).ok()?;
        Some(self.know(id, name, settings))
    }

    fn know(&self, id: i64, name: QueueName, settings: Settings) -> Arc<Entry> {
        let mut known = self.registry.write();
        if let Some(entry) = known.by_name.get(&name) {
            *entry.settings.write() = settings;
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry {
            id,
            name: name.clone(),
            fair: AtomicBool::new(!settings.weights.is_empty()),
            settings: RwLock::new(settings),
            waiting: Notify::new(),
            waiters: AtomicUsize::new(0),
        });
        known.by_name.insert(name, Arc::clone(&entry));
        known.by_id.insert(id, Arc::clone(&entry));
        entry
    }

    pub(super) fn known(&self, name: &QueueName) -> Option<Arc<Entry>> {
        self.registry.read().by_name.get(name).map(Arc::clone)
    }

    pub(super) fn by_id(&self, id: i64) -> Option<Arc<Entry>> {
        self.registry.read().by_id.get(&id).map(Arc::clone)
    }

    /// The queue of that name; asks the database when this node does not know it.
    pub(super) async fn find(&self, name: &QueueName) -> Result<Option<Arc<Entry>>, QueryError> {
        if let Some(entry) = self.known(name) {
            return Ok(Some(entry));
        }
        let sql = "SELECT id, name, settings FROM queue_queues WHERE name = $1";
        let args = vec![Arg::Text(Some(name.as_str().into()))];
        let rows = self.database.ask(&call("queue", sql, args)).await?;
        Ok(rows.first().and_then(|row| self.take_row(row)))
    }

    /// Writes the settings of a queue; an existing one keeps its own unless it is to be changed.
    pub(super) async fn write_settings(
        &self,
        name: &QueueName,
        settings: &Settings,
        change: bool,
    ) -> Result<Arc<Entry>, Error> {
        let text = serde_json::to_string(settings).expect("settings always encode");
        let sql = "INSERT INTO queue_queues AS q (name, settings, keep_ended_ms, history_ms) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (name) DO UPDATE SET \
                     settings = CASE WHEN $5 = 1 THEN excluded.settings ELSE q.settings END, \
                     keep_ended_ms = CASE WHEN $5 = 1 THEN excluded.keep_ended_ms ELSE q.keep_ended_ms END, \
                     history_ms = CASE WHEN $5 = 1 THEN excluded.history_ms ELSE q.history_ms END \
                   RETURNING id, name, settings";
        let args = vec![
            Arg::Text(Some(name.as_str().into())),
            Arg::Text(Some(text.into())),
            Arg::Int(settings.keep_ended_ms),
            Arg::Int(settings.history_ms),
            Arg::Int(change.into()),
        ];
        let rows = self.database.ask(&call("configure", sql, args)).await?;
        let corrupt = Error::Corrupt {
            seq: 0,
            what: "queue settings",
        };
        let entry = rows.first().and_then(|row| self.take_row(row)).ok_or(corrupt)?;
        if change {
            self.tell_settings();
        }
        Ok(entry)
    }

    /// Whether there is any message in the queue.
    async fn holds(&self, entry: &Entry) -> Result<bool, QueryError> {
        let sql = "SELECT 1 FROM queue_messages WHERE queue = $1 LIMIT 1";
        let held = call("configure", sql, vec![Arg::Int(entry.id)]);
        Ok(!self.database.ask(&held).await?.is_empty())
    }

    /// The queue to enqueue to, with room for it.
    pub(super) async fn queue_for(
        &self,
        name: &QueueName,
    ) -> Result<Result<Arc<Entry>, EnqueueError>, Error> {
        if let Some(entry) = self.known(name) {
            return Ok(Ok(entry));
        }
        if self.registry.read().by_id.len() >= QUEUES_MAX {
            let source = ConfigureError::TooManyQueues { max: QUEUES_MAX };
            return Ok(Err(EnqueueError::Queue {
                queue: name.clone(),
                source,
            }));
        }
        if let Some(entry) = self.find(name).await? {
            return Ok(Ok(entry));
        }
        let settings = self.options.settings_for(name);
        Ok(Ok(self.write_settings(name, &settings, false).await?))
    }
}

impl super::SharedQueues {
    /// The queues whose messages are sent to a broker, as far as this node knows: a moment after it was configured.
    #[must_use]
    pub fn on_broker(&self) -> Vec<QueueName> {
        let mut known = self.core.registry.read().all();
        known.retain(|entry| entry.settings.read().transport == Transport::Broker);
        known.into_iter().map(|entry| entry.name.clone()).collect()
    }

    /// Makes `queue` or changes what it is configured to do. Other nodes follow within milliseconds. Shards may be asked
    /// for and change nothing: one index orders a queue for all nodes, and what somebody else holds is passed over.
    /// Messages that are in the queue keep the attempts and times they were given.
    ///
    /// # Errors
    /// When a setting is out of range, kind or shards of a queue that holds messages would change, or the record does not take it.
    pub async fn configure(
        &self,
        queue: &QueueName,
        settings: Settings,
    ) -> Result<Result<(), ConfigureError>, Error> {
        if let Err(error) = settings.validate() {
            return Ok(Err(error));
        }
        if let Some(entry) = self.core.find(queue).await? {
            let (kind, shards) = {
                let now = entry.settings.read();
                (now.kind, now.shards)
            };
            if (kind, shards) != (settings.kind, settings.shards) && self.core.holds(&entry).await? {
                let queue = queue.clone();
                return Ok(Err(if kind == settings.kind {
                    ConfigureError::ShardsInUse { queue, shards }
                } else {
                    ConfigureError::KindInUse { queue, kind }
                }));
            }
        }
        self.core.write_settings(queue, &settings, true).await?;
        Ok(Ok(()))
    }
}
