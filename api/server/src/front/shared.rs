//! Writes of shared facts in a deployment: one partition leads a service's facts, and the others copy them.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::request::Parts;
use axum::response::Response;
use celesta_runs::lead;
use futures_util::future::join_all;
use serde::Deserialize;

use super::unite::united;
use super::{Front, keep};
use crate::problem::Answer;
use crate::shared_facts::LEAD;

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
        if response.headers_mut().remove(LEAD).is_some() || !response.status().is_success() {
            return Ok(response);
        }
        // Its owner is of a release that has nobody copy: the others are told as that release would.
        parts.headers.remove(LEAD);
        let others = (0..count).filter(|partition| *partition != lead);
        let told = others.map(|partition| self.at(partition, &parts, &body));
        let mut answers = vec![response];
        answers.extend(join_all(told).await);
        Ok(united(&parts.uri, answers).await)
    }
}
