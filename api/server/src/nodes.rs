//! `GET /v1/nodes`: who owns what.

use axum::Json;
use celesta_runs::MAIN_DATABASE;
use serde_json::{Value, json};

use crate::server::State;

/// The nodes of the deployment and the partitions they own.
#[utoipa::path(get, path = "/v1/nodes", operation_id = "list_nodes", tag = "nodes", responses(
    (status = 200, description = "`nodes` with their addresses and releases, and the databases they know, `partitions` with their owners, epochs and databases. A node on its own has none to tell of.", body = serde_json::Value)))]
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
                "epoch": partition.epoch,
                "lease_ms": partition.lease_ms,
            })
        })
        .collect();
    Json(json!({ "nodes": nodes, "partitions": partitions }))
}
