//! `/v1/nodes`: who owns what, and where it is.

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use celesta_runs::{MAIN_DATABASE, MoveError};
use celesta_types::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::problem::{Answer, Problem};
use crate::server::State;
use crate::submit::json_body;

/// Where a partition is to be brought.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    to: String,
}

/// Have a partition brought into another database of the deployment. It pauses while it is copied.
#[utoipa::path(post, path = "/v1/nodes/partitions/{partition}/move", operation_id = "move_partition", tag = "nodes",
    params(("partition" = u32, Path, description = "The partition's number.")),
    request_body(content = serde_json::Value, description = "`{\"to\": \"…\"}`: the name of a database; `main` is the main one."),
    responses(
        (status = 200, description = "It is there already.", body = serde_json::Value),
        (status = 202, description = "The wish is durable; the partition is given up, copied and opened there.", body = serde_json::Value),
        (status = 404, description = "There is no such partition or database.", body = crate::openapi::ProblemBody),
        (status = 409, description = "It is on its way, or a node that is there does not know the database.", body = crate::openapi::ProblemBody)))]
pub(crate) async fn relocate(
    shared: State,
    Path(partition): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let unknown = |detail: String| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-partition",
            "no such partition",
            detail,
        )
    };
    let number = partition
        .parse()
        .map_err(|_| unknown(format!("`{partition}` is no number")))?;
    let bytes = json_body(&shared, &headers, body).await?;
    let wanted: Wanted = serde_json::from_slice(&bytes).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad-json",
            "the body is not `{\"to\": …}`",
            error.to_string(),
        )
    })?;
    let Some(partitions) = &shared.partitions else {
        return Err(refused(&MoveError::Alone));
    };
    let moving = partitions
        .relocate(number, &wanted.to)
        .await
        .map_err(|error| refused(&error))?;
    let status = if moving {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    let told = json!({ "partition": number, "to": wanted.to, "moving": moving });
    Ok((status, Json(told)).into_response())
}

fn refused(error: &MoveError) -> Problem {
    let detail = error.to_string();
    match error {
        MoveError::NoSuchPartition { .. } => Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-partition",
            "no such partition",
            detail,
        ),
        MoveError::NoSuchDatabase { .. } => Problem::new(
            StatusCode::NOT_FOUND,
            "no-such-database",
            "no such database",
            detail,
        ),
        error if error.kind() == ErrorKind::Conflict => Problem::new(
            StatusCode::CONFLICT,
            "cannot-move",
            "the partition cannot be moved",
            detail,
        ),
        error => Problem::failure(error.kind(), error),
    }
}

/// The nodes of the deployment and the partitions they own.
#[utoipa::path(get, path = "/v1/nodes", operation_id = "list_nodes", tag = "nodes", responses(
    (status = 200, description = "`nodes` with their addresses and releases, and the databases they know, `partitions` with their owners, epochs and databases, where they are on their way to, and why the last move failed. A node on its own has none to tell of.", body = serde_json::Value)))]
pub(crate) async fn list(shared: State) -> Json<Value> {
    let (nodes, partitions) = shared
        .partitions
        .as_ref()
        .map(celesta_runs::Partitions::seen)
        .unwrap_or_default();
    let owned = |name: &str| -> Vec<u32> {
        let own = partitions
            .iter()
            .filter(|partition| partition.node.as_deref() == Some(name));
        own.map(|partition| partition.partition).collect()
    };
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|node| {
            json!({
                "name": node.name,
                "address": node.address,
                "release": node.release,
                "alive": node.alive,
                "leaving": node.leaving,
                "databases": node.databases,
                "partitions": owned(&node.name),
            })
        })
        .collect();
    let partitions: Vec<Value> = partitions
        .iter()
        .map(|partition| {
            json!({
                "partition": partition.partition,
                "node": partition.node,
                "database": partition.database.as_deref().unwrap_or(MAIN_DATABASE),
                "moving_to": partition.moving_to,
                "problem": partition.problem,
                "epoch": partition.epoch,
                "lease_ms": partition.lease_ms,
            })
        })
        .collect();
    Json(json!({ "nodes": nodes, "partitions": partitions }))
}
