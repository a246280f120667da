//! `/v1/services/{service}/facts`: the facts that all runs of a service read.

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use celesta_runs::{Page, SWEEP_RATE, SharedFactView, SharedWrite, WriteShared, WriteSharedError};
use celesta_types::{ErrorKind, SweepId};
use serde::Deserialize;

use crate::body::{PATIENCE, whole};
use crate::front::given_id;
use crate::problem::{Answer, Problem};
use crate::runs::{MaybeQuery, PageQuery, limit, query};
use crate::server::State;
use crate::submit::idempotency_key;
use crate::sweeps;

/// Bytes of a request: a thousand small facts, or some thirty large ones.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;

/// The partition that gets this header with a write has the others copy it, and says so with the same header.
pub(crate) const LEAD: HeaderName = HeaderName::from_static("celesta-lead");

/// What a client asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    writes: Vec<SharedWrite>,
    /// Whether the sweep waits after its preview.
    #[serde(default)]
    hold: bool,
    /// Runs told in a second.
    #[serde(default)]
    rate: Option<u32>,
    /// The sweep's id, when the same is asked of several stores.
    #[serde(default)]
    sweep: Option<SweepId>,
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
}

fn known(shared: &State, service: &str) -> Answer<()> {
    if shared.api.runtime.service(service).is_some() {
        return Ok(());
    }
    Err(no_such_service(format!("there is no service `{service}`")))
}

fn no_such_service(detail: String) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-such-service",
        "there is no such service",
        detail,
    )
}

/// The shared facts of a service.
#[utoipa::path(get, path = "/v1/services/{service}/facts", operation_id = "list_shared_facts", tag = "services",
    params(
        ("service" = String, Path, description = "The service."),
        ("type" = Option<String>, Query, description = "Only of this type."),
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<usize>, Query, description = "1 to 500, 100 unless given.")),
    responses(
        (status = 200, description = "A page of facts, each with its version.", body = serde_json::Value),
        (status = 404, description = "There is no such service.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn list(
    shared: State,
    Path(service): Path<String>,
    given: MaybeQuery<PageQuery>,
) -> Answer<Json<Page<SharedFactView>>> {
    known(&shared, &service)?;
    let given = query(given)?;
    let (after, limit) = (given.begin()?, limit(given.limit)?);
    let runtime = &shared.api.runtime;
    let page = runtime
        .list_shared(&service, given.fact_type.as_deref(), after, limit)
        .await;
    page.map(Json)
        .map_err(|error| Problem::failure(error.kind(), &error))
}

/// One shared fact.
#[utoipa::path(get, path = "/v1/services/{service}/facts/{fact}", operation_id = "show_shared_fact", tag = "services",
    params(
        ("service" = String, Path, description = "The service."),
        ("fact" = u64, Path, description = "The fact's number.")),
    responses(
        (status = 200, description = "The fact with its version.", body = serde_json::Value),
        (status = 404, description = "There is no such fact, or it was retracted.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn show(
    shared: State,
    Path((service, fact)): Path<(String, String)>,
) -> Answer<Json<SharedFactView>> {
    known(&shared, &service)?;
    let number: u64 = fact
        .parse()
        .map_err(|_| Problem::invalid_parameter(format!("`{fact}` is not the number of a fact")))?;
    let found = shared.api.runtime.shared_fact(&service, number).await;
    let found = found.map_err(|error| Problem::failure(error.kind(), &error))?;
    found.map(Json).ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-fact",
            "there is no such fact",
            format!("service `{service}` has no shared fact {number}"),
        )
    })
}

/// Write shared facts: insert, update, retract; all of them or none. A sweep tells the runs they may concern.
#[utoipa::path(post, path = "/v1/services/{service}/facts", operation_id = "write_shared_facts", tag = "services",
    params(
        ("service" = String, Path, description = "The service."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and writes count once.")),
    request_body(content = serde_json::Value, description = "`{\"writes\": [{\"insert\": \"Type\", \"fields\": {…}}, {\"update\": 3, \"version\": 2, \"fields\": {…}}, {\"retract\": 4}]}`; `hold` lets the sweep wait after its preview, `rate` is runs a second, `dry_run` only says what would happen, `sweep` and a `fact` beside `insert` give ids."),
    responses(
        (status = 200, description = "They are durable, or what would happen: the facts and their versions, the sweep, the rules that may fire.", body = serde_json::Value),
        (status = 404, description = "There is no such service.", body = crate::openapi::ProblemBody),
        (status = 409, description = "A fact has another version, or a bound would be exceeded.", body = crate::openapi::ProblemBody),
        (status = 422, description = "A write is wrong.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn write(
    shared: State,
    Path(service): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let too_large = || {
        let detail = format!("the body has more than {BODY_BYTES_MAX} bytes; write in parts");
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "the body is too large",
            detail,
        )
    };
    let body = whole(&shared.api.clock, body, BODY_BYTES_MAX, PATIENCE, too_large).await?;
    let asked: Request = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    let request = WriteShared {
        writes: asked.writes,
        idempotency_key: idempotency_key(&headers)?,
        sweep: asked.sweep.or_else(|| given_id(&headers).map(SweepId::from_bits)),
        hold: asked.hold,
        rate: asked.rate.unwrap_or(SWEEP_RATE),
        dry_run: asked.dry_run,
    };
    let runtime = &shared.api.runtime;
    if !headers.contains_key(LEAD) {
        let written = runtime.write_shared(&service, request).await;
        return Ok(Json(written.map_err(refused)?).into_response());
    }
    let written = runtime.lead_shared(&service, request).await;
    let mut response = Json(written.map_err(refused)?).into_response();
    response.headers_mut().insert(LEAD, HeaderValue::from_static("1"));
    Ok(response)
}

fn invalid(detail: String) -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "invalid-writes",
        "the writes are not what writes are",
        detail,
    )
}

fn refused(error: WriteSharedError) -> Problem {
    let detail = error.to_string();
    match error {
        WriteSharedError::UnknownService { .. } => no_such_service(detail),
        WriteSharedError::Invalid { .. } | WriteSharedError::Count { .. } => invalid(detail),
        WriteSharedError::Conflict { .. } => Problem::new(
            StatusCode::CONFLICT,
            "fact-conflict",
            "a fact is not as the writer thought",
            detail,
        ),
        WriteSharedError::TooMuch { .. } => Problem::new(
            StatusCode::CONFLICT,
            "too-many-facts",
            "the service would have too many shared facts",
            detail,
        ),
        WriteSharedError::IdempotencyConflict => Problem::new(
            StatusCode::CONFLICT,
            "idempotency-conflict",
            "the key was used with another body",
            detail,
        ),
        WriteSharedError::Sweep(error) => sweeps::refused(error),
        WriteSharedError::Unavailable { .. } => Problem::failure(ErrorKind::Unavailable, &detail),
    }
}
