//! What consumers say of their leases: done, failed, longer, given back.

use axum::body::Body;
use axum::extract::Path;
use axum::http::HeaderMap;
use celesta_queue::limits::DELAY_MS_MAX;
use celesta_queue::{Failed, Failure, LeaseRef, QueueName};
use serde_json::json;

use super::outcomes::Outcomes;
use super::shapes::{self, Extend, Fail, Held, Settle};
use super::{open_to_all, refuse};
use crate::problem::Answer;
use crate::server::State;

/// Complete leased messages. That is durable when the answer comes.
#[utoipa::path(post, path = "/v1/queues/{queue}/complete", operation_id = "complete_messages", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body = Settle,
    responses(
        (status = 200, description = "An outcome for each lease: `completed` or `refused` with its `problem`.", body = serde_json::Value),
        (status = "4XX", description = "Every lease was refused, the first one for this reason.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn complete(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let queue = open_to_all(&queue)?;
    let Settle { leases } = shapes::read(&shared, &headers, body).await?;
    let taken = shared.api.queues.complete(&refs(&queue, &leases)?).await;
    let taken = taken.map_err(|error| refuse::whole(&error))?;
    let mut outcomes = Outcomes::default();
    for (held, outcome) in leases.iter().zip(taken) {
        match outcome {
            Ok(()) => outcomes.done(&held.id, "completed", None),
            Err(error) => outcomes.refuse(&held.id, refuse::stale(&error)),
        }
    }
    outcomes.answer()
}

/// Say that the work of leases has failed: each message is tried again, or is a dead letter. Durable when the answer comes.
#[utoipa::path(post, path = "/v1/queues/{queue}/fail", operation_id = "fail_messages", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body = Fail,
    responses(
        (status = 200, description = "An outcome for each lease: `retried` with `visible_at`, `errored`, or `refused` with its `problem`.", body = serde_json::Value),
        (status = "4XX", description = "Every lease was refused, the first one for this reason.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn fail(shared: State, Path(queue): Path<String>, headers: HeaderMap, body: Body) -> Answer {
    let queue = open_to_all(&queue)?;
    let Fail { leases } = shapes::read(&shared, &headers, body).await?;
    shapes::batch("leases", leases.len())?;
    if let Some(wrong) = leases
        .iter()
        .find(|lease| !(0..=DELAY_MS_MAX).contains(&lease.delay_ms))
    {
        return Err(refuse::invalid_message(format!(
            "delay_ms is {}; expected 0 to {DELAY_MS_MAX}",
            wrong.delay_ms
        )));
    }
    let failures = leases.iter().map(|lease| Failure {
        lease: shapes::lease_ref(&queue, &lease.id, &lease.token),
        retryable: lease.retryable,
        delay_ms: lease.delay_ms,
        error: lease.error.clone(),
    });
    let taken = shared.api.queues.fail(failures.collect()).await;
    let taken = taken.map_err(|error| refuse::whole(&error))?;
    let mut outcomes = Outcomes::default();
    for (lease, outcome) in leases.iter().zip(taken) {
        match outcome {
            Ok(Failed::Retried { visible_at }) => {
                outcomes.done(&lease.id, "retried", Some(("visible_at", json!(visible_at))));
            }
            Ok(Failed::Errored) => outcomes.done(&lease.id, "errored", None),
            Err(error) => outcomes.refuse(&lease.id, refuse::stale(&error)),
        }
    }
    outcomes.answer()
}

/// Have leases hold longer.
#[utoipa::path(post, path = "/v1/queues/{queue}/extend", operation_id = "extend_leases", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body = Extend,
    responses(
        (status = 200, description = "An outcome for each lease: `extended` with `leased_until`, or `refused` with its `problem`.", body = serde_json::Value),
        (status = "4XX", description = "Every lease was refused, the first one for this reason.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn extend(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let queue = open_to_all(&queue)?;
    let Extend { leases, lease_ms } = shapes::read(&shared, &headers, body).await?;
    let taken = shared.api.queues.extend(&refs(&queue, &leases)?, lease_ms).await;
    let taken = taken.map_err(|error| refuse::whole(&error))?;
    let mut outcomes = Outcomes::default();
    for (held, outcome) in leases.iter().zip(taken) {
        match outcome {
            Ok(until) => outcomes.done(&held.id, "extended", Some(("leased_until", json!(until)))),
            Err(error) => outcomes.refuse(&held.id, refuse::extend(&error)),
        }
    }
    outcomes.answer()
}

/// Give leases back untouched: the messages can be leased again at once, and no attempt is burned.
#[utoipa::path(post, path = "/v1/queues/{queue}/release", operation_id = "release_leases", tag = "queues",
    params(("queue" = String, Path, description = "The queue; a `/` in its name is written `%2F`.")),
    request_body = Settle,
    responses(
        (status = 200, description = "An outcome for each lease: `released` or `refused` with its `problem`.", body = serde_json::Value),
        (status = "4XX", description = "Every lease was refused, the first one for this reason.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn release(
    shared: State,
    Path(queue): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let queue = open_to_all(&queue)?;
    let Settle { leases } = shapes::read(&shared, &headers, body).await?;
    let taken = shared.api.queues.release(&refs(&queue, &leases)?).await;
    let taken = taken.map_err(|error| refuse::whole(&error))?;
    let mut outcomes = Outcomes::default();
    for (held, outcome) in leases.iter().zip(taken) {
        match outcome {
            Ok(()) => outcomes.done(&held.id, "released", None),
            Err(error) => outcomes.refuse(&held.id, refuse::stale(&error)),
        }
    }
    outcomes.answer()
}

fn refs(queue: &QueueName, leases: &[Held]) -> Answer<Vec<LeaseRef>> {
    shapes::batch("leases", leases.len())?;
    let refs = leases
        .iter()
        .map(|held| shapes::lease_ref(queue, &held.id, &held.token));
    Ok(refs.collect())
}
