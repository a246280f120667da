//! One answer made of those of all partitions, for what belongs to a service as a whole.
//!
//! The same thing has the same id in every partition (the front gives it, [`GIVEN_ID`]), so its parts are found: counts
//! are added, its state is that of the part that is least done, lists have one row for it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use celesta_types::ErrorKind;
use serde_json::{Map, Value};

use crate::problem::Problem;

/// The id of what a request begins in several partitions: 32 hexadecimal digits.
pub(crate) const GIVEN_ID: HeaderName = HeaderName::from_static("celesta-id");
/// Bytes of one partition's answer.
const ANSWERS_MAX: usize = 16 << 20;
/// Rows of a page unless asked for otherwise, as each partition has it.
const ROWS: usize = 100;
/// What is added up.
const COUNTS: [&str; 8] = [
    "done", "missed", "moved", "refused", "runs", "seen", "still", "told",
];
/// States of operations and sweeps: while one part is in an earlier one of these, the whole is.
const STATES: [&str; 6] = ["running", "pending", "previewed", "paused", "aborted", "done"];

/// The id that the front gives to what a request begins; none where there is one partition.
pub(crate) fn given_id(headers: &HeaderMap) -> Option<u128> {
    let id = headers.get(GIVEN_ID)?.to_str().ok()?;
    u128::from_str_radix(id, 16).ok()
}

/// Makes one answer of `answers`; `uri` is what was asked. A failure of one partition is the answer; one that knows nothing
/// of an id is not heard of when others do, nor is, for a step of what has parts, one whose part has ended.
pub(super) async fn united(uri: &Uri, answers: Vec<Response>) -> Response {
    let is_step = step_of(uri.path()).is_some();
    let rank = |status: StatusCode| match status {
        status if status.is_server_error() => 0,
        StatusCode::CONFLICT if is_step => 3,
        status if status.is_success() => 2,
        StatusCode::NOT_FOUND => 4,
        _ => 1,
    };
    let best = answers.iter().map(|answer| rank(answer.status())).min();
    let mut chosen = answers
        .into_iter()
        .filter(|answer| Some(rank(answer.status())) == best);
    let Some(first) = chosen.next() else {
        return Problem::failure(ErrorKind::Internal, &"there is no partition").into_response();
    };
    if best != Some(2) {
        return first;
    }
    let (mut head, body) = first.into_parts();
    let bytes = match whole_answer(body).await {
        Ok(bytes) => bytes,
        Err(broken) => return broken,
    };
    let Ok(mut whole) = serde_json::from_slice::<Value>(&bytes) else {
        return Response::from_parts(head, Body::from(bytes));
    };
    let mut pages = Vec::new();
    for other in chosen {
        let bytes = match whole_answer(other.into_body()).await {
            Ok(bytes) => bytes,
            Err(broken) => return broken,
        };
        let Ok(other) = serde_json::from_slice::<Value>(&bytes) else {
            continue;
        };
        if whole.get("rows").is_some() {
            pages.push(other);
        } else {
            merge(&mut whole, other);
        }
    }
    if whole.get("rows").is_some() {
        pages.insert(0, whole);
        whole = page(pages, limit(uri));
    }
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(whole.to_string()))
}

/// The body of a partition's answer; a failure when it breaks off: what it says is not known.
pub(super) async fn whole_answer(body: Body) -> Result<Bytes, Response> {
    let read = axum::body::to_bytes(body, ANSWERS_MAX).await;
    read.map_err(|error| {
        let reason = format!("a partition's answer broke off ({error}); ask again");
        Problem::failure(ErrorKind::Unavailable, &reason).into_response()
    })
}

/// What a step is done to, as the path that shows it, when `path` is that of a step.
pub(super) fn step_of(path: &str) -> Option<&str> {
    let (thing, step) = path.rsplit_once('/')?;
    let mut segments = thing.strip_prefix("/v1/")?.split('/');
    let known = matches!(segments.next(), Some("operations" | "sweeps")) && segments.next().is_some();
    (known && matches!(step, "pause" | "resume" | "abort")).then_some(thing)
}

fn limit(uri: &Uri) -> usize {
    let pairs = uri.query().unwrap_or_default().split('&');
    let limit = pairs.filter_map(|pair| pair.strip_prefix("limit=")).next_back();
    limit.and_then(|limit| limit.parse().ok()).unwrap_or(ROWS)
}

