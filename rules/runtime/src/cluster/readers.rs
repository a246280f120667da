//! The partitions of a deployment as each of its nodes can read them, whoever owns them and wherever they are.

use std::sync::Arc;
use std::time::Duration;

use celesta_runtime::{Clock, TaskSet};
use celesta_store::QueryError;
use parking_lot::RwLock;
use tokio::sync::SetOnce;

use super::mail::Post;
use super::ownership::Row;
use crate::runtime::Runtime;

/// How long somebody who has to read all partitions waits for them to be open: a deployment's first start takes seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks between two tries to open one that cannot be read.
const REST_LOOKS: u32 = 5;

/// A runtime for each partition that only reads, by number, and the post between partitions. There are none where there
/// is one partition, and none yet while the deployment starts. Whoever reads all reads every one: one that cannot be read is an error, not a hole. Cheap
/// to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readers {
    shelf: Arc<Shelf>,
    post: Arc<Post>,
}

#[derive(Debug, Default)]
struct Shelf {
    opened: SetOnce<()>,
    slots: RwLock<Vec<Slot>>,
}

#[derive(Debug)]
struct Slot {
    /// The database it reads.
    place: Option<String>,
    /// Somebody opens it right now.
    opening: bool,
    /// Looks until it is tried again.
    rest: u32,
    /// Why it cannot be read otherwise.
    reader: Result<Reader, String>,
}

/// A runtime that reads, with what was spawned for it.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) runtime: Runtime,
    pub(super) keepers: TaskSet,
}

impl Slot {
    fn read(&self, partition: u32) -> Result<Runtime, QueryError> {
        match &self.reader {
            Ok(reader) => Ok(reader.runtime.clone()),
            Err(reason) => Err(QueryError {
                reason: format!("partition {partition} cannot be read: {reason}"),
            }),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Who still reads goes on; the committer, which nobody uses, ends.
        self.keepers.shutdown().request();
    }
}

impl Readers {
    /// All of them, when there are any.
    pub(crate) fn get(&self) -> Option<Result<Vec<Runtime>, QueryError>> {
        self.shelf.opened.get().map(|()| self.all())
    }

    /// All of them, once they are open.
    pub(crate) async fn opened(&self, clock: &Clock) -> Result<Vec<Runtime>, QueryError> {
        self.wait(clock).await?;
        self.all()
    }

    async fn wait(&self, clock: &Clock) -> Result<(), QueryError> {
        tokio::select! {
            _ = self.shelf.opened.wait() => Ok(()),
            () = clock.sleep(PATIENCE) => Err(QueryError {
                reason: "not every partition is open yet".to_owned(),
            }),
        }
    }

    /// That of one partition, once they are open.
    pub(crate) async fn one(&self, partition: u32, clock: &Clock) -> Result<Runtime, QueryError> {
        self.wait(clock).await?;
        let slots = self.shelf.slots.read();
        let slot = usize::try_from(partition).ok().and_then(|at| slots.get(at));
        slot.map_or_else(
            || {
                Err(QueryError {
                    reason: format!("there is no partition {partition}"),
                })
            },
            |slot| slot.read(partition),
        )
    }

    /// Each of them by number, those that can be read now; none while the deployment starts.
    pub(super) fn each(&self) -> Vec<Option<Runtime>> {
        let slots = self.shelf.slots.read();
        let read = |slot: &Slot| slot.reader.as_ref().ok().map(|reader| reader.runtime.clone());
        slots.iter().map(read).collect()
    }

    /// Where it is said that there are letters.
    pub(super) const fn post(&self) -> &Arc<Post> {
        &self.post
    }

    fn all(&self) -> Result<Vec<Runtime>, QueryError> {
        let slots = self.shelf.slots.read();
        let numbered = (0_u32..).zip(&*slots);
        numbered.map(|(partition, slot)| slot.read(partition)).collect()
    }

    /// Only the first ones count; each with its database.
    pub(super) fn set(&self, readers: Vec<(Option<String>, Result<Reader, String>)>) {
        let slots = readers.into_iter().map(|(place, reader)| Slot {
            place,
            opening: false,
            rest: 0,
            reader,
        });
        let mut here = self.shelf.slots.write();
        if here.is_empty() {
            here.extend(slots);
            self.shelf.opened.set(()).ok();
        }
    }

    /// The partitions that are to be opened for reading (again), with their databases: whoever asks opens them.
    pub(super) fn stale(&self, rows: &[Row]) -> Vec<(u32, Option<String>)> {
        let mut slots = self.shelf.slots.write();
        let mut stale = Vec::new();
        for row in rows {
            let slot = usize::try_from(row.partition)
                .ok()
                .and_then(|at| slots.get_mut(at));
            let Some(slot) = slot.filter(|slot| !slot.opening) else {
                continue;
            };
            if slot.place != row.place {
                // What it reads is left by everybody.
                slot.reader = Err("it has been moved a moment ago".to_owned());
                slot.place.clone_from(&row.place);
                slot.rest = 0;
            }
            if slot.reader.is_ok() {
                continue;
            }
            if slot.rest > 0 {
                slot.rest -= 1;
            } else {
                slot.opening = true;
                stale.push((row.partition, row.place.clone()));
            }
        }
        stale
    }

    /// What has become of opening it.
    pub(super) fn put(&self, partition: u32, place: Option<String>, reader: Result<Reader, String>) {
        let mut slots = self.shelf.slots.write();
        if let Some(slot) = usize::try_from(partition).ok().and_then(|at| slots.get_mut(at)) {
            *slot = Slot {
                place,
                opening: false,
                rest: if reader.is_ok() { 0 } else { REST_LOOKS },
                reader,
            };
        }
    }
}
