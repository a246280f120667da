//! How many far messages there are is known whatever happens while they are counted in the record.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use celesta_runtime::{Clock, Shutdown, TaskSet};
use celesta_store::{Store, StoreOptions, Unit};
use celesta_types::Timestamp;
use hashbrown::HashMap;

use super::Later;
use crate::core::Core;
use crate::settings::Options;

/// A record without a loader, which would count by itself.
async fn core(folder: &std::path::Path) -> (Arc<Core>, Store, TaskSet) {
    let (clock, _hand) = Clock::manual(Timestamp::from_millis(1_000_000));
    let tasks = TaskSet::new(Shutdown::new());
    let options = StoreOptions::at(folder.join("queue.db"));
    let store = Store::open(&options, crate::MIGRATIONS, &clock, &tasks).await;
    let store = store.expect("the store opens");
    let core = Core::new(Some(store.clone()), &clock, tasks.shutdown(), Options::default());
    (Arc::new(core), store, tasks)
}

fn is_uncertain(later: &Later) -> bool {
    later.uncertain.load(Ordering::Acquire)
}

#[tokio::test]
async fn nothing_is_counted_while_somebody_brings_messages_near() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (core, store, _tasks) = core(folder.path()).await;
    let brings = core.later.approaching.lock().await;
    let counting = core.recount(&store);
    tokio::pin!(counting);
    let working = async {
        for _ in 0..3 {
            store.commit(Unit::new()).await.expect("an empty unit commits");
            store.fetch("SELECT 1", &[]).await.expect("the record reads");
        }
    };
    tokio::select! {
        biased;
        counted = &mut counting => panic!("counted meanwhile: {counted:?}"),
        () = working => {}
    }
    drop(brings);
    counting.await.expect("the record reads");
}

#[tokio::test]
async fn what_is_on_its_way_while_a_counting_reads_is_counted_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (core, store, _tasks) = core(folder.path()).await;
    core.later.stage(1);
    core.recount(&store).await.expect("the record reads");
    assert!(is_uncertain(&core.later), "its row may have been counted");
    assert_eq!(core.later.count(1), 1);
    core.later.settle(1, true);
    assert_eq!(core.later.count(1), 1);
    core.recount(&store).await.expect("the record reads");
    assert!(!is_uncertain(&core.later));
    assert_eq!(core.later.count(1), 0, "the record has none");
}

#[test]
fn who_goes_away_while_messages_come_near_leaves_the_count_to_the_record() {
    let later = Later::default();
    for _ in 0..3 {
        later.stage(1);
        later.settle(1, true);
    }
    let waits = Arc::new(());
    later.came_near(HashMap::from([(1, 2)]), &Arc::downgrade(&waits));
    assert_eq!((later.count(1), is_uncertain(&later)), (1, false));
    let gone = Arc::downgrade(&waits);
    drop(waits);
    later.came_near(HashMap::from([(1, 1)]), &gone);
    assert_eq!((later.count(1), is_uncertain(&later)), (1, true));
}