/// Adds the part `other` to `whole`.
fn merge(whole: &mut Value, other: Value) {
    let (Value::Object(whole), Value::Object(other)) = (whole, other) else {
        return;
    };
    // The place of a part is not that of the whole.
    whole.remove("bookmark");
    merge_end(whole, &other);
    for (name, value) in other {
        let Some(known) = whole.get_mut(&name) else {
            continue;
        };
        match name.as_str() {
            name if COUNTS.contains(&name) => *known = sum(known, &value),
            "state" if place(&value) < place(known) => *known = value,
            "created_at" if value.as_i64() < known.as_i64() => *known = value,
            "updated_at" if value.as_i64() > known.as_i64() => *known = value,
            "existing" => *known = Value::Bool(known == &Value::Bool(true) && value == Value::Bool(true)),
            "sweep" if known.is_null() => *known = value,
            "rules" => {
                if let (Value::Array(known), Value::Array(more)) = (known, value) {
                    let new = more.into_iter().filter(|rule| !known.contains(rule));
                    let new: Vec<Value> = new.collect();
                    known.extend(new);
                }
            }
            "operation" => merge(known, value),
            _ => {}
        }
    }
}

/// The whole has ended when all of its parts have, with the last of them.
fn merge_end(whole: &mut Map<String, Value>, other: &Map<String, Value>) {
    let Some(end) = whole.remove("ended_at") else {
        return;
    };
    let other = other.get("ended_at").and_then(Value::as_i64);
    match (end.as_i64(), other) {
        (Some(one), Some(another)) => {
            whole.insert("ended_at".to_owned(), one.max(another).into());
        }
        (None, _) => drop(whole.insert("ended_at".to_owned(), Value::Null)),
        (Some(_), None) => {}
    }
}

/// The sum; nothing while one of them is not known.
fn sum(one: &Value, another: &Value) -> Value {
    match (one.as_u64(), another.as_u64()) {
        (Some(one), Some(another)) => (one.saturating_add(another)).into(),
        _ => Value::Null,
    }
}

fn place(state: &Value) -> usize {
    let found = STATES.iter().position(|known| Some(*known) == state.as_str());
    found.unwrap_or(STATES.len())
}

/// What a row is of, and how rows follow each other: things begun (by id), the newest first; facts and runs in their order;
/// what holds for workflows by their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Begun(std::cmp::Reverse<String>),
    Fact(u64),
    Run(String),
    Other(String),
}

fn name(row: &Value) -> Name {
    let text = |field: &str| row.get(field).and_then(Value::as_str);
    if let Some(id) = text("id") {
        return Name::Begun(std::cmp::Reverse(id.to_owned()));
    }
    if let Some(fact) = row.get("fact").and_then(Value::as_u64) {
        return Name::Fact(fact);
    }
    if let Some(run) = text("run") {
        return Name::Run(run.to_owned());
    }
    let parts = ["service", "workflow", "kind", "rule"].map(|part| text(part).unwrap_or_default());
    Name::Other(parts.join("\n"))
}

