//! Probes and metrics.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use celesta_types::ErrorKind;

use crate::problem::{Answer, Problem};
use crate::server::State;

/// The process is alive.
#[utoipa::path(get, path = "/healthz", operation_id = "alive", tag = "health", responses((status = 200, description = "The process is alive.")))]
pub(crate) async fn alive() -> &'static str {
    "ok\n"
}

/// The process takes requests: its store answers and it is not stopping.
#[utoipa::path(get, path = "/readyz", operation_id = "ready", tag = "health", responses(
    (status = 200, description = "Requests are taken."),
    (status = 503, description = "The store does not answer, or the process is stopping."),
))]
pub(crate) async fn ready(shared: State) -> Answer {
    let leaving = shared
        .partitions
        .as_ref()
        .is_some_and(celesta_runs::Partitions::is_leaving);
    if leaving || shared.shutdown.is_requested() {
        return Err(Problem::failure(
            ErrorKind::Unavailable,
            &"the server is stopping",
        ));
    }
    shared
        .api
        .store
        .fetch("SELECT 1", &[])
        .await
        .map_err(|error| Problem::failure(error.kind(), &error))?;
    Ok((StatusCode::OK, "ready\n").into_response())
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "health", responses((status = 200, description = "Prometheus text format.")))]
pub(crate) async fn metrics() -> Response {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        celesta_runtime::metrics::render(),
    )
        .into_response()
}
