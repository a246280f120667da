//! `GET /v1/runs/{run}/events`: what happens to a run, as server-sent events that can be resumed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Path;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use celesta_runs::{EventStream, RunEvent};
use celesta_runtime::Shutdown;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;

use crate::guard::overloaded;
use crate::problem::{Answer, Problem};
use crate::runs::{found, run_id};
use crate::server::State;
use crate::submit::text;

/// A silent stream says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Follow a run.
#[utoipa::path(get, path = "/v1/runs/{run}/events", operation_id = "follow_run", tag = "runs",
    params(
        ("run" = String, Path, description = "The run's id."),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on after this event.")),
    responses(
        (status = 200, description = "Events `turn`, `progress`, `log`, `emit`, then `completed`, `failed`, `canceled` or `quarantined`; the id is `turn.index`.", content_type = "text/event-stream"),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn events(
    shared: State,
    Path(run): Path<String>,
    headers: HeaderMap,
) -> Answer<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    let id = run_id(&run)?;
    let after = position(text(&headers, "last-event-id")?)?;
    found(&shared, id).await?;
    let room = Arc::clone(&shared.streams).try_acquire_owned();
    let room =
        room.map_err(|_| overloaded("as many event streams are open as this server takes; try again"))?;
    // The turn of the last event is told again, as far as it was not told.
    let events = shared
        .api
        .runtime
        .events(id, after.map_or(0, |(seq, _)| seq.saturating_sub(1)));
    let told = after.unwrap_or((0, 0));
    let skip = after.is_some();
    let batches = stream::unfold((events, shared.shutdown.clone(), room), next);
    let events = batches.flat_map(stream::iter).filter(move |event| {
        let wanted = !skip || (event.seq, event.index) > told;
        async move { wanted }
    });
    Ok(Sse::new(events.map(|event| Ok(as_sse(&event)))).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

type Source = (EventStream, Shutdown, OwnedSemaphorePermit);

/// The next batch; the stream ends with the run, with the server, or when the run cannot be read.
async fn next((mut events, shutdown, room): Source) -> Option<(Vec<RunEvent>, Source)> {
    let batch = tokio::select! {
        batch = events.next() => batch,
        () = shutdown.requested() => Ok(None),
    };
    match batch {
        Ok(batch) => batch.map(|batch| (batch, (events, shutdown, room))),
        Err(error) => {
            tracing::error!(%error, "an event stream ends early");
            None
        }
    }
}

fn as_sse(event: &RunEvent) -> Event {
    Event::default()
        .id(format!("{}.{}", event.seq, event.index))
        .event(event.kind)
        .data(event.data.get())
}

fn position(id: Option<&str>) -> Answer<Option<(u64, u32)>> {
    let Some(id) = id else { return Ok(None) };
    let parsed = id
        .split_once('.')
        .and_then(|(seq, index)| Some((seq.parse().ok()?, index.parse().ok()?)));
    parsed.map(Some).ok_or_else(|| {
        Problem::invalid_header(format!(
            "`Last-Event-ID: {id}` is not the id of an event, `turn.index`"
        ))
    })
}
