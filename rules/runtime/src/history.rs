//! What the journal tells people: turns, calls, events. Nothing of it is stored a second time.

use std::collections::BTreeMap;

use celesta_store::Cell;
use celesta_types::{CallId, RunId};

use crate::load::LoadError;
use crate::record::{Cause, Note, Ran, Record, Recorded};
use crate::registry::Version;
use crate::runtime::Inner;
use crate::view::{
    CallErrorView, CallState, CallView, CauseView, EffectView, FiringView, ProgressView, RunEvent, TurnView,
    raw,
};

/// Journal records read in one query.
const RECORDS_PER_READ: usize = 500;

impl Inner {
    /// Up to `limit` records after turn `after`.
    pub(crate) async fn records(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Record)>, LoadError> {
        let limit = limit.clamp(1, RECORDS_PER_READ);
        let cells = [
            Cell::Id(run.to_bytes()),
            i64::try_from(after).unwrap_or(i64::MAX).into(),
            i64::try_from(limit).unwrap_or(i64::MAX).into(),
        ];
        let sql = "SELECT seq, record FROM journal WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?";
        let rows = self.store.fetch(sql, &cells).await?;
        if rows.is_empty() {
            let archived = self
                .archived(run)
                .await?
                .map_or_else(Vec::new, |frame| frame.records);
            let later = archived.into_iter().filter(|(seq, _)| *seq > after);
            return Ok(later.take(limit).collect());
        }
        rows.iter()
            .map(|row| {
                let seq = row.int(0).and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
                let record = Record::decode(row.blob(1).unwrap_or_default());
                record
                    .map(|record| (seq, record))
                    .map_err(|damage| LoadError::Damaged {
                        run,
                        seq,
                        reason: damage.to_string(),
                    })
            })
            .collect()
    }

    /// Up to `limit` turns after turn `after`, oldest first.
    pub(crate) async fn turns(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Option<Vec<TurnView>>, LoadError> {
        let Some(names) = self.names_of(run).await? else {
            return Ok(None);
        };
        let records = self.records(run, after, limit).await?;
        Ok(Some(
            records
                .into_iter()
                .map(|(seq, record)| turn_view(run, seq, record, names.at(seq)))
                .collect(),
        ))
    }

    /// All calls of the run in the order they were made.
    pub(crate) async fn calls(&self, run: RunId) -> Result<Vec<CallView>, LoadError> {
        let mut calls = BTreeMap::new();
        let mut after = 0;
        loop {
            let records = self.records(run, after, RECORDS_PER_READ).await?;
            let Some((last, _)) = records.last() else { break };
            after = *last;
            for (seq, record) in records {
                apply(&mut calls, seq, record);
            }
        }
        Ok(calls.into_values().collect())
    }

    /// The events of the turns after `after`, up to `limit` turns, and the last turn read.
    pub(crate) async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<RunEvent>, u64), LoadError> {
        let Some(names) = self.names_of(run).await? else {
            return Ok((Vec::new(), after));
        };
        let records = self.records(run, after, limit).await?;
        let last = records.last().map_or(after, |(seq, _)| *seq);
        let events = records
            .into_iter()
            .flat_map(|(seq, record)| events_of(run, seq, record, names.at(seq)));
        Ok((events.collect(), last))
    }

    /// Messages that were kept while the run was put aside or paused, since it last moved.
    pub(crate) async fn held_messages(&self, run: RunId) -> Result<Vec<Vec<u8>>, LoadError> {
        let mut held = Vec::new();
        let mut after = 0;
        loop {
            let records = self.records(run, after, RECORDS_PER_READ).await?;
            let Some((last, _)) = records.last() else {
                return Ok(held);
            };
            after = *last;
            for (_, record) in records {
                match record.note {
                    // A turn that stopped before a rule was given all that was kept.
                    None | Some(Note::Stopped { .. }) => held.clear(),
                    Some(note) => held.extend(note.messages()),
                }
            }
        }
    }
}

