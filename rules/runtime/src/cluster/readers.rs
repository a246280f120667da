//! The partitions of a deployment as each of its nodes can read them, whoever owns them.

use std::sync::Arc;
use std::time::Duration;

use celesta_runtime::Clock;
use celesta_store::QueryError;
use tokio::sync::SetOnce;

use super::mail::Post;
use crate::runtime::Runtime;

/// How long somebody who has to read all partitions waits for them to be open: a deployment's first start takes seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A runtime for each partition that only reads, by number, and the post between partitions. There are none where there
/// is one partition, and none yet while the deployment starts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readers {
    opened: Arc<SetOnce<Vec<Runtime>>>,
    post: Arc<Post>,
}

impl Readers {
    /// All of them, when there are any.
    pub(crate) fn get(&self) -> Option<&[Runtime]> {
        self.opened.get().map(Vec::as_slice)
    }

    /// All of them, once they are open.
    pub(crate) async fn opened(&self, clock: &Clock) -> Result<&[Runtime], QueryError> {
        tokio::select! {
            readers = self.opened.wait() => Ok(readers),
            () = clock.sleep(PATIENCE) => Err(QueryError {
                reason: "not every partition is open yet".to_owned(),
            }),
        }
    }

    /// Only the first ones count.
    pub(super) fn set(&self, readers: Vec<Runtime>) {
        self.opened.set(readers).ok();
    }

    /// Where it is said that there are letters.
    pub(super) const fn post(&self) -> &Arc<Post> {
        &self.post
    }
}
