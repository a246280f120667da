//! What the road promises while nothing goes wrong.

use std::time::Duration;

use celesta_queue::machine::State;
use celesta_rabbitmq::{DispatcherConfig, Outcome};
use celesta_types::{Class, MessageId, Priority};

use crate::support::{Place, Turn, completed, patiently, settled};

#[tokio::test]
async fn every_message_reaches_a_consumer_and_every_completion_the_record() {
    let place = Place::new(Turn::shared());
    place.enqueue(1..=2_000, Priority::default()).await;
    place.dispatch(place.config("n"), &place.tasks);
    let roads = [place.road("a"), place.road("b")];
    let worked = [place.work(&roads[0], 100), place.work(&roads[1], 100)];
    place.source.settled(2_000).await;
    let stats = place.queues.stats(&place.queue).expect("the queue is there");
    assert_eq!(
        (stats.count(State::Completed), stats.count(State::Running)),
        (2_000, 0)
    );
    assert_eq!(worked.iter().map(|count| *count.borrow()).sum::<usize>(), 2_000);
    place.end(&["n"]).await;
}

#[tokio::test]
async fn a_delivery_says_what_the_message_said() {
    let place = Place::new(Turn::shared());
    let priority = Priority {
        class: Class::High,
        number: 4,
        deadline: Some(place.clock.now()),
    };
    place.enqueue(7..=7, priority).await;
    place.dispatch(place.config("n"), &place.tasks);
    let road = place.road("a");
    let mut intake = place.intake(&road, 1);
    let delivery = patiently("a delivery", intake.next(1)).await.remove(0);
    assert_eq!(
        (delivery.id, delivery.priority),
        (MessageId::from_bits(7), priority)
    );
    assert_eq!(
        (&delivery.payload[..], delivery.attempt),
        (&7_u128.to_be_bytes()[..], 1)
    );
    road.settle(vec![completed(&delivery)]).await;
    place.source.settled(1).await;
    place.end(&["n"]).await;
}

#[tokio::test]
async fn a_failure_is_tried_again_and_a_release_burns_no_attempt() {
    let place = Place::new(Turn::shared());
    place.enqueue(1..=1, Priority::default()).await;
    place.dispatch(place.config("n"), &place.tasks);
    let road = place.road("a");
    let mut intake = place.intake(&road, 1);
    let failed = |retryable| Outcome::Failed {
        retryable,
        delay_ms: 0,
        error: "no".to_owned(),
        result: Vec::new(),
    };
    for (attempt, outcome) in [(1, failed(true)), (2, Outcome::Released), (2, failed(false))] {
        let delivery = patiently("a delivery", intake.next(1)).await.remove(0);
        assert_eq!(delivery.attempt, attempt);
        road.settle(vec![settled(&delivery, outcome)]).await;
    }
    place.source.settled(3).await;
    let stats = place.queues.stats(&place.queue).expect("the queue is there");
    assert_eq!(stats.count(State::Errored), 1);
    place.end(&["n"]).await;
}

#[tokio::test]
async fn the_broker_holds_no_more_than_the_window_and_urgent_messages_overtake_the_rest() {
    let place = Place::new(Turn::shared());
    let config = DispatcherConfig {
        window: 10,
        road_time: Duration::from_secs(60),
        ..place.config("n")
    };
    place.enqueue(1..=100, Priority::of(Class::Low)).await;
    let dispatcher = place.dispatch(config, &place.tasks);
    place.broker_has(10).await;
    assert_eq!(dispatcher.in_flight(), 10);
    place.enqueue(1_000..=1_000, Priority::of(Class::Critical)).await;
    let road = place.road("a");
    let mut intake = place.intake(&road, 1);
    let mut order = Vec::new();
    while order.len() < 101 {
        for delivery in patiently("a delivery", intake.next(1)).await {
            order.push(delivery.id.bits());
            road.settle(vec![completed(&delivery)]).await;
        }
    }
    let urgent = order.iter().position(|id| *id == 1_000).expect("it came");
    assert!(urgent < 15, "the urgent message came as number {urgent}");
    place.source.settled(101).await;
    place.end(&["n"]).await;
}

#[tokio::test]
async fn the_broker_gives_the_most_urgent_message_first() {
    let place = Place::new(Turn::shared());
    for (id, class) in [(1, Class::Background), (2, Class::Standard), (3, Class::Critical)] {
        place.enqueue(id..=id, Priority::of(class)).await;
    }
    let config = DispatcherConfig {
        road_time: Duration::from_secs(60),
        ..place.config("n")
    };
    place.dispatch(config, &place.tasks);
    place.broker_has(3).await;
    let road = place.road("a");
    let mut intake = place.intake(&road, 1);
    for expected in [3, 2, 1] {
        let delivery = patiently("a delivery", intake.next(1)).await.remove(0);
        assert_eq!(delivery.id.bits(), expected);
        road.settle(vec![completed(&delivery)]).await;
    }
    place.end(&["n"]).await;
}

#[tokio::test]
async fn a_canceled_messages_consumer_hears_of_it() {
    let place = Place::new(Turn::shared());
    place.enqueue(1..=1, Priority::default()).await;
    let dispatcher = place.dispatch(place.config("n"), &place.tasks);
    let road = place.road("a");
    let mut canceled = road.canceled();
    let mut intake = place.intake(&road, 1);
    let delivery = patiently("a delivery", intake.next(1)).await.remove(0);
    let outcomes = place
        .queues
        .cancel(&place.queue, &[delivery.id])
        .await
        .expect("canceled");
    assert!(outcomes[0].is_ok());
    // Should the consumer not listen yet, it hears of it when it says what it holds.
    dispatcher.cancel(&[delivery.id]);
    let notice = patiently("a notice", canceled.recv()).await.expect("heard");
    assert_eq!((notice.id, notice.token), (delivery.id, Some(delivery.token)));
    place.end(&["n"]).await;
}

#[tokio::test]
async fn a_cancel_in_the_record_alone_is_heard_when_the_lease_is_to_be_extended() {
    let place = Place::new(Turn::shared());
    place.enqueue(1..=1, Priority::default()).await;
    place.dispatch(place.config("n"), &place.tasks);
    let road = place.road("a");
    let mut canceled = road.canceled();
    let mut intake = place.intake(&road, 1);
    let delivery = patiently("a delivery", intake.next(1)).await.remove(0);
    let outcomes = place
        .queues
        .cancel(&place.queue, &[delivery.id])
        .await
        .expect("canceled");
    assert!(outcomes[0].is_ok());
    let notice = patiently("a notice", canceled.recv()).await.expect("heard");
    assert_eq!(notice.id, delivery.id);
    // The report of work that nobody waits for is taken and changes nothing.
    road.settle(vec![completed(&delivery)]).await;
    assert_eq!(road.in_hand(), 0);
    place.end(&["n"]).await;
}
