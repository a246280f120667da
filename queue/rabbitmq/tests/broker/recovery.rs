//! What the broker, the network and other nodes can do to the road: everything recovers by itself and nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use celesta_queue::machine::State;
use celesta_rabbitmq::DispatcherConfig;
use celesta_runtime::{Shutdown, TaskSet};
use celesta_types::Priority;

use crate::support::{Place, Turn, completed, patiently, rabbitmqctl};

/// How often connections are cut.
const CUTS: usize = 3;

#[tokio::test]
async fn nothing_is_lost_when_all_connections_are_cut_under_load() {
    let place = Place::new(Turn::alone());
    place.dispatch(place.config("n"), &place.tasks);
    let roads = [place.road("a"), place.road("b")];
    for road in &roads {
        place.work(road, 50);
    }
    for cut in 0..CUTS {
        let first = u128::try_from(cut).expect("small") * 2_000;
        place
            .enqueue(first + 1..=first + 2_000, Priority::default())
            .await;
        place.source.settled(cut * 2_000 + 200).await;
        rabbitmqctl(&["close_all_connections", "--limit", "1000", "cut by a test"]);
    }
    place.source.settled(CUTS * 2_000).await;
    everything_is_completed(&place, CUTS * 2_000);
    place.end(&["n"]).await;
}

#[tokio::test]
async fn a_restarted_broker_loses_nothing() {
    let place = Place::new(Turn::alone());
    place.dispatch(place.config("n"), &place.tasks);
    let road = place.road("a");
    place.work(&road, 100);
    place.enqueue(1..=3_000, Priority::default()).await;
    place.source.settled(500).await;
    rabbitmqctl(&["stop_app"]);
    place.enqueue(3_001..=4_000, Priority::default()).await;
    rabbitmqctl(&["start_app"]);
    place.source.settled(4_000).await;
    everything_is_completed(&place, 4_000);
    place.end(&["n"]).await;
}

#[tokio::test]
async fn a_broker_short_of_memory_is_waited_for() {
    let place = Place::new(Turn::alone());
    place.dispatch(place.config("n"), &place.tasks);
    let road = place.road("a");
    place.work(&road, 100);
    place.enqueue(1..=100, Priority::default()).await;
    place.source.settled(100).await;
    rabbitmqctl(&["set_vm_memory_high_watermark", "0.00001"]);
    place.enqueue(101..=2_000, Priority::default()).await;
    // Each extension comes a third of a lease later: what was leased when the broker closed its door does not lapse.
    place.source.extended(4).await;
    rabbitmqctl(&["set_vm_memory_high_watermark", "0.4"]);
    place.source.settled(2_000).await;
    everything_is_completed(&place, 2_000);
    place.end(&["n"]).await;
}

#[tokio::test]
async fn a_queue_that_is_deleted_with_its_messages_is_made_again_and_they_are_sent_again() {
    let place = Place::new(Turn::shared());
    place.dispatch(place.config("n"), &place.tasks);
    place.enqueue(1..=50, Priority::default()).await;
    place.broker_has(50).await;
    assert_eq!(place.delete_queue().await, 50);
    let road = place.road("a");
    place.work(&road, 10);
    place.source.settled(50).await;
    // With a consumer there, the queue goes once more.
    place.delete_queue().await;
    place.enqueue(51..=100, Priority::default()).await;
    place.source.settled(100).await;
    everything_is_completed(&place, 100);
    place.end(&["n"]).await;
}

#[tokio::test]
async fn a_message_that_waits_too_long_in_the_broker_is_given_back_and_burns_no_attempt() {
    let place = Place::new(Turn::shared());
    let config = DispatcherConfig {
        road_time: Duration::from_millis(100),
        silence: Duration::from_millis(600),
        ..place.config("n")
    };
    place.dispatch(config, &place.tasks);
    place.enqueue(1..=1, Priority::default()).await;
    // Sent, dropped by the broker, given back, sent again.
    for _ in 0..2 {
        place.broker_has(1).await;
        place.broker_has(0).await;
    }
    let road = place.road("a");
    let mut intake = place.intake(&road, 1);
    let delivery = patiently("a delivery", intake.next(1)).await.remove(0);
    assert_eq!(delivery.attempt, 1);
    road.settle(vec![completed(&delivery)]).await;
    place.source.settled(1).await;
    place.end(&["n"]).await;
}