/// What one record says about calls.
fn apply(calls: &mut BTreeMap<CallId, CallView>, seq: u64, record: Record) {
    for cause in record.causes {
        let (call, state, ran, result, error) = match cause {
            Cause::Succeeded { call, result, ran } => {
                (call, CallState::Succeeded, ran, Some(raw(result)), None)
            }
            Cause::Failed {
                call,
                class,
                message,
                ran,
            } => (
                call,
                CallState::Failed,
                ran,
                None,
                Some(CallErrorView { class, message }),
            ),
            Cause::TimerFired { call } => (call, CallState::Succeeded, Ran::default(), None, None),
            Cause::Started
            | Cause::CancelRequested { .. }
            | Cause::RetryRequested { .. }
            | Cause::FactsWritten { .. }
            | Cause::Resumed { .. }
            | Cause::Woken
            | Cause::Upgraded { .. }
            | Cause::Prioritized { .. }
            | Cause::BreakpointsSet { .. }
            | Cause::Restarted { .. }
            | Cause::Swept { .. } => continue,
        };
        if let Some(view) = calls.get_mut(&call)
            && view.state == CallState::Outstanding
        {
            view.state = state;
            view.ended_at = Some(if ran.attempts > 0 { ran.ended } else { record.at });
            view.started_at = (ran.attempts > 0).then_some(ran.started);
            view.attempts = ran.attempts;
            view.avoided = ran.attempts == 0 && view.kind == "function" && state == CallState::Succeeded;
            view.worker = (!ran.worker.is_empty()).then_some(ran.worker);
            view.result = result;
            view.error = error;
        }
    }
    for (index, effect) in record.effects.into_iter().enumerate() {
        let call = CallId {
            seq,
            index: u32::try_from(index).unwrap_or(u32::MAX),
        };
        let (kind, target, input) = match effect {
            Recorded::Call { function, input } => ("function", function, Some(raw(input))),
            Recorded::Timer { at } => ("timer", at.to_string(), None),
            Recorded::Request { target, input } => ("request", target, Some(raw(input))),
            Recorded::CancelCalls { calls: canceled } => {
                for call in canceled {
                    if let Some(view) = calls.get_mut(&call)
                        && view.state == CallState::Outstanding
                    {
                        view.state = CallState::Canceled;
                        view.ended_at = Some(record.at);
                    }
                }
                continue;
            }
            _ => continue,
        };
        let view = CallView {
            id: call.to_string(),
            call,
            kind,
            target,
            state: CallState::Outstanding,
            called_at: record.at,
            started_at: None,
            ended_at: None,
            attempts: 0,
            avoided: false,
            worker: None,
            input,
            result: None,
            error: None,
        };
        calls.insert(call, view);
    }
}

fn turn_view(run: RunId, seq: u64, record: Record, version: &Names) -> TurnView {
    let mut facts_changed = [0; 3];
    for change in &record.changes {
        if let Some(count) = facts_changed.get_mut(usize::from(change.kind)) {
            *count += 1;
        }
    }
    TurnView {
        seq,
        at: record.at,
        causes: record.causes.into_iter().map(cause_view).collect(),
        firings: record
            .firings
            .into_iter()
            .map(|firing| FiringView {
                rule: version.rule(firing.rule),
                section: match firing.section {
                    0 => "action",
                    1 => "reaction",
                    _ => "error",
                },
                facts: firing.facts,
                threw: firing.threw,
            })
            .collect(),
        effects: record
            .effects
            .into_iter()
            .enumerate()
            .map(|(index, effect)| {
                effect_view(
                    run,
                    CallId {
                        seq,
                        index: u32::try_from(index).unwrap_or(u32::MAX),
                    },
                    effect,
                )
            })
            .collect(),
        facts_changed,
        note: record.note.map(|note| note_text(&note)),
    }
}

fn note_text(note: &Note) -> String {
    match note {
        Note::Quarantined { reason, messages } => {
            format!("put aside with {} messages kept: {reason}", messages.len())
        }
        Note::Paused { reason, messages, .. } if reason.is_empty() => {
            format!("paused; {} messages wait", messages.len())
        }
        Note::Paused { reason, by, messages } => {
            let by = if by.is_empty() {
                String::new()
            } else {
                format!(" by {by}")
            };
            format!("paused{by} with {} messages waiting: {reason}", messages.len())
        }
        Note::Stopped { rule, facts } => {
            let facts: Vec<String> = facts
                .iter()
                .map(|(fact, version)| format!("#{fact} v{version}"))
                .collect();
            format!("paused before rule `{rule}` fires for {}", facts.join(", "))
        }
    }
}

fn cause_view(cause: Cause) -> CauseView {
    let mut view = CauseView {
        kind: "request",
        call: None,
        message: None,
        by: None,
    };
    let named = |by: String| (!by.is_empty()).then_some(by);
    let said = |reason: String| (!reason.is_empty()).then_some(reason);
    match cause {
        Cause::Started => {}
        Cause::Succeeded { call, .. } => (view.kind, view.call) = ("succeeded", Some(call.to_string())),
        Cause::Failed {
            call, class, message, ..
        } => {
            (view.kind, view.call) = ("failed", Some(call.to_string()));
            view.message = Some(format!("{class}: {message}"));
        }
        Cause::TimerFired { call } => (view.kind, view.call) = ("timer", Some(call.to_string())),
        Cause::CancelRequested { reason, by } => {
            (view.kind, view.message, view.by) = ("cancel", Some(reason), named(by));
        }
        Cause::RetryRequested { reason, by } => {
            (view.kind, view.message, view.by) = ("retry", said(reason), named(by));
        }
        Cause::FactsWritten { writes, refused, by } => {
            let refused: String = refused
                .iter()
                .map(|(at, why)| format!("; write {at} refused: {why}"))
                .collect();
            (view.kind, view.message, view.by) = ("facts", Some(format!("{writes}{refused}")), named(by));
        }
        Cause::Resumed { reason, by } => {
            (view.kind, view.message, view.by) = ("resume", Some(reason), named(by));
        }
        Cause::Woken => view.kind = "time",
        Cause::Upgraded { from, to } => {
            (view.kind, view.message) = ("upgrade", Some(format!("from {from} to {to}")));
        }
        Cause::Prioritized { priority, reason, by } => {
            let deadline = priority
                .deadline
                .map_or_else(String::new, |at| format!(", by {at}"));
            let urgency = format!("{}:{}{deadline}", priority.class, priority.number);
            let reason = said(reason).map_or_else(String::new, |reason| format!(": {reason}"));
            (view.kind, view.message, view.by) = ("priority", Some(format!("{urgency}{reason}")), named(by));
        }
        Cause::BreakpointsSet { rules, by } => {
            (view.kind, view.message, view.by) = ("breakpoints", Some(rules.join(", ")), named(by));
        }
        Cause::Restarted { writes, reason, by } => {
            let writes = if writes == "[]" { String::new() } else { writes };
            let parts: Vec<String> = said(reason).into_iter().chain(said(writes)).collect();
            (view.kind, view.message, view.by) = ("restart", said(parts.join("; ")), named(by));
        }
        Cause::Swept { sweep } => {
            (view.kind, view.message) = ("sweep", Some(sweep.to_string()));
        }
    }
    view
}

