//! What clients ask by events: a run, or a fact of a run. An event is known by its id, so it may be sent again.

use celesta_runs::{CloudEvent, PublishError, Published, Runtime};
use celesta_types::{ErrorKind, RunId};
use serde_json::{Value, json};

use super::{Answer, Refusal, TRY};
use crate::node::Waiting;

/// Where the simulation's events come from.
const SOURCE: &str = "/sim";

/// The event with which a client asks for a run.
pub(super) fn asking(event_type: &str, request: usize, tried: usize, input: &str) -> Value {
    let input: Value = serde_json::from_str(input).unwrap_or_default();
    json!({
        "specversion": "1.0", "source": SOURCE, "type": event_type, "id": format!("request-{request}"),
        TRY: tried.to_string(), "data": input,
    })
}

/// The event that tells a run of a note.
pub(super) fn telling(run: RunId, note: usize) -> Value {
    json!({
        "specversion": "1.0", "source": SOURCE, "type": "sim.note", "id": format!("note-{note}"),
        "subject": run.to_string(), "data": { "n": note },
    })
}

pub(super) fn publish_request(runtime: &Runtime, event: Value) -> Waiting<Answer> {
    let published = publish(runtime.clone(), event);
    Box::pin(async move { Answer::Run(published.await) })
}

pub(super) fn publish_note(runtime: &Runtime, event: Value) -> Waiting<Answer> {
    let published = publish(runtime.clone(), event);
    Box::pin(async move { Answer::Note(published.await.map(|_| None)) })
}

/// The run that the event is about; none when it counted before.
async fn publish(runtime: Runtime, event: Value) -> Result<Option<RunId>, Refusal> {
    let event = CloudEvent::read(event).map_err(|error| Refusal::of(ErrorKind::Internal, error))?;
    let refused = |error: PublishError| Refusal::of(error.kind(), error);
    let published = runtime.publish(&[event]).await.map_err(refused)?;
    match published.first() {
        Some(Published { duplicate: true, .. }) => Ok(None),
        Some(Published { deliveries, .. }) => match deliveries.as_slice() {
            [delivery] => match (&delivery.run, &delivery.error) {
                (Some(run), None) => Ok(Some(*run)),
                (_, error) => Err(Refusal::of(
                    ErrorKind::NotFound,
                    error.as_deref().unwrap_or("it came to nothing"),
                )),
            },
            other => Err(Refusal::of(
                ErrorKind::Internal,
                format!("one subscription is expected, found {other:?}"),
            )),
        },
        None => Err(Refusal::of(ErrorKind::Internal, "nothing is said of the event")),
    }
}
