//! `/v1/runs`: lists, views, and what people do to runs.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use celesta_runs::{
    CallView, ExplainError, FactView, LoadError, PAGE_ROWS_MAX, Page, RunFilter, RunView, TurnView,
};
use celesta_types::{CallId, RunId, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::artifacts;
use crate::problem::{Answer, Problem};
use crate::server::State;
use crate::submit::{label, wait};

/// Rows of a page unless the client says otherwise.
const PAGE_ROWS: usize = 100;

/// The query of a list of runs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    service: Option<String>,
    workflow: Option<String>,
    operation: Option<String>,
    state: Option<String>,
    label: Option<String>,
    created_after: Option<String>,
    created_before: Option<String>,
    archived: Option<bool>,
    cursor: Option<String>,
    limit: Option<usize>,
}

/// The query of a page of one run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    after: Option<String>,
    cursor: Option<String>,
    pub(crate) limit: Option<usize>,
    #[serde(rename = "type")]
    pub(crate) fact_type: Option<String>,
}

/// The query of an explanation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainQuery {
    rule: String,
}

pub(crate) fn run_id(text: &str) -> Answer<RunId> {
    text.parse().map_err(Problem::invalid_parameter)
}

pub(crate) fn query<T>(query: Result<Query<T>, axum::extract::rejection::QueryRejection>) -> Answer<T> {
    query
        .map(|Query(query)| query)
        .map_err(|error| Problem::invalid_parameter(error.body_text()))
}

pub(crate) type MaybeQuery<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

pub(crate) fn limit(given: Option<usize>) -> Answer<usize> {
    match given {
        None => Ok(PAGE_ROWS),
        Some(limit) if (1..=PAGE_ROWS_MAX).contains(&limit) => Ok(limit),
        Some(limit) => Err(Problem::invalid_parameter(format!(
            "limit is {limit}; expected 1 to {PAGE_ROWS_MAX}"
        ))),
    }
}

pub(crate) fn instant(name: &str, text: Option<&String>) -> Answer<Option<Timestamp>> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(millis) = text.parse() {
        return Ok(Some(Timestamp::from_millis(millis)));
    }
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    let parsed = parsed.map_err(|error| {
        Problem::invalid_parameter(format!("{name}: `{text}` is not an instant: {error}"))
    })?;
    Ok(Some(Timestamp::from_millis(parsed.as_millisecond())))
}

impl PageQuery {
    /// The `next` of the page before.
    pub(crate) fn after(&self) -> Option<&str> {
        self.after.as_deref().or(self.cursor.as_deref())
    }

    /// Where the page begins: `after` and `cursor` are the same thing under two names.
    pub(crate) fn begin<T: std::str::FromStr + Default>(&self) -> Answer<T> {
        let Some(text) = self.after() else {
            return Ok(T::default());
        };
        text.parse().map_err(|_| {
            Problem::invalid_parameter(format!(
                "`{text}` is not where a page begins; give the `next` of the page before"
            ))
        })
    }
}

pub(crate) fn unreadable(error: &LoadError) -> Problem {
    Problem::failure(error.kind(), error)
}

