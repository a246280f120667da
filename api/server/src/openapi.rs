//! The `OpenAPI` 3.1 description, generated from the handlers.

use std::collections::BTreeMap;

use axum::Json;
use utoipa::{OpenApi as _, ToSchema};

/// A run.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used: the value itself is the runtime's"
)]
pub(crate) struct Run {
    /// `run_` and 26 characters.
    id: String,
    /// The service that was asked.
    service: String,
    /// The operation.
    operation: String,
    /// The workflow whose rules it follows.
    workflow: Option<String>,
    /// The version of the service.
    version: Option<String>,
    /// `running`, `idle`, `completed`, `failed`, `canceled`, `quarantined`, `paused` or `waiting`.
    state: String,
    /// Milliseconds since the epoch.
    created_at: Option<i64>,
    /// Milliseconds since the epoch.
    updated_at: Option<i64>,
    /// Milliseconds since the epoch.
    ended_at: Option<i64>,
    /// Class, number and deadline.
    priority: Option<serde_json::Value>,
    /// The client's labels.
    labels: Option<BTreeMap<String, String>>,
    /// The request's body; not in lists.
    input: Option<serde_json::Value>,
    /// The result, once completed.
    result: Option<serde_json::Value>,
    /// Why it failed, was canceled or put aside.
    error: Option<String>,
    /// `fraction` (0 to 1) and `text`.
    progress: Option<serde_json::Value>,
    /// The run that asked for it.
    parent: Option<String>,
    /// The groups of runs it belongs to, each with `strategy` and `key`.
    concurrency: Option<Vec<serde_json::Value>>,
    /// The rules before which it stops.
    breakpoints: Option<Vec<String>>,
    /// What it was stopped by while it is paused: `by`, `rule`, `facts`, `reason`, `actor`.
    stopped: Option<serde_json::Value>,
    /// Calls that were answered with recorded results.
    avoided: Option<u64>,
}

/// A page of runs.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used: the value itself is the runtime's"
)]
pub(crate) struct RunPage {
    /// The runs, the newest first.
    rows: Vec<Run>,
    /// Give this as `cursor` for the next page; absent on the last.
    next: Option<String>,
}

/// An artifact's reference.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used: the value itself is another crate's"
)]
pub(crate) struct Artifact {
    /// `sha256:` and 64 hexadecimal digits.
    #[schema(rename = "$artifact")]
    digest: String,
    /// Bytes.
    size: u64,
    /// The media type.
    media_type: Option<String>,
}

/// A problem per RFC 9457.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "only its schema is used: the value itself is built from parts"
)]
pub(crate) struct ProblemBody {
    /// Where the problem is explained.
    r#type: String,
    /// The problem in a few words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What happened this time.
    detail: String,
    /// The stable code.
    code: String,
    /// Single violations, each with its place.
    errors: Option<Vec<serde_json::Value>>,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Celesta",
        description = "Services whose work is heavy, bursty and long: requests, runs, queues, artifacts."
    ),
    paths(
        crate::nodes::list,
        crate::nodes::relocate,
        crate::services::list,
        crate::services::show,
        crate::services::push,
        crate::services::releases,
        crate::services::roll_back,
        crate::services::promote,
        crate::shared_facts::list,
        crate::shared_facts::show,
        crate::shared_facts::write,
        crate::submit::submit,
        crate::runs::list,
        crate::runs::show,
        crate::runs::facts,
        crate::runs::history,
        crate::runs::calls,
        crate::runs::attempts,
        crate::runs::attempt_output,
        crate::runs::explain,
        crate::steer::write_facts,
        crate::steer::cancel,
        crate::steer::retry,
        crate::steer::pause,
        crate::steer::resume,
        crate::steer::step,
        crate::steer::prioritize,
        crate::steer::set_breakpoints,
        crate::steer::clone_run,
        crate::steer::restart,
        crate::publish::publish,
        crate::operations::list,
        crate::operations::begin,
        crate::operations::show,
        crate::operations::change,
        crate::orders::list,
        crate::orders::pause_service,
        crate::orders::resume_service,
        crate::orders::pause_workflow,
        crate::orders::resume_workflow,
        crate::orders::set_breakpoints,
        crate::run_events::events,
        crate::sweeps::list,
        crate::sweeps::show,
        crate::sweeps::runs,
        crate::sweeps::preview,
        crate::sweeps::pause,
        crate::sweeps::resume,
        crate::sweeps::abort,
        crate::queues::list,
        crate::queues::show,
        crate::queues::configure,
        crate::queues::patch,
        crate::queues::enqueue::enqueue,
        crate::queues::look::list,
        crate::queues::look::show,
        crate::queues::look::history,
        crate::queues::lease::lease,
        crate::queues::settle::complete,
        crate::queues::settle::fail,
        crate::queues::settle::extend,
        crate::queues::settle::release,
        crate::queues::change::cancel,
        crate::queues::change::redrive,
        crate::queues::change::reprioritize,
        crate::artifacts::create,
        crate::artifacts::read,
        crate::artifacts::head,
        crate::artifacts::write,
        crate::health::alive,
        crate::health::ready,
        crate::health::metrics,
    ),
    components(schemas(Run, RunPage, Artifact, ProblemBody))
)]
struct Document;

/// The description of this release's API.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// `GET /openapi.json`.
pub(crate) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_is_the_committed_one() {
        let text = super::document()
            .to_pretty_json()
            .expect("a description serializes")
            + "\n";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        if committed != text {
            let proposed = path.with_extension("json.new");
            std::fs::write(&proposed, text).expect("the folder is writable");
            panic!(
                "the API has changed: look at {} and rename it when the change is meant",
                proposed.display()
            );
        }
    }
}
