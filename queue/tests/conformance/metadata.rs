//! Messages are leased, counted, listed and called back by any subset of their pairs, and served by their shares.

use celesta_queue::{Filter, LeaseError, Settings};
use celesta_types::{Class, Priority};

use crate::bed::{Bed, keyed, message, name, numbers, request, request_keys};
use crate::on_every_store;

on_every_store!(
    messages_are_leased_by_a_subset_of_their_pairs,
    keys_are_leased_by_the_pairs_of_their_first_message,
    messages_are_counted_listed_and_canceled_by_pairs,
    a_list_has_pages,
    a_key_with_many_messages_does_not_starve_one_with_few,
    weights_are_shares_and_can_be_changed,
);

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn filter(of: &[(&str, &str)]) -> Filter {
    Filter {
        states: Vec::new(),
        metadata: pairs(of),
    }
}

/// Message `n` is of tenant n % 3 and of kind n % 2.
async fn enqueue_tagged(bed: &Bed, count: u128) {
    let tagged = (0..count).map(|number| {
        let mut message = message("q", number);
        message.metadata = pairs(&[
            ("tenant", &(number % 3).to_string()),
            ("kind", &(number % 2).to_string()),
        ]);
        message
    });
    bed.enqueue(tagged.collect()).await;
}

async fn messages_are_leased_by_a_subset_of_their_pairs(bed: Bed) {
    enqueue_tagged(&bed, 24).await;
    let mut wanted = request("q", 2);
    wanted.metadata = pairs(&[("kind", "1"), ("tenant", "1")]);
    let leased = bed.queues.lease(&wanted).await.expect("leased");
    assert_eq!(numbers(&leased), [1, 7]);
    wanted.metadata = pairs(&[("tenant", "1")]);
    wanted.max = 3;
    let leased = bed.queues.lease(&wanted).await.expect("leased");
    assert_eq!(numbers(&leased), [4, 10, 13]);
    wanted.metadata = pairs(&[("tenant", "1"), ("nobody", "has this")]);
    assert!(bed.queues.lease(&wanted).await.expect("nothing").is_empty());
    assert_eq!(numbers(&bed.lease("q", 3).await), [0, 2, 3]);
    wanted.metadata = (0..9).map(|number| (number.to_string(), String::new())).collect();
    assert!(matches!(
        bed.queues.lease(&wanted).await,
        Err(LeaseError::FilterTooLarge { given: 9, max: 8 })
    ));
}

async fn keys_are_leased_by_the_pairs_of_their_first_message(bed: Bed) {
    let mut tagged = keyed("x/q", 2, 2);
    tagged.metadata = pairs(&[("tenant", "a")]);
    let mut second = keyed("x/q", 3, 1);
    second.metadata = pairs(&[("tenant", "a")]);
    bed.enqueue(vec![keyed("x/q", 1, 1), tagged, second, keyed("x/q", 4, 2)])
        .await;
    let mut wanted = request_keys("x/q", 5);
    wanted.metadata = pairs(&[("tenant", "a")]);
    let keys = bed.queues.lease_keys(&wanted).await.expect("leased");
    assert_eq!(keys.len(), 1, "the first message of key 1 has no such pair");
    assert_eq!(numbers(&keys[0].messages), [2, 4]);
    bed.complete(&bed.lease("x/q", 1).await).await;
    let keys = bed.queues.lease_keys(&wanted).await.expect("leased");
    assert_eq!(numbers(&keys[0].messages), [3]);
}

async fn messages_are_counted_listed_and_canceled_by_pairs(bed: Bed) {
    enqueue_tagged(&bed, 24).await;
    let count =
        async |of: &[(&str, &str)]| bed.queues.count(&name("q"), &filter(of)).await.expect("readable");
    assert_eq!(count(&[]).await, 24);
    assert_eq!(count(&[("tenant", "2")]).await, 8);
    assert_eq!(count(&[("tenant", "2"), ("kind", "0")]).await, 4);
    assert_eq!(count(&[("tenant", "7")]).await, 0);
    let page = bed
        .queues
        .list(&name("q"), &filter(&[("kind", "0"), ("tenant", "2")]), None, 10)
        .await
        .expect("readable");
    let listed: Vec<_> = page.messages.iter().map(|view| view.id.bits()).collect();
    assert_eq!((listed, page.next), (vec![2, 8, 14, 20], None));
    let canceled = bed
        .queues
        .cancel_matching(&name("q"), &filter(&[("tenant", "2")]), 100)
        .await
        .expect("durable");
    assert_eq!(canceled.len(), 8);
    assert_eq!(bed.lease("q", 100).await.len(), 16);
}

async fn a_list_has_pages(bed: Bed) {
    bed.enqueue((0..25).map(|number| message("q", number)).collect())
        .await;
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = bed
            .queues
            .list(&name("q"), &Filter::default(), after, 10)
            .await
            .expect("readable");
        assert!(page.messages.len() <= 10);
        listed.extend(page.messages.iter().map(|view| view.id.bits()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    listed.sort_unstable();
    assert_eq!(listed, (0..25).collect::<Vec<_>>());
}

fn shared(number: u128, fairness: &str) -> celesta_queue::NewMessage {
    let mut message = message("q", number);
    message.fairness = Some(fairness.into());
    message
}

async fn a_key_with_many_messages_does_not_starve_one_with_few(bed: Bed) {
    bed.enqueue((0..5_000).map(|number| shared(number, "many")).collect())
        .await;
    bed.enqueue((5_000..5_010).map(|number| shared(number, "few")).collect())
        .await;
    let urgent = shared(9_999, "many").with_priority(Priority::of(Class::High));
    bed.enqueue(vec![urgent]).await;
    let first = numbers(&bed.lease("q", 21).await);
    assert_eq!(first[0], 9_999, "a class comes before all shares");
    assert_eq!(
        first
            .iter()
            .filter(|number| (5_000..5_010).contains(*number))
            .count(),
        10
    );
}

async fn weights_are_shares_and_can_be_changed(bed: Bed) {
    let mut settings = Settings::simple();
    settings.weights.insert("a".to_owned(), 3);
    bed.queues
        .configure(&name("q"), settings.clone())
        .expect("in range");
    bed.enqueue((0..400).map(|number| shared(number, "a")).collect())
        .await;
    bed.enqueue((400..800).map(|number| shared(number, "b")).collect())
        .await;
    let of_b = |leased: Vec<u128>| leased.iter().filter(|number| **number >= 400).count();
    assert_eq!(of_b(numbers(&bed.lease("q", 100).await)), 25);
    settings.weights.insert("a".to_owned(), 0);
    assert!(bed.queues.configure(&name("q"), settings).is_err());
}
