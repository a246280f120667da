//! Writes of shared facts in a deployment: one partition leads a service's facts, and the others copy them.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use celesta_runs::lead;
use futures_util::future::join_all;
use serde::Deserialize;

use super::unite::{united, whole_answer};
use super::{Front, PAUSE, keep, read_only};
use crate::problem::Answer;
use crate::shared_facts::LEAD;

/// How long a write waits for the other partitions to copy it.
const COPIED_WITHIN: Duration = Duration::from_secs(5);

/// The only part of a write's answer that matters here.
#[derive(Debug, Default, Deserialize)]
struct Told {
    sweep: Option<String>,
}

/// The only part of a write that matters here.
#[derive(Debug, Default, Deserialize)]
struct Asked {
    #[serde(default)]
    dry_run: bool,
}

impl Front {
    /// Has the lead take a write. What would happen is asked of all partitions: each has runs.
    pub(super) async fn shared_write(&self, mut parts: Parts, body: Body) -> Answer<Response> {
        let body = keep(self, &parts, body).await?;
        let asked: Asked = serde_json::from_slice(&body).unwrap_or_default();
        if asked.dry_run {
            return Ok(self.each(&parts, &body).await);
        }
        let count = self.partitions.count();
        let service = parts.uri.path().split('/').nth(3).unwrap_or_default();
        let lead = lead(service, count).index;
        self.give_id(&mut parts);
        parts.headers.insert(LEAD, HeaderValue::from_static("1"));
        let mut response = self.at(lead, &parts, &body).await;
        if !response.status().is_success() {
            return Ok(response);
        }
        if response.headers_mut().remove(LEAD).is_some() {
            return Ok(self.known_everywhere(&parts, response).await);
        }
        // Its owner is of a release that has nobody copy: the others are told as that release would.
        parts.headers.remove(LEAD);
        let others = (0..count).filter(|partition| *partition != lead);
        let told = others.map(|partition| self.at(partition, &parts, &body));
        let mut answers = vec![response];
        answers.extend(join_all(told).await);
        Ok(united(&parts.uri, answers).await)
    }

    /// Waits until every partition has the sweep of a write: whoever is told of it may steer it, or ask how it stands. Not
    /// for long: a partition without an owner gets it later.
    async fn known_everywhere(&self, parts: &Parts, written: Response) -> Response {
        let (head, body) = written.into_parts();
        let bytes = match whole_answer(body).await {
            Ok(bytes) => bytes,
            Err(broken) => return broken,
        };
        let told: Told = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some(sweep) = told.sweep {
            let asking = read_only(parts, &format!("/v1/sweeps/{sweep}"));
            let nothing = Bytes::new();
            let clock = &self.shared.api.clock;
            let known = async {
                for partition in 0..self.partitions.count() {
                    while self.at(partition, &asking, &nothing).await.status() == StatusCode::NOT_FOUND {
                        clock.sleep(PAUSE).await;
                    }
                }
            };
            tokio::select! {
                () = known => {}
                () = clock.sleep(COPIED_WITHIN) => {}
                () = self.shared.shutdown.requested() => {}
            }
        }
        Response::from_parts(head, Body::from(bytes))
    }
}
