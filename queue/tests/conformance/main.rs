//! One suite for every store of the queue: the same tests run on the model in memory and on `SQLite`.
//!
//! Time is a manual clock: no test sleeps. What only a record can show (crashes, units that fail) is in `record`.

mod bed;
mod history;
mod later;
mod metadata;
mod offloaded;
mod order;
mod record;
mod refusals;
mod shards;
mod storm;
mod timeline;
mod unstored;
mod waiting;
mod watching;

/// Runs each test once for each store.
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $name() { super::$name(crate::bed::Bed::memory()).await; })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $name() { super::$name(crate::bed::Bed::sqlite().await).await; })*
        }
    };
}
pub(crate) use on_every_store;