fn effect_view(run: RunId, id: CallId, effect: Recorded) -> EffectView {
    let call = id.to_string();
    match effect {
        Recorded::Call { function, .. } => EffectView::Call { call, function },
        Recorded::Timer { at } => EffectView::Timer { call, at },
        Recorded::Request { target, .. } => EffectView::Request {
            call,
            target,
            run: run.child(id),
        },
        Recorded::CancelCalls { calls } => EffectView::CancelCalls {
            calls: calls.iter().map(ToString::to_string).collect(),
        },
        Recorded::Emit { event_type, data } => EffectView::Emit {
            event_type,
            data: raw(data),
        },
        Recorded::Complete { result } => EffectView::Complete { result: raw(result) },
        Recorded::Fail { message } => EffectView::Fail { message },
        Recorded::Progress { fraction, text } => EffectView::Progress(ProgressView { fraction, text }),
        Recorded::Log { text } => EffectView::Log { text },
    }
}

/// A turn as events: the effects worth an event of their own, then the turn itself.
fn events_of(run: RunId, seq: u64, record: Record, version: &Names) -> Vec<RunEvent> {
    let json = |value: &dyn erased::Json| value.raw();
    let mut events = Vec::new();
    let quarantined = match &record.note {
        Some(Note::Quarantined { reason, .. }) => Some(reason.clone()),
        Some(Note::Paused { .. } | Note::Stopped { .. }) | None => None,
    };
    let canceled = record.causes.iter().find_map(|cause| match cause {
        Cause::CancelRequested { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let mut last = Vec::new();
    for effect in &record.effects {
        match effect {
            Recorded::Progress { fraction, text } => {
                events.push((
                    "progress",
                    json(&ProgressView {
                        fraction: *fraction,
                        text: text.clone(),
                    }),
                ));
            }
            Recorded::Log { text } => events.push(("log", json(&BTreeMap::from([("text", text)])))),
            Recorded::Emit { event_type, data } => {
                events.push((
                    "emit",
                    raw(format!("{{\"type\":{},\"data\":{data}}}", json(event_type))),
                ));
            }
            Recorded::Complete { result } => {
                last.push(("completed", raw(format!("{{\"result\":{result}}}"))));
            }
            Recorded::Fail { message } => last.push(("failed", json(&BTreeMap::from([("error", message)])))),
            _ => {}
        }
    }
    let turn = turn_view(run, seq, record, version);
    events.push(("turn", json(&turn)));
    events.append(&mut last);
    if let Some(reason) = canceled {
        events.push(("canceled", json(&BTreeMap::from([("error", &reason)]))));
    }
    if let Some(reason) = quarantined {
        events.push(("quarantined", json(&BTreeMap::from([("error", &reason)]))));
    }
    events
        .into_iter()
        .zip(0..)
        .map(|((kind, data), index)| RunEvent {
            seq,
            index,
            kind,
            data,
        })
        .collect()
}

/// The names behind the numbers of a record.
#[derive(Debug)]
pub(crate) struct Names(Vec<String>);

impl From<Vec<String>> for Names {
    fn from(names: Vec<String>) -> Self {
        Self(names)
    }
}

impl Names {
    pub(crate) fn of(version: &Version, workflow: &str) -> Self {
        let names = version
            .rules(workflow)
            .map(|rules| rules.rules().iter().map(|rule| rule.name().to_owned()).collect());
        Self(names.unwrap_or_default())
    }

    fn rule(&self, index: u32) -> String {
        let name = usize::try_from(index).ok().and_then(|at| self.0.get(at));
        name.cloned().unwrap_or_else(|| format!("rule {index}"))
    }
}

mod erased {
    //! Anything that serializes, as JSON text.

    use serde::Serialize;
    use serde_json::value::{RawValue, to_raw_value};

    pub(super) trait Json {
        fn raw(&self) -> Box<RawValue>;
    }

    impl<T: Serialize> Json for T {
        fn raw(&self) -> Box<RawValue> {
            to_raw_value(self).unwrap_or_else(|_| RawValue::NULL.to_owned())
        }
    }
}
