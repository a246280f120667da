//! What is wrong is refused by name, and nothing changes.

use celesta_queue::{ConfigureError, EnqueueError, Error, ExtendError, LeaseError, Settings};

use crate::bed::{Bed, keyed, message, name, request, request_keys};
use crate::on_every_store;

on_every_store!(
    wrong_messages_are_refused_one_by_one,
    wrong_leases_are_refused,
    blocked_queues_refuse,
    the_kind_of_a_used_queue_stays,
    a_batch_too_large_is_refused_whole,
);

async fn wrong_messages_are_refused_one_by_one(bed: Bed) {
    let mut large = message("q", 1);
    large.payload = vec![0; 33 * 1024].into();
    let mut pairs = message("q", 2);
    pairs.metadata = (0..9).map(|number| (number.to_string(), String::new())).collect();
    let mut ttl = message("q", 3);
    ttl.ttl_ms = Some(-1);
    let outcomes = bed
        .queues
        .enqueue(vec![large, pairs, ttl, message("x/q", 4), message("q", 5)])
        .await
        .expect("durable");
    assert!(matches!(
        outcomes[0],
        Err(EnqueueError::PayloadTooLarge { bytes: 33_792, .. })
    ));
    assert!(matches!(
        outcomes[1],
        Err(EnqueueError::OutOfRange { given: 9, max: 8, .. })
    ));
    assert!(matches!(
        outcomes[2],
        Err(EnqueueError::OutOfRange { given: -1, .. })
    ));
    assert!(matches!(outcomes[3], Err(EnqueueError::MissingKey { .. })));
    assert!(outcomes[4].is_ok());
    assert_eq!(
        (bed.queues.depth(&name("q")), bed.queues.depth(&name("x/q"))),
        (1, 0)
    );
}

async fn wrong_leases_are_refused(bed: Bed) {
    let wrong = |result: Result<Vec<_>, LeaseError>| {
        result
            .map(|leased| leased.len())
            .expect_err("the request is wrong")
    };
    assert!(matches!(
        wrong(bed.queues.try_lease(&request("nobody", 1))),
        LeaseError::UnknownQueue { .. }
    ));
    bed.enqueue(vec![message("q", 1)]).await;
    assert!(matches!(
        wrong(bed.queues.try_lease(&request("q", 0))),
        LeaseError::BatchOutOfRange { given: 0, .. }
    ));
    assert!(matches!(
        wrong(bed.queues.try_lease(&request("q", 10_001))),
        LeaseError::BatchOutOfRange { .. }
    ));
    for lease_ms in [0, -5, 400 * 24 * 3_600_000] {
        let mut request = request("q", 1);
        request.lease_ms = Some(lease_ms);
        assert!(matches!(
            wrong(bed.queues.try_lease(&request)),
            LeaseError::LeaseOutOfRange { .. }
        ));
    }
    let keys = bed.queues.try_lease_keys(&request_keys("q", 1));
    assert!(matches!(keys, Err(LeaseError::WrongKind { .. })));
    let leased = bed.lease("q", 1).await;
    let extended = bed.queues.extend(&[leased[0].lease()], 0);
    assert!(matches!(extended[0], Err(ExtendError::LeaseOutOfRange { .. })));
}

async fn blocked_queues_refuse(bed: Bed) {
    bed.enqueue(vec![message("q", 1)]).await;
    let blocked = Settings {
        enqueue_blocked: true,
        dequeue_blocked: true,
        ..Settings::simple()
    };
    bed.queues.configure(&name("q"), blocked).expect("in range");
    assert!(matches!(
        bed.queues.try_lease(&request("q", 1)),
        Err(LeaseError::Blocked { .. })
    ));
    let outcomes = bed
        .queues
        .enqueue(vec![message("q", 2)])
        .await
        .expect("the call works");
    assert!(matches!(outcomes[0], Err(EnqueueError::Blocked { .. })));
    bed.queues
        .configure(&name("q"), Settings::simple())
        .expect("in range");
    assert_eq!(bed.lease("q", 10).await.len(), 1);
}

async fn the_kind_of_a_used_queue_stays(bed: Bed) {
    bed.enqueue(vec![keyed("x/q", 1, 1)]).await;
    let changed = bed.queues.configure(&name("x/q"), Settings::simple());
    assert!(matches!(changed, Err(ConfigureError::KindInUse { .. })));
    let wrong = bed.queues.configure(
        &name("y"),
        Settings {
            lease_ms: 0,
            ..Settings::simple()
        },
    );
    assert!(matches!(
        wrong,
        Err(ConfigureError::OutOfRange {
            setting: "lease_ms",
            ..
        })
    ));
}

async fn a_batch_too_large_is_refused_whole(bed: Bed) {
    let outcome = bed
        .queues
        .enqueue((0..10_001).map(|number| message("q", number)).collect())
        .await;
    assert_eq!(
        outcome,
        Err(Error::BatchTooLarge {
            given: 10_001,
            max: 10_000
        })
    );
    assert!(bed.queues.stats(&name("q")).is_none());
}