/// One page of the pages of all partitions.
fn page(pages: Vec<Value>, limit: usize) -> Value {
    let mut more = false;
    let mut rows: BTreeMap<Name, Value> = BTreeMap::new();
    // Beyond the end of a page that is not the last one its partition has rows that are not here.
    let mut until: Option<Name> = None;
    for mut page in pages {
        let unfinished = page.get("next").is_some_and(|next| !next.is_null());
        let Some(Value::Array(own)) = page.get_mut("rows").map(Value::take) else {
            continue;
        };
        if let Some(last) = own.last().filter(|_| unfinished).map(name) {
            more = true;
            until = Some(match until {
                Some(until) => until.min(last),
                None => last,
            });
        }
        for row in own {
            match rows.entry(name(&row)) {
                std::collections::btree_map::Entry::Occupied(mut known) => merge(known.get_mut(), row),
                std::collections::btree_map::Entry::Vacant(free) => drop(free.insert(row)),
            }
        }
    }
    if let Some(until) = until {
        rows.retain(|name, _| name.cmp(&until) != Ordering::Greater);
    }
    more |= rows.len() > limit;
    let rows: Vec<(Name, Value)> = rows.into_iter().take(limit).collect();
    let next = rows.last().filter(|_| more).map(|(name, _)| match name {
        Name::Begun(id) => Value::String(id.0.clone()),
        Name::Fact(fact) => Value::String(fact.to_string()),
        Name::Run(text) | Name::Other(text) => Value::String(text.clone()),
    });
    let mut page = Map::new();
    page.insert("rows".to_owned(), rows.into_iter().map(|(_, row)| row).collect());
    if let Some(next) = next {
        page.insert("next".to_owned(), next);
    }
    Value::Object(page)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn read(path: &'static str, answers: Vec<(u16, Value)>) -> (u16, Value) {
        let answers = answers.into_iter().map(|(status, body)| {
            let mut answer = Response::new(Body::from(body.to_string()));
            *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
            answer
        });
        let answer = united(&Uri::from_static(path), answers.collect()).await;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 10_000)
            .await
            .expect("a body");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn what_one_partition_does_not_know_another_may() {
        let found = vec![(404, json!("no")), (200, json!({ "id": "1" }))];
        assert_eq!(read("/v1/sweeps/1", found).await, (200, json!({ "id": "1" })));
        let failed = vec![(200, json!({})), (503, json!("away"))];
        assert_eq!(read("/v1/sweeps/1", failed).await, (503, json!("away")));
        let refused = vec![(200, json!({})), (409, json!("no"))];
        assert_eq!(read("/v1/services/s/facts", refused).await, (409, json!("no")));
        // A part that has ended does not keep the others from being stopped.
        let stopped = vec![(409, json!("done")), (200, json!({ "state": "paused" }))];
        assert_eq!(
            read("/v1/operations/1/pause", stopped).await,
            (200, json!({ "state": "paused" }))
        );
        let over = vec![(409, json!("done")), (404, json!("no"))];
        assert_eq!(read("/v1/operations/1/pause", over).await, (409, json!("done")));
    }

    #[tokio::test]
    async fn parts_are_added_up() {
        let part = |state: &str, seen: u64, at: i64, ended: Option<i64>| {
            json!({
                "id": "9", "state": state, "seen": seen, "done": seen, "rate": 1_000, "updated_at": at,
                "created_at": at, "ended_at": ended, "bookmark": "r",
            })
        };
        let parts = vec![
            (200, part("done", 3, 20, Some(20))),
            (200, part("running", 4, 30, None)),
            (200, part("done", 5, 10, Some(10))),
        ];
        let whole = json!({
            "id": "9", "state": "running", "seen": 12, "done": 12, "rate": 1_000, "updated_at": 30,
            "created_at": 10,
        });
        assert_eq!(read("/v1/operations/9", parts).await, (200, whole));
        let ended = vec![
            (200, part("done", 3, 1, Some(1))),
            (200, part("aborted", 4, 2, Some(2))),
        ];
        let (_, whole) = read("/v1/operations/9", ended).await;
        assert_eq!(
            (&whole["state"], &whole["ended_at"]),
            (&json!("aborted"), &json!(2))
        );
        let uncounted = vec![(200, json!({ "runs": 3 })), (200, json!({ "runs": null }))];
        assert_eq!(read("/v1/sweeps/9", uncounted).await.1, json!({ "runs": null }));
        let preview = vec![
            (200, json!({ "runs": 3, "rules": ["a"] })),
            (200, json!({ "runs": 4, "rules": ["b", "a"] })),
        ];
        assert_eq!(
            read("/v1/sweeps/9/preview", preview).await.1,
            json!({ "runs": 7, "rules": ["a", "b"] })
        );
    }

    #[tokio::test]
    async fn pages_become_one_page() {
        let row = |id: &str, done: u64| json!({ "id": id, "done": done });
        let pages = || {
            vec![
                (200, json!({ "rows": [row("7", 1), row("5", 1)], "next": "5" })),
                (200, json!({ "rows": [row("7", 2), row("6", 1)], "next": "6" })),
                (200, json!({ "rows": [row("7", 4)] })),
            ]
        };
        let whole = json!({ "rows": [row("7", 7), row("6", 1)], "next": "6" });
        assert_eq!(read("/v1/operations?limit=2", pages()).await.1, whole);
        let facts = vec![
            (200, json!({ "rows": [{ "fact": 2 }, { "fact": 10 }] })),
            (200, json!({ "rows": [{ "fact": 2 }, { "fact": 10 }] })),
        ];
        assert_eq!(
            read("/v1/services/s/facts", facts).await.1,
            json!({ "rows": [{ "fact": 2 }, { "fact": 10 }] })
        );
        let orders = || vec![(200, json!({ "rows": [{ "kind": "pause", "service": "s" }] })); 3];
        let one = json!({ "rows": [{ "kind": "pause", "service": "s" }] });
        assert_eq!(read("/v1/orders?service=s", orders()).await.1, one);
    }

    #[test]
    fn steps_are_known_by_their_paths() {
        assert_eq!(step_of("/v1/operations/7/abort"), Some("/v1/operations/7"));
        assert_eq!(step_of("/v1/sweeps/7/pause"), Some("/v1/sweeps/7"));
        for path in [
            "/v1/sweeps/7",
            "/v1/sweeps/pause",
            "/v1/pauses/s/pause",
            "/v1/sweeps/7/runs",
        ] {
            assert_eq!(step_of(path), None, "{path}");
        }
    }
}
