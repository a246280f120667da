//! What a push would do to the runs there are, without doing it.

use std::collections::BTreeMap;

use celesta_bundle::{Files, VersionPolicy};
use celesta_engine::Break;
use serde::Serialize;

use crate::registry::{PushError, compile};
use crate::runtime::Runtime;

/// Runs of a workflow that are looked at, the newest: each is read and matched anew.
const RUNS_LOOKED_AT: usize = 200;

/// What would become of the runs of one workflow.
#[derive(Debug, Clone, Serialize)]
pub struct WorkflowPreview {
    /// The workflow.
    pub workflow: String,
    /// What becomes of its runs.
    pub policy: VersionPolicy,
    /// Runs that follow another version; none of them moves when the policy is `pinned`.
    pub runs: u64,
    /// How many of them were looked at, the newest.
    pub looked_at: u64,
    /// Of these, how many would stay, and why the first of them would.
    pub would_stay: u64,
    /// Why one of them would stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rules that would fire in those that were looked at.
    pub rules: Vec<RulePreview>,
    /// What the change of fact types would break: the push is refused for it.
    pub breaks: Vec<Break>,
}

/// A rule that would newly fire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RulePreview {
    /// The rule.
    pub rule: String,
    /// In how many runs.
    pub runs: u64,
    /// For how many tuples of facts.
    pub activations: u64,
}

impl Runtime {
    /// What pushing these files would do to the runs there are. Nothing is kept, nothing fires.
    ///
    /// # Errors
    /// When the bundle is wrong, or the store does not answer.
    pub async fn preview(&self, service: &str, files: Files) -> Result<Vec<WorkflowPreview>, PushError> {
        let (bundle, _) = compile(files).await?;
        if bundle.name != service {
            return Err(PushError::OtherService {
                expected: service.to_owned(),
                found: bundle.name,
            });
        }
        let inner = &self.inner;
        inner.registry.refresh_shared().await?;
        let before = inner.registry.current(service);
        let mut found = Vec::new();
        for (workflow, rules) in &bundle.workflows {
            let versions = bundle.versions.get(workflow).cloned().unwrap_or_default();
            let old = before.as_ref().and_then(|version| version.rules(workflow));
            let breaks = old
                .map(|old| versions.moves.breaks(old, rules))
                .unwrap_or_default();
            let counted = inner.count_others(service, workflow, bundle.digest).await;
            let mut preview = WorkflowPreview {
                workflow: workflow.clone(),
                policy: versions.policy,
                runs: counted.map_err(PushError::unavailable)?,
                looked_at: 0,
                would_stay: 0,
                reason: None,
                rules: Vec::new(),
                breaks,
            };
            if versions.policy.moves() {
                let newest = inner
                    .newest_others(service, workflow, bundle.digest, RUNS_LOOKED_AT)
                    .await
                    .map_err(PushError::unavailable)?;
                let mut fire: BTreeMap<String, (u64, u64)> = BTreeMap::new();
                for (run, reader) in newest {
                    let live = reader.load(run).await.map_err(PushError::unavailable)?;
                    let Some(live) = live else { continue };
                    preview.looked_at += 1;
                    match live.memory.moved_to(rules, &versions.moves) {
                        Ok(memory) => {
                            for (rule, activations) in memory.waiting_by_rule() {
                                let known = fire.entry(rule).or_default();
                                known.0 += 1;
                                known.1 += activations;
                            }
                        }
                        Err(error) => {
                            preview.would_stay += 1;
                            preview.reason.get_or_insert_with(|| error.to_string());
                        }
                    }
                }
                preview.rules = (fire.into_iter())
                    .map(|(rule, (runs, activations))| RulePreview {
                        rule,
                        runs,
                        activations,
                    })
                    .collect();
            }
            found.push(preview);
        }
        Ok(found)
    }
}
