//! Every refusal of the queue as a problem with its own code.

use axum::http::StatusCode;
use celesta_queue::{ConfigureError, EnqueueError, Error, ExtendError, LeaseError, MessageError, StaleToken};

use crate::problem::Problem;

/// A request that is understood and not allowed.
pub(crate) fn unprocessable(code: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, title, detail)
}

fn conflict(code: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::CONFLICT, code, title, detail)
}

fn later(code: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, title, detail)
}

fn not_found(code: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, code, title, detail)
}

pub(crate) fn no_such_queue(queue: &str) -> Problem {
    not_found(
        "no-such-queue",
        "there is no such queue",
        format!("there is no queue `{queue}`"),
    )
}

pub(crate) fn no_such_message(detail: impl Into<String>) -> Problem {
    not_found("no-such-message", "there is no such message", detail)
}

pub(crate) fn batch_out_of_range(detail: impl Into<String>) -> Problem {
    unprocessable("batch-out-of-range", "too few or too many in one call", detail)
}

pub(crate) fn invalid_message(detail: impl Into<String>) -> Problem {
    unprocessable("invalid-message", "a part of the message is not allowed", detail)
}

pub(crate) fn payload_too_large(bytes: usize, max: usize) -> Problem {
    let detail = format!(
        "the payload has {bytes} bytes; at most {max} are allowed, larger values travel as artifacts"
    );
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "payload-too-large",
        "the payload is too large",
        detail,
    )
}

pub(crate) fn lease_out_of_range(detail: impl Into<String>) -> Problem {
    unprocessable("lease-out-of-range", "the lease is too short or too long", detail)
}

pub(crate) fn enqueue(error: &EnqueueError) -> Problem {
    let detail = error.to_string();
    match error {
        EnqueueError::PayloadTooLarge { bytes, max, .. } => payload_too_large(*bytes, *max),
        EnqueueError::MissingKey { .. } => {
            unprocessable("missing-key", "the message has no exclusivity key", detail)
        }
        EnqueueError::Blocked { .. } => conflict("queue-blocked", "the queue is blocked", detail),
        EnqueueError::OutOfRange { .. } => invalid_message(detail),
        EnqueueError::BatchTooLarge { .. } => batch_out_of_range(detail),
        EnqueueError::Full { .. } => later("queue-full", "there is no room", detail),
        EnqueueError::InFlight { .. } => in_flight(detail),
        EnqueueError::Queue { source, .. } => configure(source),
    }
}

fn in_flight(detail: impl Into<String>) -> Problem {
    later("message-in-flight", "the message is being changed", detail)
}

pub(crate) fn lease(error: &LeaseError) -> Problem {
    let detail = error.to_string();
    match error {
        LeaseError::UnknownQueue { queue } => no_such_queue(queue.as_str()),
        LeaseError::Blocked { .. } => conflict("queue-blocked", "the queue is blocked", detail),
        LeaseError::LeaseOutOfRange { .. } => lease_out_of_range(detail),
        LeaseError::BatchOutOfRange { .. } | LeaseError::FilterTooLarge { .. } => batch_out_of_range(detail),
        LeaseError::WrongKind { .. } => conflict("wrong-queue-kind", "the queue has no keys", detail),
        LeaseError::Unreadable { .. } | LeaseError::Stopping => Problem::failure(error.kind(), error),
    }
}

pub(crate) fn stale(error: &StaleToken) -> Problem {
    conflict("stale-lease", "the lease is over", error.to_string())
}

pub(crate) fn extend(error: &ExtendError) -> Problem {
    match error {
        ExtendError::Stale(stale) => self::stale(stale),
        ExtendError::LeaseOutOfRange { .. } => lease_out_of_range(error.to_string()),
    }
}

pub(crate) fn message(error: &MessageError) -> Problem {
    let detail = error.to_string();
    match error {
        MessageError::Unknown { .. } => no_such_message(detail),
        MessageError::Illegal { .. } => conflict(
            "illegal-message-state",
            "the message's state does not allow this",
            detail,
        ),
        MessageError::Busy { .. } => in_flight(detail),
    }
}

pub(crate) fn configure(error: &ConfigureError) -> Problem {
    let detail = error.to_string();
    match error {
        ConfigureError::OutOfRange { .. } => {
            unprocessable("invalid-settings", "a setting is not allowed", detail)
        }
        ConfigureError::KindInUse { .. } | ConfigureError::ShardsInUse { .. } => {
            conflict("queue-in-use", "the queue holds messages", detail)
        }
        ConfigureError::TooManyQueues { .. } => later("too-many-queues", "there are too many queues", detail),
    }
}

pub(crate) fn whole(error: &Error) -> Problem {
    match error {
        Error::BatchTooLarge { .. } => batch_out_of_range(error.to_string()),
        Error::Commit(_) | Error::Query(_) | Error::Corrupt { .. } => Problem::failure(error.kind(), error),
    }
}