/// List runs, the newest first.
#[utoipa::path(get, path = "/v1/runs", operation_id = "list_runs", tag = "runs",
    params(
        ("service" = Option<String>, Query, description = "Only of this service."),
        ("workflow" = Option<String>, Query, description = "Only of this workflow."),
        ("operation" = Option<String>, Query, description = "Only of this operation."),
        ("state" = Option<String>, Query, description = "running, idle, completed, failed, canceled, quarantined, paused or waiting."),
        ("label" = Option<String>, Query, description = "Only with this label, `key=value`."),
        ("created_after" = Option<String>, Query, description = "RFC 3339 or milliseconds since the epoch."),
        ("created_before" = Option<String>, Query, description = "RFC 3339 or milliseconds since the epoch."),
        ("archived" = Option<bool>, Query, description = "`true`: archived runs, and only those. A page looks at 2,000 of them at most, so it may be short or empty and still have a `next`."),
        ("cursor" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<usize>, Query, description = "1 to 500, 100 unless given.")),
    responses(
        (status = 200, description = "A page of runs.", body = crate::openapi::RunPage),
        (status = 400, description = "A parameter is wrong.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn list(shared: State, given: MaybeQuery<ListQuery>) -> Answer<Json<Page<RunView>>> {
    let given = query(given)?;
    let filter = RunFilter {
        created_after: instant("created_after", given.created_after.as_ref())?,
        created_before: instant("created_before", given.created_before.as_ref())?,
        label: given
            .label
            .as_deref()
            .map(label)
            .transpose()
            .map_err(Problem::invalid_parameter)?,
        state: given
            .state
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(|error: String| Problem::invalid_parameter(error))?,
        service: given.service,
        workflow: given.workflow,
        operation: given.operation,
    };
    let cursor = given.cursor.as_deref().map(run_id).transpose()?;
    let (runtime, limit) = (&shared.api.runtime, limit(given.limit)?);
    let page = if given.archived.unwrap_or(false) {
        runtime.list_archived(&filter, cursor, limit).await
    } else {
        runtime.list(&filter, cursor, limit).await
    };
    page.map(Json)
        .map_err(|error| Problem::failure(error.kind(), &error))
}

/// Show a run with its input and result.
#[utoipa::path(get, path = "/v1/runs/{run}", operation_id = "show_run", tag = "runs",
    params(
        ("run" = String, Path, description = "The run's id."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when the run has ended, or after N seconds (at most 60).")),
    responses(
        (status = 200, description = "The run.", body = crate::openapi::Run),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn show(
    shared: State,
    Path(run): Path<String>,
    headers: HeaderMap,
) -> Answer<Json<RunView>> {
    let id = run_id(&run)?;
    let Some(patience) = wait(&headers)? else {
        return found(&shared, id).await.map(Json);
    };
    let view = shared.api.runtime.wait(id, patience).await;
    view.map_err(|error| Problem::failure(error.kind(), &error))?
        .map(Json)
        .ok_or_else(|| Problem::no_such_run(id))
}

/// The run, or that there is none.
pub(crate) async fn found(shared: &State, run: RunId) -> Answer<RunView> {
    let view = shared
        .api
        .runtime
        .run(run)
        .await
        .map_err(|error| Problem::failure(error.kind(), &error))?;
    view.ok_or_else(|| Problem::no_such_run(run))
}

/// The facts of a run.
#[utoipa::path(get, path = "/v1/runs/{run}/facts", operation_id = "list_facts", tag = "runs",
    params(
        ("run" = String, Path, description = "The run's id."),
        ("type" = Option<String>, Query, description = "Only of this type."),
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<usize>, Query, description = "1 to 500, 100 unless given.")),
    responses(
        (status = 200, description = "A page of facts.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn facts(
    shared: State,
    Path(run): Path<String>,
    given: MaybeQuery<PageQuery>,
) -> Answer<Json<Page<FactView>>> {
    let (id, given) = (run_id(&run)?, query(given)?);
    let page = shared
        .api
        .runtime
        .facts(
            id,
            given.fact_type.as_deref(),
            given.begin()?,
            limit(given.limit)?,
        )
        .await;
    page.map_err(|error| unreadable(&error))?
        .map(Json)
        .ok_or_else(|| Problem::no_such_run(id))
}

/// The turns of a run: why each happened, what fired, what it asked for.
#[utoipa::path(get, path = "/v1/runs/{run}/history", operation_id = "list_turns", tag = "runs",
    params(
        ("run" = String, Path, description = "The run's id."),
        ("after" = Option<String>, Query, description = "The `next` of the page before: a turn."),
        ("limit" = Option<usize>, Query, description = "1 to 500, 100 unless given.")),
    responses(
        (status = 200, description = "A page of turns.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn history(
    shared: State,
    Path(run): Path<String>,
    given: MaybeQuery<PageQuery>,
) -> Answer<Json<Page<TurnView>>> {
    let (id, given) = (run_id(&run)?, query(given)?);
    let limit = limit(given.limit)?;
    let turns = shared.api.runtime.history(id, given.begin()?, limit).await;
    let rows = turns
        .map_err(|error| unreadable(&error))?
        .ok_or_else(|| Problem::no_such_run(id))?;
    let next = if rows.len() == limit {
        rows.last().map(|turn| turn.seq.to_string())
    } else {
        None
    };
    Ok(Json(Page { rows, next }))
}

/// The calls of a run.
#[utoipa::path(get, path = "/v1/runs/{run}/calls", operation_id = "list_calls", tag = "runs",
    params(
        ("run" = String, Path, description = "The run's id."),
        ("after" = Option<String>, Query, description = "The `next` of the page before: a call."),
        ("limit" = Option<usize>, Query, description = "1 to 500, 100 unless given.")),
    responses(
        (status = 200, description = "A page of calls.", body = serde_json::Value),
        (status = 404, description = "There is no such run.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn calls(
    shared: State,
    Path(run): Path<String>,
    given: MaybeQuery<PageQuery>,
) -> Answer<Json<Page<CallView>>> {
    let (id, given) = (run_id(&run)?, query(given)?);
    let limit = limit(given.limit)?;
    let after: Option<CallId> = match given.after.as_ref().or(given.cursor.as_ref()) {
        Some(text) => Some(text.parse().map_err(Problem::invalid_parameter)?),
        None => None,
    };
    let all = shared
        .api
        .runtime
        .calls(id)
        .await
        .map_err(|error| unreadable(&error))?;
    if all.is_empty() {
        found(&shared, id).await?;
    }
    let mut rest = all
        .into_iter()
        .filter(|call| after.is_none_or(|after| call.call > after));
    let rows: Vec<CallView> = rest.by_ref().take(limit).collect();
    let next = if rest.next().is_some() {
        rows.last().map(|call| call.id.clone())
    } else {
        None
    };
    Ok(Json(Page { rows, next }))
}

/// The attempts of a call that failed or printed something.
#[utoipa::path(get, path = "/v1/runs/{run}/calls/{call}/attempts", operation_id = "list_attempts", tag = "runs",
    params(("run" = String, Path, description = "The run's id."), ("call" = String, Path, description = "The call's id, `turn.index`.")),
    responses((status = 200, description = "The attempts.", body = serde_json::Value)))]
pub(crate) async fn attempts(
    shared: State,
    Path((run, call)): Path<(String, String)>,
) -> Answer<Json<Page<Value>>> {
    let (run, call) = (
        run_id(&run)?,
        call.parse::<CallId>().map_err(Problem::invalid_parameter)?,
    );
    let records = celesta_worker::attempts(&shared.api.store, run, Some(call)).await;
    let records = records.map_err(|error| Problem::failure(error.kind(), &error))?;
    if records.is_empty() {
        found(&shared, run).await?;
    }
    let rows = records
        .into_iter()
        .map(|record| {
            json!({
                "call": record.call.to_string(),
                "attempt": record.attempt,
                "function": record.function,
                "worker": record.worker,
                "started_at": record.started,
                "ended_at": record.ended,
                "error": record.failure.map(|(class, message)| json!({ "class": class, "message": message })),
                "stdout_size": record.stdout.bytes,
                "stderr_size": record.stderr.bytes,
            })
        })
        .collect();
    Ok(Json(Page { rows, next: None }))
}

/// What an attempt printed.
#[utoipa::path(get, path = "/v1/runs/{run}/calls/{call}/attempts/{attempt}/{stream}", operation_id = "read_attempt_output", tag = "runs",
    params(
        ("run" = String, Path, description = "The run's id."),
        ("call" = String, Path, description = "The call's id, `turn.index`."),
        ("attempt" = u32, Path, description = "The attempt, from 1."),
        ("stream" = String, Path, description = "`stdout` or `stderr`.")),
    responses(
        (status = 200, description = "The bytes.", content_type = "text/plain"),
        (status = 404, description = "Nothing is recorded of that attempt.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn attempt_output(
    shared: State,
    Path((run, call, attempt, stream)): Path<(String, String, String, String)>,
) -> Answer {
    let (run, call) = (
        run_id(&run)?,
        call.parse::<CallId>().map_err(Problem::invalid_parameter)?,
    );
    let number = attempt
        .parse::<u32>()
        .map_err(|_| Problem::invalid_parameter(format!("`{attempt}` is not an attempt")))?;
    if !matches!(stream.as_str(), "stdout" | "stderr") {
        return Err(Problem::invalid_parameter(format!(
            "`{stream}` is not a stream; expected stdout or stderr"
        )));
    }
    let records = celesta_worker::attempts(&shared.api.store, run, Some(call)).await;
    let records = records.map_err(|error| Problem::failure(error.kind(), &error))?;
    let record = records.into_iter().find(|record| record.attempt == number);
    let output = record.map(|record| {
        if stream == "stdout" {
            record.stdout
        } else {
            record.stderr
        }
    });
    let nothing = || {
        let detail =
            format!("nothing is recorded of attempt {number} of call {call}: a quiet success leaves nothing");
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-attempt",
            "nothing is recorded of that attempt",
            detail,
        )
    };
    let output = output.ok_or_else(nothing)?;
    let body = match output.artifact {
        None => Body::from(output.inline),
        Some(digest) => artifacts::stream(&shared, &digest).await?,
    };
    // What a program printed must not run as a page of ours.
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, body).into_response())
}

/// Why a rule fired, or which clause is false and for which facts.
#[utoipa::path(get, path = "/v1/runs/{run}/explain", operation_id = "explain_rule", tag = "runs",
    params(("run" = String, Path, description = "The run's id."), ("rule" = String, Query, description = "The rule's name.")),
    responses(
        (status = 200, description = "The explanation, as `text` for people and in parts.", body = serde_json::Value),
        (status = 404, description = "There is no such run or rule.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn explain(
    shared: State,
    Path(run): Path<String>,
    given: MaybeQuery<ExplainQuery>,
) -> Answer<Json<Value>> {
    let (id, given) = (run_id(&run)?, query(given)?);
    let explanation = shared
        .api
        .runtime
        .explain(id, &given.rule)
        .await
        .map_err(|error| match error {
            ExplainError::NoRun { run } => Problem::no_such_run(run),
            ExplainError::NoRule { .. } => Problem::new(
                StatusCode::NOT_FOUND,
                "no-such-rule",
                "there is no such rule",
                error.to_string(),
            ),
            ExplainError::Load(error) => unreadable(&error),
        })?;
    let mut value = serde_json::to_value(&explanation).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        members.insert("text".to_owned(), explanation.to_string().into());
    }
    Ok(Json(value))
}
