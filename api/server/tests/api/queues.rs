//! The queue over HTTP: producers, consumers, and what is refused.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bed::{Answer, Bed};

impl Bed {
    async fn say(&self, path: &str, body: &Value) -> Answer {
        self.post(&format!("/v1/queues/{path}"), &[], &body.to_string())
            .await
    }

    async fn put(&self, method: Method, queue: &str, body: &Value) -> Answer {
        let request = self.request(method, &format!("/v1/queues/{queue}"));
        self.send(request.json(body)).await
    }

    async fn enqueue(&self, queue: &str, messages: Value) {
        let answer = self
            .say(&format!("{queue}/messages"), &json!({ "messages": messages }))
            .await;
        assert_eq!(
            (answer.status, &answer.json["refused"]),
            (200, &json!(0)),
            "{answer:?}"
        );
    }

    /// What the queue holds, state by state, as one line.
    async fn counts(&self, queue: &str) -> String {
        let shown = self.get(&format!("/v1/queues/{queue}")).await;
        let counts = shown.json["counts"].as_object().cloned().unwrap_or_default();
        let alive = counts.iter().filter(|(_, count)| **count != json!(0));
        alive
            .map(|(state, count)| format!("{state} {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// The leases of an answer, to settle them.
fn leases(answer: &Answer) -> Value {
    let messages = answer.json["messages"].as_array().cloned().unwrap_or_default();
    messages
        .iter()
        .map(|message| json!({ "id": message["id"], "token": message["token"] }))
        .collect()
}

fn outcomes(answer: &Answer) -> Vec<&str> {
    let outcomes = answer.json["outcomes"].as_array().map_or(&[][..], Vec::as_slice);
    outcomes
        .iter()
        .map(|outcome| outcome["outcome"].as_str().unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn a_message_goes_from_producer_to_consumer_as_it_was_written() {
    let bed = Bed::new().await;
    bed.enqueue(
        "mail",
        json!([
            { "id": "order-1", "payload": { "to": "Ann", "n": 1.5 }, "priority": "low", "metadata": { "shop": "7" } },
            { "id": "order-2", "payload_base64": "AP8=", "priority": { "class": "high", "number": 3 } },
            { "id": "order-3", "payload": null, "delay_ms": 3_600_000 },
        ]),
    )
    .await;
    let again = bed
        .say(
            "mail/messages",
            &json!({ "messages": [{ "id": "order-1", "payload": 2 }, { "payload": 3 }] }),
        )
        .await;
    assert_eq!(outcomes(&again), ["existing", "enqueued"]);
    assert!(
        again.json["outcomes"][1]["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("msg_"))
    );
    assert_eq!(bed.counts("mail").await, "invisible 1, pending 3");

    let leased = bed
        .say(
            "mail/lease",
            &json!({ "max": 10, "lease_ms": 60_000, "consumer": "postman" }),
        )
        .await;
    let messages = leased.json["messages"].as_array().expect("messages");
    let ids: Vec<_> = messages.iter().map(|message| message["id"].clone()).collect();
    assert_eq!(ids[0], "order-2", "the high class comes first");
    assert_eq!(ids[2], "order-1", "the low class comes last");
    assert_eq!(messages[0]["payload_base64"], "AP8=");
    assert_eq!(messages[0]["priority"]["number"], 3);
    assert_eq!(messages[2]["metadata"], json!({ "shop": "7" }));
    let text = String::from_utf8_lossy(&leased.body);
    assert!(text.contains(r#""payload":{"to":"Ann","n":1.5}"#), "{text}");

    let shown = bed.get("/v1/queues/mail/messages/order-1").await;
    assert_eq!(
        (&shown.json["state"], &shown.json["consumer"], &shown.json["id"]),
        (&json!("running"), &json!("postman"), &json!("order-1"))
    );
    let held = leases(&leased);
    let extended = bed
        .say("mail/extend", &json!({ "leases": held, "lease_ms": 120_000 }))
        .await;
    assert_eq!(outcomes(&extended), ["extended"; 3]);
    let failed = json!({ "leases": [{ "id": held[0]["id"], "token": held[0]["token"], "retryable": false, "error": "no stamp" }] });
    assert_eq!(outcomes(&bed.say("mail/fail", &failed).await), ["errored"]);
    let released = json!({ "leases": [held[1]] });
    assert_eq!(outcomes(&bed.say("mail/release", &released).await), ["released"]);
    // The first two leases are over, the third is not.
    let completed = bed.say("mail/complete", &json!({ "leases": held })).await;
    assert_eq!(
        (completed.status, outcomes(&completed)),
        (200, vec!["refused", "refused", "completed"])
    );
    assert_eq!(completed.json["outcomes"][0]["problem"]["code"], "stale-lease");
    assert_eq!(bed.counts("mail").await, "invisible 1, pending 1, errored 1");

    let errored = bed.get("/v1/queues/mail/messages?state=errored").await;
    assert_eq!(errored.json["rows"][0]["error"], "no stamp");
    let redriven = bed.say("mail/redrive", &json!({ "filter": {} })).await;
    assert_eq!(
        redriven.json["outcomes"],
        json!([{ "id": "order-2", "outcome": "redriven" }])
    );
    let canceled = bed
        .say("mail/cancel", &json!({ "ids": ["order-3", "nobody"] }))
        .await;
    assert_eq!(outcomes(&canceled), ["canceled", "refused"]);
    assert_eq!(canceled.json["outcomes"][1]["problem"]["code"], "no-such-message");
    bed.stop().await;
}

#[tokio::test]
async fn keys_of_an_exclusive_queue_are_leased_whole() {
    let bed = Bed::new().await;
    let made = bed
        .put(
            Method::PUT,
            "accounts",
            &json!({ "kind": "exclusive", "lease_ms": 60_000 }),
        )
        .await;
    assert_eq!(
        (made.status, &made.json["settings"]["kind"]),
        (201, &json!("exclusive"))
    );
    bed.enqueue(
        "accounts",
        json!([
            { "id": "a1", "key": "Ann", "payload": 1 },
            { "id": "b1", "key": "Bob", "payload": 2 },
            { "id": "a2", "key": "Ann", "payload": 3 },
        ]),
    )
    .await;
    let leased = bed.say("accounts/lease", &json!({ "max_keys": 1 })).await;
    let key = &leased.json["keys"][0];
    assert_eq!(key["key"], "Ann", "{leased:?}");
    let ids: Vec<_> = key["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|message| &message["id"])
        .collect();
    assert_eq!(ids, ["a1", "a2"]);
    let other = bed.say("accounts/lease", &json!({ "max": 10 })).await;
    assert_eq!(
        other.json["messages"][0]["key"], "Bob",
        "the leased key delays no other"
    );
    assert_eq!(other.json["messages"].as_array().map(Vec::len), Some(1));
    let none = bed
        .say("accounts/lease", &json!({ "max_keys": 10, "wait_ms": 1 }))
        .await;
    assert_eq!(none.json, json!({ "keys": [] }));
    bed.stop().await;
}

#[tokio::test]
async fn messages_are_found_by_their_metadata() {
    let bed = Bed::new().await;
    bed.enqueue(
        "jobs",
        json!([
            { "id": "1", "payload": 1, "metadata": { "shop": "7", "kind": "a" } },
            { "id": "2", "payload": 2, "metadata": { "shop": "7", "kind": "b" } },
            { "id": "3", "payload": 3, "metadata": { "shop": "8", "kind": "b" } },
        ]),
    )
    .await;
    let listed = bed
        .get("/v1/queues/jobs/messages?metadata=shop%3D7&metadata=kind%3Db")
        .await;
    assert_eq!(
        (
            listed.json["rows"].as_array().map(Vec::len),
            &listed.json["rows"][0]["id"]
        ),
        (Some(1), &json!("2"))
    );
    let peeked = bed.get("/v1/queues/jobs/messages?peek=true&limit=2").await;
    let ids: Vec<_> = peeked.json["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| &row["id"])
        .collect();
    assert_eq!(ids, ["1", "2"]);
    let canceled = bed
        .say(
            "jobs/cancel",
            &json!({ "filter": { "metadata": { "shop": "7" } } }),
        )
        .await;
    assert_eq!(outcomes(&canceled), ["canceled"; 2]);
    assert_eq!(bed.counts("jobs").await, "pending 1, canceled 2");
    bed.stop().await;
}

#[tokio::test]
async fn each_wrong_call_has_its_own_code_and_changes_nothing() {
    let bed = Bed::new().await;
    bed.put(Method::PUT, "keyed", &json!({ "kind": "exclusive" }))
        .await;
    bed.enqueue("plain", json!([{ "id": "m", "payload": 1 }])).await;
    let held = leases(&bed.say("plain/lease", &json!({})).await);
    bed.enqueue("plain", json!([{ "id": "waiting", "payload": 1 }]))
        .await;
    let stale = json!([{ "id": "m", "token": "12345" }]);
    let large = "x".repeat(33 * 1024);
    let one = |message: Value| json!({ "messages": [message] });
    for (path, body, status, code) in [
        ("nowhere/lease", json!({}), 404, "no-such-queue"),
        ("nowhere/cancel", json!({ "ids": ["m"] }), 404, "no-such-queue"),
        (
            "plain/messages",
            one(json!({ "payload": large })),
            413,
            "payload-too-large",
        ),
        (
            "plain/messages",
            one(json!({ "payload_base64": "?" })),
            422,
            "invalid-message",
        ),
        (
            "plain/messages",
            one(json!({ "id": "x" })),
            422,
            "invalid-message",
        ),
        (
            "plain/messages",
            one(json!({ "id": "", "payload": 1 })),
            422,
            "invalid-message",
        ),
        (
            "plain/messages",
            one(json!({ "payload": 1, "ttl_ms": 0 })),
            422,
            "invalid-message",
        ),
        (
            "plain/messages",
            one(json!({ "payload": 1, "delay_ms": -1 })),
            422,
            "invalid-message",
        ),
        (
            "plain/messages",
            one(json!({ "payload": 1, "attempts_max": -1 })),
            422,
            "invalid-message",
        ),
        (
            "plain/messages",
            one(json!({ "payload": 1, "priority": "urgent" })),
            422,
            "invalid-message",
        ),
        (
            "plain/messages",
            json!({ "messages": [] }),
            422,
            "batch-out-of-range",
        ),
        ("plain/messages", json!({ "messages": 3 }), 422, "invalid-input"),
        (
            "plain/messages",
            one(json!({ "payload": 1, "surely": "not" })),
            422,
            "invalid-input",
        ),
        ("keyed/messages", one(json!({ "payload": 1 })), 422, "missing-key"),
        (
            "a%20b/messages",
            one(json!({ "payload": 1 })),
            400,
            "invalid-queue-name",
        ),
        ("plain/lease", json!({ "lease_ms": 0 }), 422, "lease-out-of-range"),
        (
            "plain/lease",
            json!({ "lease_ms": 400_i64 * 86_400_000 }),
            422,
            "lease-out-of-range",
        ),
        ("plain/lease", json!({ "max": -5 }), 422, "batch-out-of-range"),
        ("plain/lease", json!({ "max": 0 }), 422, "batch-out-of-range"),
        ("plain/lease", json!({ "max": 1_001 }), 422, "batch-out-of-range"),
        ("plain/lease", json!({ "max_keys": 1 }), 409, "wrong-queue-kind"),
        (
            "plain/lease",
            json!({ "wait_ms": 60_001 }),
            400,
            "invalid-parameter",
        ),
        ("plain/complete", json!({ "leases": stale }), 409, "stale-lease"),
        (
            "plain/complete",
            json!({ "leases": [] }),
            422,
            "batch-out-of-range",
        ),
        ("plain/fail", json!({ "leases": stale }), 409, "stale-lease"),
        ("plain/release", json!({ "leases": stale }), 409, "stale-lease"),
        (
            "plain/extend",
            json!({ "leases": stale, "lease_ms": 1_000 }),
            409,
            "stale-lease",
        ),
        (
            "plain/extend",
            json!({ "leases": held, "lease_ms": 0 }),
            422,
            "lease-out-of-range",
        ),
        (
            "plain/cancel",
            json!({ "ids": ["nobody"] }),
            404,
            "no-such-message",
        ),
        ("plain/cancel", json!({}), 400, "invalid-parameter"),
        (
            "plain/redrive",
            json!({ "ids": ["waiting"] }),
            409,
            "illegal-message-state",
        ),
        (
            "plain/reprioritize",
            json!({ "changes": [{ "id": "m", "priority": "high" }] }),
            409,
            "illegal-message-state",
        ),
        (
            "runs/messages",
            one(json!({ "payload": 1 })),
            403,
            "queue-reserved",
        ),
        ("functions%2Fa%2Fb/lease", json!({}), 403, "queue-reserved"),
    ] {
        let answer = bed.say(path, &body).await;
        answer.is_problem(status, code);
        assert_eq!(bed.get(&format!("/errors/{code}")).await.status, 200);
    }
    for (method, queue, body, status, code) in [
        (
            Method::PUT,
            "plain",
            json!({ "lease_ms": 0 }),
            422,
            "invalid-settings",
        ),
        (
            Method::PUT,
            "plain",
            json!({ "surely": "not" }),
            422,
            "invalid-settings",
        ),
        (
            Method::PUT,
            "plain",
            json!({ "kind": "exclusive" }),
            409,
            "queue-in-use",
        ),
        (
            Method::PATCH,
            "nowhere",
            json!({ "enqueue_blocked": true }),
            404,
            "no-such-queue",
        ),
        (
            Method::PATCH,
            "runs",
            json!({ "enqueue_blocked": true }),
            403,
            "queue-reserved",
        ),
    ] {
        bed.put(method, queue, &body).await.is_problem(status, code);
    }
    for path in [
        "nowhere",
        "nowhere/messages",
        "plain/messages/nobody",
        "plain/messages/nobody/history",
    ] {
        let answer = bed.get(&format!("/v1/queues/{path}")).await;
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    for query in [
        "state=odd",
        "limit=0",
        "limit=501",
        "metadata=x",
        "cursor=x",
        "surely=not",
    ] {
        bed.get(&format!("/v1/queues/plain/messages?{query}"))
            .await
            .is_problem(400, "invalid-parameter");
    }
    assert_eq!(bed.counts("plain").await, "pending 1, running 1");
    assert_eq!(bed.counts("keyed").await, "");
    let queues = bed.get("/v1/queues").await;
    let names: Vec<_> = queues.json["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| &row["name"])
        .collect();
    assert_eq!(
        names,
        ["celesta/events", "keyed", "plain", "runs"],
        "nothing was made on the way"
    );
    bed.stop().await;
}

#[tokio::test]
async fn a_blocked_queue_refuses_and_is_unblocked() {
    let bed = Bed::new().await;
    bed.enqueue("plain", json!([{ "id": "m", "payload": 1 }])).await;
    let blocked = json!({ "enqueue_blocked": true, "dequeue_blocked": true });
    assert_eq!(bed.put(Method::PATCH, "plain", &blocked).await.status, 200);
    let message = json!({ "messages": [{ "payload": 1 }] });
    bed.say("plain/messages", &message)
        .await
        .is_problem(409, "queue-blocked");
    bed.say("plain/lease", &json!({}))
        .await
        .is_problem(409, "queue-blocked");
    assert_eq!(bed.counts("plain").await, "pending 1");
    let open = json!({ "enqueue_blocked": false, "dequeue_blocked": false });
    let shown = bed.put(Method::PATCH, "plain", &open).await;
    assert_eq!(shown.json["settings"]["dequeue_blocked"], false);
    let leased = bed.say("plain/lease", &json!({})).await;
    assert_eq!(leased.json["messages"][0]["id"], "m");
    bed.stop().await;
}

#[tokio::test]
async fn a_batch_stands_message_by_message() {
    let bed = Bed::new().await;
    let body = json!({ "messages": [
        { "id": "good", "payload": 1 },
        { "id": "large", "payload": "x".repeat(33 * 1024) },
    ] });
    let answer = bed.say("plain/messages", &body).await;
    assert_eq!(
        (answer.status, &answer.json["refused"]),
        (200, &json!(1)),
        "{answer:?}"
    );
    assert_eq!(outcomes(&answer), ["enqueued", "refused"]);
    assert_eq!(answer.json["outcomes"][1]["problem"]["code"], "payload-too-large");
    assert_eq!(bed.counts("plain").await, "pending 1");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_consumer_is_given_the_next_message() {
    let bed = Bed::new().await;
    bed.put(Method::PUT, "plain", &json!({})).await;
    let wait = json!({ "wait_ms": 20_000 });
    let (leased, ()) = tokio::join!(bed.say("plain/lease", &wait), async {
        bed.enqueue("plain", json!([{ "id": "m", "payload": 1 }])).await;
    });
    assert_eq!(leased.json["messages"][0]["id"], "m", "{leased:?}");
    bed.stop().await;
}

/// A connection on which a lease was asked for, and nothing is read.
async fn asking(bed: &Bed, body: &Value) -> tokio::net::TcpStream {
    let address = bed.url.trim_start_matches("http://");
    let body = body.to_string();
    let request = format!(
        "POST /v1/queues/plain/lease HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = tokio::net::TcpStream::connect(address)
        .await
        .expect("the server listens");
    connection
        .write_all(request.as_bytes())
        .await
        .expect("the server reads");
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_goes_away_while_it_waits_keeps_nothing() {
    let bed = Bed::new().await;
    bed.put(Method::PUT, "plain", &json!({ "lease_ms": 600_000 }))
        .await;
    let mut gone = asking(&bed, &json!({ "wait_ms": 30_000 })).await;
    gone.shutdown().await.expect("the end is told");
    assert_eq!(gone.read(&mut [0; 16]).await.ok(), Some(0), "the server hangs up");
    bed.enqueue("plain", json!([{ "id": "m", "payload": 1 }])).await;
    let leased = bed.say("plain/lease", &json!({ "wait_ms": 20_000 })).await;
    let message = &leased.json["messages"][0];
    assert_eq!((&message["id"], &message["attempt"]), (&json!("m"), &json!(1)));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_take_its_answer_keeps_nothing() {
    let bed = Bed::new().await;
    bed.put(Method::PUT, "plain", &json!({ "lease_ms": 600_000 }))
        .await;
    // More than the buffers between the server and a client that does not read.
    let payload = "x".repeat(32 * 1024 - 2);
    for batch in 0..4 {
        let messages = (0..200).map(|at| json!({ "id": format!("{batch}-{at}"), "payload": payload }));
        bed.enqueue("plain", messages.collect()).await;
    }
    let mut gone = asking(&bed, &json!({ "max": 800 })).await;
    let mut begin = [0; 12];
    gone.read_exact(&mut begin).await.expect("an answer begins");
    assert_eq!(&begin, b"HTTP/1.1 200");
    assert_eq!(bed.counts("plain").await, "running 800");
    drop(gone);
    let leased = bed.say("plain/lease", &json!({ "wait_ms": 20_000 })).await;
    assert_eq!(leased.json["messages"][0]["attempt"], 1, "no attempt is burned");
    bed.stop().await;
}