#[tokio::test]
async fn a_consumer_that_dies_leaves_its_messages_to_others() {
    let place = Place::new(Turn::shared());
    place.dispatch(place.config("n"), &place.tasks);
    place.enqueue(1..=20, Priority::default()).await;
    let mortal = TaskSet::new(Shutdown::new());
    {
        let place_of_mortal = celesta_rabbitmq::Road::start(
            celesta_rabbitmq::RoadConfig {
                namespace: place.namespace.clone(),
                ..celesta_rabbitmq::RoadConfig::new("mortal")
            },
            &Place::url(),
            &place.clock,
            &place.random,
            &mortal,
        );
        let mut intake = place_of_mortal.consume(&place.queue, 20).expect("a short name");
        let deliveries = patiently("a delivery", intake.next(20)).await;
        assert!(!deliveries.is_empty());
        assert!(mortal.stop(Duration::from_secs(5)).await, "everything ends");
    }
    let road = place.road("heir");
    place.work(&road, 20);
    place.source.settled(20).await;
    everything_is_completed(&place, 20);
    place.end(&["n"]).await;
}

#[tokio::test]
async fn another_node_takes_over_the_leases_of_one_that_is_gone() {
    let place = Place::new(Turn::shared());
    let gone = TaskSet::new(Shutdown::new());
    place.dispatch(place.config("a"), &gone);
    place.enqueue(1..=20, Priority::default()).await;
    let road = place.road("c");
    let mut intake = place.intake(&road, 20);
    let mut deliveries = Vec::new();
    while deliveries.len() < 20 {
        deliveries.extend(patiently("deliveries", intake.next(20)).await);
    }
    assert!(gone.stop(Duration::from_secs(5)).await, "everything ends");
    place.dispatch(place.config("b"), &place.tasks);
    // Reported to a node that reads no more: the other one sends the messages again.
    road.settle(deliveries.iter().map(completed).collect()).await;
    let tokens: Vec<_> = deliveries.iter().map(|delivery| delivery.token).collect();
    let source = Arc::clone(&place.source);
    let settled = source.settled(20);
    tokio::pin!(settled);
    loop {
        let deliveries = tokio::select! {
            () = &mut settled => break,
            deliveries = intake.next(20) => deliveries,
        };
        let first = deliveries
            .iter()
            .filter(|delivery| tokens.contains(&delivery.token));
        assert_eq!(first.count(), 0, "a lease that is over was given again");
        road.settle(deliveries.iter().map(completed).collect()).await;
    }
    everything_is_completed(&place, 20);
    place.end(&["a", "b"]).await;
}

#[tokio::test]
async fn a_node_that_stops_leases_nothing_of_what_it_gives_back() {
    let place = Place::new(Turn::shared());
    let gone = TaskSet::new(Shutdown::new());
    let config = DispatcherConfig {
        lease: Duration::from_secs(60),
        ..place.config("a")
    };
    place.dispatch(config, &gone);
    place.enqueue(1..=20, Priority::default()).await;
    place.broker_has(20).await;
    assert!(gone.stop(Duration::from_secs(5)).await, "everything ends");
    let stats = place.queues.stats(&place.queue).expect("the queue is there");
    assert_eq!(
        (stats.count(State::Running), stats.count(State::Pending)),
        (0, 20)
    );
    place.end(&["a"]).await;
}

#[tokio::test]
async fn a_node_that_comes_back_under_its_name_takes_up_the_reports_sent_meanwhile() {
    let place = Place::new(Turn::shared());
    let config = DispatcherConfig {
        lease: Duration::from_secs(60),
        ..place.config("a")
    };
    let gone = TaskSet::new(Shutdown::new());
    place.dispatch(config.clone(), &gone);
    place.enqueue(1..=20, Priority::default()).await;
    let road = place.road("c");
    let mut intake = place.intake(&road, 20);
    let mut deliveries = Vec::new();
    while deliveries.len() < 20 {
        deliveries.extend(patiently("deliveries", intake.next(20)).await);
    }
    // The first report waits for the connection; words about progress do not, so they come after it.
    road.settle(vec![completed(&deliveries.remove(0))]).await;
    for delivery in &deliveries {
        road.progress(delivery.id, delivery.token, b"half".to_vec()).await;
    }
    place.source.heard(19).await;
    assert!(gone.stop(Duration::from_secs(5)).await, "everything ends");
    road.settle(deliveries.iter().map(completed).collect()).await;
    place.dispatch(config, &place.tasks);
    place.source.settled(20).await;
    everything_is_completed(&place, 20);
    place.end(&["a"]).await;
}

fn everything_is_completed(place: &Place, count: usize) {
    let stats = place.queues.stats(&place.queue).expect("the queue is there");
    assert_eq!(
        (
            stats.count(State::Completed),
            stats.count(State::Running),
            stats.count(State::Pending)
        ),
        (count, 0, 0)
    );
}
