//! What a message has seen can be read, while it lives and for a time afterwards.

use celesta_queue::{Happened, Settings};

use crate::bed::{Bed, id, message, name};
use crate::on_every_store;

on_every_store!(
    a_timeline_tells_what_happened,
    a_history_outlives_its_message,
    a_queue_without_histories_writes_none,
);

fn happened(history: &celesta_queue::History) -> Vec<&'static str> {
    let name = |what: &Happened| match what {
        Happened::Enqueued => "enqueued",
        Happened::Visible => "visible",
        Happened::Leased { .. } => "leased",
        Happened::Extended { .. } => "extended",
        Happened::Completed => "completed",
        Happened::Failed { .. } => "failed",
        Happened::Released => "released",
        Happened::Lapsed => "lapsed",
        Happened::Canceled => "canceled",
        Happened::Expired => "expired",
        Happened::Redriven => "redriven",
        Happened::Reprioritized { .. } => "reprioritized",
    };
    history.timeline.iter().map(|event| name(&event.what)).collect()
}

/// A message that has seen everything but its end.
async fn tried(bed: &Bed) {
    let later = bed.clock.now().after_millis(10);
    bed.enqueue(vec![message("q", 1).visible_at(later)]).await;
    bed.advance(10);
    let leased = bed.lease("q", 1).await;
    bed.advance(10);
    assert!(bed.queues.extend(&[leased[0].lease()], 60_000)[0].is_ok());
    bed.advance(10);
    let failure = celesta_queue::Failure {
        lease: leased[0].lease(),
        retryable: true,
        delay_ms: 0,
        error: "no luck".to_owned(),
    };
    bed.queues.fail(vec![failure]).await.expect("durable")[0]
        .clone()
        .expect("held");
    bed.advance(10);
    let leased = bed.lease("q", 1).await;
    bed.advance(10);
    assert_eq!(bed.queues.release(&[leased[0].lease()]), [Ok(())]);
    bed.advance(10);
}

async fn a_timeline_tells_what_happened(bed: Bed) {
    tried(&bed).await;
    let _leased = bed.lease("q", 1).await;
    let history = bed.queues.history(&name("q"), id(1)).await.expect("readable");
    let history = history.expect("known");
    assert_eq!(
        happened(&history),
        [
            "enqueued", "visible", "leased", "extended", "failed", "leased", "released", "leased"
        ]
    );
    let consumers = history.timeline.iter().filter_map(|event| match &event.what {
        Happened::Leased { consumer, attempt } => Some((&**consumer, *attempt)),
        _ => None,
    });
    assert_eq!(
        consumers.collect::<Vec<_>>(),
        [("test", 1), ("test", 2), ("test", 2)]
    );
}

async fn a_history_outlives_its_message(bed: Bed) {
    tried(&bed).await;
    bed.complete(&bed.lease("q", 1).await).await;
    assert!(
        bed.queues
            .view(&name("q"), id(1))
            .await
            .expect("readable")
            .is_none()
    );
    let history = bed.queues.history(&name("q"), id(1)).await.expect("readable");
    let history = history.expect("kept for a day");
    assert_eq!(history.message.state, celesta_queue::machine::State::Completed);
    assert!(history.message.payload.is_none());
    assert_eq!(happened(&history)[7..], ["leased", "completed"]);
    assert!(
        bed.queues
            .history(&name("p"), id(1))
            .await
            .expect("readable")
            .is_none()
    );
    assert!(
        bed.queues
            .history(&name("q"), id(2))
            .await
            .expect("readable")
            .is_none()
    );
}

async fn a_queue_without_histories_writes_none(bed: Bed) {
    let settings = Settings {
        history_ms: 0,
        ..Settings::simple()
    };
    bed.queues.configure(&name("q"), settings).expect("in range");
    bed.enqueue(vec![message("q", 1)]).await;
    bed.complete(&bed.lease("q", 1).await).await;
    assert!(
        bed.queues
            .history(&name("q"), id(1))
            .await
            .expect("readable")
            .is_none()
    );
}
