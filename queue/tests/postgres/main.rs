//! The suite of every store on PostgreSQL, and what only many nodes on one database can show.
//!
//! The tests are those of `tests/conformance`; only what they stand on differs.

mod apart;
mod bed;
#[path = "../conformance/metadata.rs"]
mod metadata;
mod nodes;
#[path = "../conformance/order.rs"]
mod order;
#[path = "../conformance/refusals.rs"]
mod refusals;
#[path = "../conformance/shards.rs"]
mod shards;
mod staged;
#[path = "../conformance/timeline.rs"]
mod timeline;
#[path = "../conformance/waiting.rs"]
mod waiting;

/// Runs each test on PostgreSQL. The suite also looks without waiting, which here blocks: hence the threads.
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::bed::Bed::postgres().await).await;
                }
            )*
        }
    };
}
pub(crate) use on_every_store;
