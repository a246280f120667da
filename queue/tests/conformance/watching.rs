//! One consumer watches many queues, of a process that owns them.

use celesta_types::{Class, Priority};

use crate::bed::{Bed, message, name};
use crate::on_every_store;

on_every_store!(
    a_watch_reports_the_most_urgent_queue_first,
    a_watch_of_a_prefix_sees_queues_made_later,
);

async fn a_watch_reports_the_most_urgent_queue_first(bed: Bed) {
    let watch = bed
        .queues
        .watch(&[name("a"), name("b"), name("c")])
        .expect("few queues");
    let (ready, ()) = tokio::join!(watch.ready(), bed.enqueue(vec![message("a", 1)]));
    assert_eq!(ready.len(), 1);
    bed.enqueue(vec![message("b", 2).with_priority(Priority::of(Class::High))])
        .await;
    let order = |watch: &celesta_queue::Watch| -> Vec<_> {
        watch
            .ready_now()
            .iter()
            .map(|ready| ready.queue.as_str().to_owned())
            .collect()
    };
    assert_eq!(order(&watch), ["b", "a"]);
    watch.pause(&name("b"));
    assert_eq!(order(&watch), ["a"]);
    watch.resume(&name("b"));
    watch.remove(&name("a"));
    assert_eq!(order(&watch), ["b"]);
    bed.lease("b", 1).await;
    assert!(watch.ready_now().is_empty());
}

async fn a_watch_of_a_prefix_sees_queues_made_later(bed: Bed) {
    let watch = bed.queues.watch_prefix("functions/");
    bed.enqueue(vec![message("functions/split", 1), message("other", 2)])
        .await;
    let ready = watch.ready().await;
    assert_eq!(ready.len(), 1);
    assert_eq!((ready[0].queue.as_str(), ready[0].count), ("functions/split", 1));
}
