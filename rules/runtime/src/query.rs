//! Reading runs: rows, facts, explanations. Always from what is durable, never from the middle of a turn.

use celesta_engine::{Explanation, FactId, Fired, Rule};
use celesta_store::{Cell, QueryError};
use celesta_types::RunId;

use crate::head::{COLUMN_COUNT, COLUMNS, RunHead};
use crate::load::LoadError;
use crate::runtime::Inner;
use crate::view::{FactView, Page, RunFilter, RunView, raw};

/// Rows of one page at most.
pub const PAGE_ROWS_MAX: usize = 500;

/// The turns that are looked through for a rule's firings: an answer stays within some ten milliseconds.
const EXPLAINED_TURNS: u64 = 2_000;
/// The firings that an explanation shows.
const LATEST_FIRINGS: usize = 5;

/// Why a run cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// There is no such run.
    #[error("there is no run {run}")]
    NoRun {
        /// The run.
        run: RunId,
    },
    /// Its rules have none of that name.
    #[error("the workflow has no rule `{rule}`; its rules are: {known}")]
    NoRule {
        /// The name that was given.
        rule: String,
        /// The names there are.
        known: String,
    },
    /// The run cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Inner {
    /// The run's row with its input.
    pub(crate) async fn view(&self, run: RunId) -> Result<Option<RunView>, QueryError> {
        let sql = format!("SELECT {COLUMNS}, input FROM runs WHERE id = ?");
        let rows = self.store.fetch(&sql, &[Cell::Id(run.to_bytes())]).await?;
        if rows.is_empty() {
            let archived = self.archived(run).await.map_err(|error| QueryError {
                reason: error.to_string(),
            })?;
            return Ok(archived.and_then(|frame| frame.view()));
        }
        Ok(rows.first().and_then(|row| {
            let mut view = RunHead::from_row(row)?.view();
            view.input = row
                .blob(COLUMN_COUNT)
                .map(|input| raw(String::from_utf8_lossy(input)));
            Some(view)
        }))
    }

    /// The run's row without its input.
    pub(crate) async fn head(&self, run: RunId) -> Result<Option<RunHead>, QueryError> {
        let sql = format!("SELECT {COLUMNS} FROM runs WHERE id = ?");
        let rows = self.store.fetch(&sql, &[Cell::Id(run.to_bytes())]).await?;
        Ok(rows.first().and_then(RunHead::from_row))
    }

    /// The newest runs first; `cursor` is the `next` of the page before.
    pub(crate) async fn list(
        &self,
        filter: &RunFilter,
        cursor: Option<RunId>,
        limit: usize,
    ) -> Result<Page<RunView>, QueryError> {
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let (condition, mut cells) = conditions(filter, self.store.path().is_some());
        let mut sql = format!("SELECT {COLUMNS} FROM runs WHERE {condition}");
        if let Some(cursor) = cursor {
            sql.push_str(" AND id < ?");
            cells.push(Cell::Id(cursor.to_bytes()));
        }
        // Ids are ordered by creation, so the primary key is the order of the list and of its cursor.
        sql.push_str(" ORDER BY id DESC LIMIT ?");
        cells.push(i64::try_from(limit + 1).unwrap_or(i64::MAX).into());
        let rows = self.store.fetch(&sql, &cells).await?;
        let mut views: Vec<RunView> = rows
            .iter()
            .filter_map(RunHead::from_row)
            .map(|head| head.view())
            .collect();
        let more = views.len() > limit;
        views.truncate(limit);
        let next = if more {
            views.last().map(|last| last.id.to_string())
        } else {
            None
        };
        Ok(Page { rows: views, next })
    }

    /// The run's facts with ids above `after`, in the order they came; `None` when there is no such run.
    pub(crate) async fn facts(
        &self,
        run: RunId,
        fact_type: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Option<Page<FactView>>, LoadError> {
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let Some(live) = self.load(run).await? else {
            let Some(frame) = self.archived(run).await? else {
                return Ok(None);
            };
            let matching =
                |fact: &FactView| fact.id > after && fact_type.is_none_or(|wanted| fact.fact_type == wanted);
            let mut rows: Vec<FactView> = frame.facts().filter(matching).take(limit + 1).collect();
            let more = rows.len() > limit;
            rows.truncate(limit);
            let last = rows.last().map(|last| last.id.to_string());
            return Ok(Some(Page {
                rows,
                next: last.filter(|_| more),
            }));
        };
        let mut facts = live
            .memory
            .facts()
            .filter(|fact| fact.id.0 > after && fact_type.is_none_or(|wanted| fact.fact_type == wanted));
        let mut rows = Vec::new();
        for fact in facts.by_ref().take(limit) {
            rows.push(fact_view(&fact));
        }
        let next = if facts.next().is_some() {
            rows.last().map(|last| last.id.to_string())
        } else {
            None
        };
        Ok(Some(Page { rows, next }))
    }

    /// Why `rule` fired in `run`, or why it did not.
    pub(crate) async fn explain(&self, run: RunId, rule: &str) -> Result<Explanation, ExplainError> {
        let live = self.load(run).await?.ok_or(ExplainError::NoRun { run })?;
        let shared = self.seen_by(&live.head.service, &live.rules).await;
        let shared = shared.map_err(LoadError::from)?.map(|(shared, _)| shared);
        let explained = live.memory.explain_seeing(rule, shared.as_deref());
        let mut explanation = explained.map_err(|_| ExplainError::NoRule {
            rule: rule.to_owned(),
            known: live
                .rules
                .rules()
                .iter()
                .map(Rule::name)
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        let mut after = live.seq.saturating_sub(EXPLAINED_TURNS);
        let mut fired = Vec::new();
        loop {
            let turns = self.turns(run, after, usize::MAX).await?.unwrap_or_default();
            let Some(last) = turns.last() else { break };
            after = last.seq;
            for turn in turns {
                let own = turn.firings.into_iter().filter(|firing| firing.rule == rule);
                fired.extend(own.map(|firing| {
                    Fired {
                        turn: turn.seq,
                        section: firing.section,
                        facts: firing
                            .facts
                            .into_iter()
                            .map(|(fact, version)| (FactId(fact), version))
                            .collect(),
                        threw: firing.threw,
                    }
                }));
            }
        }
        explanation.ran = fired.len();
        explanation.latest = fired.into_iter().rev().take(LATEST_FIRINGS).collect();
        Ok(explanation)
    }

    /// The run a client's key names, and the digest of the body it came with.
    pub(crate) async fn idempotent(
        &self,
        service: &str,
        key: &str,
    ) -> Result<Option<(RunId, Vec<u8>)>, QueryError> {
        let sql = "SELECT run, body FROM idempotency WHERE service = ? AND key = ?";
        let rows = self.store.fetch(sql, &[service.into(), key.into()]).await?;
        Ok(rows
            .first()
            .and_then(|row| Some((RunId::from_bytes(row.blob(0)?)?, row.blob(1)?.to_vec()))))
    }
}

/// A fact as clients see it.
pub(crate) fn fact_view(fact: &celesta_engine::FactView<'_>) -> FactView {
    FactView {
        id: fact.id.0,
        fact_type: fact.fact_type.to_owned(),
        version: fact.version.into(),
        value: raw(object(&fact.slots)),
        written_by: fact.written_by.to_owned(),
    }
}

/// The condition that a label has a value, and how it names the label: SQLite wants a path, PostgreSQL a member.
pub(crate) fn label_condition(key: &str, sqlite: bool) -> (&'static str, String) {
    if sqlite {
        let path = format!("$.\"{}\"", key.replace('"', ""));
        ("json_extract(labels, ?) = ?", path)
    } else {
        ("labels::json ->> ? = ?", key.to_owned())
    }
}

/// What a filter wants of a row, as a condition and its values.
pub(crate) fn conditions(filter: &RunFilter, sqlite: bool) -> (String, Vec<Cell>) {
    let mut sql = "TRUE".to_owned();
    let mut cells: Vec<Cell> = Vec::new();
    let mut and = |condition: &str, values: Vec<Cell>| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        cells.extend(values);
    };
    if let Some(service) = &filter.service {
        and("service = ?", vec![service.as_str().into()]);
    }
    if let Some(workflow) = &filter.workflow {
        and("workflow = ?", vec![workflow.as_str().into()]);
    }
    if let Some(operation) = &filter.operation {
        and("operation = ?", vec![operation.as_str().into()]);
    }
    if let Some(state) = filter.state {
        and("state = ?", vec![i64::from(state.code()).into()]);
    }
    if let Some((key, value)) = &filter.label {
        let (condition, member) = label_condition(key, sqlite);
        and(condition, vec![member.into(), value.as_str().into()]);
    }
    if let Some(after) = filter.created_after {
        and("created_at >= ?", vec![after.as_millis().into()]);
    }
    if let Some(before) = filter.created_before {
        and("created_at < ?", vec![before.as_millis().into()]);
    }
    (sql, cells)
}

/// A JSON object of slots in their declared order.
fn object(slots: &[(&str, &celesta_engine::Value)]) -> String {
    use serde::ser::{SerializeMap as _, Serializer as _};
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut text);
    let written = serializer.serialize_map(Some(slots.len())).and_then(|mut map| {
        for (name, value) in slots {
            map.serialize_entry(name, value)?;
        }
        map.end()
    });
    written.expect("texts and values serialize");
    String::from_utf8(text).unwrap_or_default()
}
