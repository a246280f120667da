//! One turn: what a run is given, what its rules make of it, and the one unit in which all of it becomes durable.
//!
//! The steps are: read the messages of the lease into causes and engine events; evaluate; turn effects into outgoing
//! messages whose ids derive from (run, seq, index); move the run's state; write the journal record. Nothing here waits
//! or reads the store: a turn that needs more (messages of a quarantined run) is given it.

mod asked;
mod held;
mod wishes;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use celesta_engine::{Effect, Event, FactChange, Outcome, Section, Stopped, Stops, Turn};
use celesta_queue::{Leased, NewMessage, QueueName};
use celesta_store::{Cell, Unit};
use celesta_types::{MessageId, Priority};

use self::asked::Asked;
use self::held::{hold, kept, pause};
use self::wishes::Wishes;
pub(crate) use self::wishes::wakes;
use crate::facts::Written;
use crate::invariants;
use crate::live::Live;
use crate::record::{Cause, Change, Firing, Note, Record, Recorded};
use crate::release::{Upgraded, upgrade};
use crate::schema::{JOURNAL_APPEND, SNAPSHOT_UPSERT};
use crate::send::{Outgoing, Steered};
use crate::state::{RunState, RunStep};
use crate::view::{ProgressView, StoppedBy, StoppedView};

/// A snapshot is taken when the deltas since the last one are this many,
const DELTAS_PER_SNAPSHOT: usize = 256;
/// or together as large as the last snapshot and at least this: reading a run costs at most about twice its size.
const DELTA_BYTES_PER_SNAPSHOT: usize = 64 * 1024;
/// A result larger than this belongs into an artifact: it is kept in the run's row.
const RESULT_BYTES_MAX: usize = 256 * 1024;

/// What a turn leaves behind.
pub(crate) struct Done {
    /// The run as it is once the unit is durable; none when it must be read again.
    pub(crate) live: Option<Box<Live>>,
    /// What becomes durable; the acknowledgement of the messages is added by the caller.
    pub(crate) unit: Unit,
    /// What is sent.
    pub(crate) outgoing: Vec<NewMessage>,
    /// Messages of the run that are called off.
    pub(crate) canceled: Vec<MessageId>,
    /// Messages that move within the order of their queues.
    pub(crate) reprioritized: Vec<(QueueName, Vec<(MessageId, Priority)>)>,
    /// New child runs, already part of the unit.
    #[expect(
        clippy::vec_box,
        reason = "they go to the cache as they are, which keeps boxes"
    )]
    pub(crate) children: Vec<Box<Live>>,
    /// What became of facts that clients have written.
    pub(crate) answers: Vec<(MessageId, Written)>,
    /// How many sections ran.
    pub(crate) firings: usize,
    /// Whether a sweep's order changed the run, besides what fired.
    pub(crate) changed: bool,
}

/// Evaluates one turn of `live` for `messages`; `held` is what was kept for a run that goes on with this turn.
pub(crate) fn turn(
    mut live: Box<Live>,
    messages: &[Leased],
    held: &[Vec<u8>],
    sender: &Outgoing<'_>,
) -> Done {
    let mut steered = Steered::default();
    let causes = if live.head.state == RunState::Canceled {
        Vec::new()
    } else {
        sender.steer(&mut live, messages, &mut steered)
    };
    let mut done = take_turn(live, messages, held, sender, causes);
    done.outgoing.append(&mut steered.outgoing);
    done.reprioritized.append(&mut steered.reprioritized);
    done
}

fn take_turn(
    mut live: Box<Live>,
    messages: &[Leased],
    held: &[Vec<u8>],
    sender: &Outgoing<'_>,
    causes: Vec<Cause>,
) -> Done {
    let now = sender.now;
    let order = sender.stopped.clone();
    let ordered = order.is_some();
    let wishes = Wishes::of(&live, messages, ordered);
    let admitted = wishes.start && live.head.state == RunState::Waiting;
    if admitted && let Ok(state) = live.head.state.after(RunStep::Admit) {
        live.head.state = state;
    }
    let state = live.head.state;
    if !wishes.cancel {
        match (state, wishes.pause.or(order)) {
            (RunState::Running | RunState::Idle, Some(stop)) if !wishes.resume => {
                return pause(live, held, messages, now, stop, causes);
            }
            (RunState::Quarantined, _) if !wishes.retry => return hold(live, messages, now, causes),
            (RunState::Paused, _) if !wishes.resume => return hold(live, messages, now, causes),
            (RunState::Waiting, _) => return hold(live, messages, now, causes),
            _ => {}
        }
    }
    let mut asked = Asked {
        causes,
        admitted,
        ordered,
        ..Asked::default()
    };
    // Its first message may have been overtaken by another.
    asked.start(&mut live);
    for payload in held {
        // Nobody waits any more for what was kept.
        asked.read(&mut live, None, payload);
    }
    for message in messages {
        asked.read(&mut live, Some(message.id), &message.payload);
    }
    if state == RunState::Canceled {
        // Whatever was still on its way to a canceled run ends here.
        let answers = asked.answers(live.seq, |_| Some("the run was canceled".to_owned()));
        let mut done = Done {
            answers,
            ..Done::nothing_of()
        };
        if wishes.start || wishes.retry {
            // Its gates let it in too late.
            sender.leave_gates(&live, &mut done);
        }
        done.live = Some(live);
        return done;
    }
    asked.upgraded = upgrade(&mut live, sender.registry);
    if asked.retry && state.after(RunStep::Retry).is_ok() {
        live.head.state = RunState::Running;
        live.head.error = None;
        live.head.ended_at = None;
    }
    if asked.resume && state.after(RunStep::Resume).is_ok() {
        live.head.state = RunState::Running;
    }
    if live.head.state != RunState::Paused && live.head.steering().stopped.is_some() {
        live.head.steering_mut().stopped = None;
        live.steered = true;
    }
    let seq = live.seq + 1;
    let mut events = std::mem::take(&mut asked.events);
    // Last in the list, so that the others keep their places; the engine looks at it first.
    events.extend(sender.shared.clone().map(Event::Shared));
    let turn = Turn {
        seq,
        now_ms: now.as_millis(),
        events,
    };
    let mut breakpoints = Vec::new();
    // Nobody could let a finished run go on.
    if !live.head.state.is_ended() {
        breakpoints.clone_from(&live.head.steering().breakpoints);
        sender
            .orders
            .breakpoints(&live.head.service, &live.head.workflow, &mut breakpoints);
    }
    let stops = Stops {
        rules: &breakpoints,
        all: wishes.step,
        free: wishes.resume.into(),
    };
    let evaluated = catch_unwind(AssertUnwindSafe(|| live.memory.turn_until(turn, &stops)));
    match evaluated {
        Ok(outcome) if outcome.fault.is_none() => settle(live, asked, outcome, sender),
        Ok(outcome) => {
            let fault = outcome.fault.map_or_else(String::new, |fault| fault.to_string());
            quarantine(live, kept(held, messages), sender, fault)
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
                .unwrap_or_default();
            tracing::error!(run = %live.head.run, seq, panic = %text, "a turn broke an invariant; the run is put aside");
            quarantine(
                live,
                kept(held, messages),
                sender,
                format!("internal error: {text}"),
            )
        }
    }
}

/// The turn stands: effects go out, the state moves, the journal grows.
fn settle(mut live: Box<Live>, mut asked: Asked, outcome: Outcome, sender: &Outgoing<'_>) -> Done {
    let mut done = Done::nothing_of();
    let now = sender.now;
    let seq = live.seq + 1;
    if !asked.writes.is_empty() {
        done.answers = asked.answers(seq, |event| {
            let refused = outcome.rejected.iter().find(|(at, _)| *at == event);
            refused.map(|(_, why)| why.clone())
        });
        for (writes, (_, written)) in asked.writes.iter().zip(&done.answers) {
            if let Some(Cause::FactsWritten { refused, .. }) = asked.causes.get_mut(writes.cause) {
                refused.clone_from(&written.refused);
            }
        }
    }
    done.firings = outcome.firings.len();
    for rejected in asked
        .rejected
        .iter()
        .chain(outcome.rejected.iter().map(|(_, message)| message))
    {
        tracing::debug!(run = %live.head.run, seq, message = %rejected, "a message changed nothing");
    }
    sender.wake(&mut live, outcome.next_wake_ms, &mut done);
    // What would have said that they are late is called off.
    let answered = asked.in_time.iter();
    done.canceled
        .extend(answered.map(|call| MessageId::derived(live.head.run, *call)));
    for call in std::mem::take(&mut asked.late) {
        sender.cancel_child(&live, call, "it has not answered in time", &mut done);
    }
    if asked.avoided > 0 {
        live.head.steering_mut().avoided += asked.avoided;
        live.steered = true;
    }
    if live.was_let_in_too_late(&asked.causes) {
        sender.leave_gates(&live, &mut done);
    }
    if asked.causes.is_empty()
        && asked.upgraded.is_none()
        && outcome.effects.is_empty()
        && outcome.firings.is_empty()
        && outcome.changes.is_empty()
        && outcome.stopped.is_none()
    {
        done.live = Some(live);
        return done;
    }
    if asked.woken && asked.upgraded.is_none() {
        asked.causes.push(Cause::Woken);
    }
    if let Some(upgraded) = asked.upgraded {
        let Upgraded { from, to } = upgraded;
        asked.causes.push(Cause::Upgraded { from, to });
        upgraded.write(&mut done.unit, live.head.run, seq);
    }
    let swept = asked.sweeps.iter().map(|&sweep| Cause::Swept { sweep });
    asked.causes.extend(swept);
    let before = live.head.state;
    let mut changed =
        asked.admitted || asked.upgraded.is_some() || (live.seq == 0 && before != RunState::Running);
    let mut record = Record {
        at: now,
        causes: asked.causes,
        delta: outcome.delta,
        ..Record::default()
    };
    record.firings.reserve(outcome.firings.len());
    for firing in outcome.firings {
        record.firings.push(Firing {
            rule: u32::try_from(firing.rule).unwrap_or(u32::MAX),
            section: match firing.section {
                Section::Action => 0,
                Section::Reaction => 1,
                Section::Error => 2,
            },
            facts: firing
                .facts
                .iter()
                .map(|(fact, version)| (fact.0, u64::from(*version)))
                .collect(),
            threw: firing.error,
        });
    }
    record.changes = outcome
        .changes
        .iter()
        .map(|change| changed_fact(&live, change))
        .collect();
    let mut ended = None;
    record.effects.reserve(outcome.effects.len());
    for effect in outcome.effects {
        let recorded = match effect {
            Effect::Complete { result_json } if result_json.len() > RESULT_BYTES_MAX => {
                let message = format!(
                    "the result has {} bytes, more than {RESULT_BYTES_MAX}; store it as an artifact and complete with its reference",
                    result_json.len()
                );
                ended = Some(RunStep::Fails);
                live.head.error = Some(message.as_str().into());
                Recorded::Fail { message }
            }
            Effect::Complete { result_json } => {
                ended = Some(RunStep::Completes);
                live.head.result = Some(Arc::clone(&result_json));
                Recorded::Complete {
                    result: result_json.to_string(),
                }
            }
            Effect::Fail { message, .. } => {
                ended = Some(RunStep::Fails);
                live.head.error = Some(message.as_str().into());
                Recorded::Fail { message }
            }
            Effect::Progress { fraction, text } => {
                live.head.progress = Some(ProgressView {
                    fraction,
                    text: text.clone(),
                });
                changed = true;
                Recorded::Progress { fraction, text }
            }
            other => {
                if let Effect::Emit {
                    event_type,
                    data_json,
                } = &other
                {
                    sender.emit(&live, record.effects.len(), event_type, data_json, &mut done);
                }
                sender.send(&mut live, other, &mut done)
            }
        };
        record.effects.push(recorded);
    }
    let step = match (&asked.cancel, ended) {
        (Some(reason), _) => {
            live.head.error = Some(reason.as_str().into());
            RunStep::Cancel
        }
        (None, Some(step)) => step,
        (None, None) if outcome.outstanding == 0 => RunStep::Rests,
        (None, None) => RunStep::Awaits,
    };
    if let Ok(state) = before.after(step) {
        live.head.state = state;
    }
    if live.head.state.is_ended() && (ended.is_some() || live.head.state != before) {
        live.head.ended_at = Some(now);
        changed = true;
        sender.answer_parent(&live, &mut done);
        sender.leave_gates(&live, &mut done);
        if outcome.stopped.is_some() {
            // What it stopped before as it finished nobody holds any more.
            sender.wake(&mut live, Some(now.as_millis() + 1), &mut done);
        }
    } else if let Some(at) = &outcome.stopped {
        stop_before(&mut live, at, asked.resume, &mut record);
        changed = true;
    }
    if changed || live.head.state != before || asked.retry || asked.resume {
        live.head.updated_at = now;
        live.head.update(&mut done.unit);
    }
    invariants::debug_follows(before, &record, live.head.state);
    append(&mut live, seq, &record, &mut done.unit);
    done.live = Some(live);
    done
}

/// The run has come to a breakpoint, or was to go on by one firing only.
fn stop_before(live: &mut Live, at: &Stopped, resumed: bool, record: &mut Record) {
    let rule = live.rules.rules().get(at.rule).map_or("", |rule| rule.name());
    let by = if resumed {
        StoppedBy::Step
    } else {
        StoppedBy::Breakpoint
    };
    let stopped = StoppedView {
        by,
        rule: Some(rule.to_owned()),
        facts: at
            .facts
            .iter()
            .map(|(fact, version)| (fact.0, u64::from(*version)))
            .collect(),
        reason: String::new(),
        actor: String::new(),
    };
    record.note = Some(Note::Stopped {
        rule: rule.to_owned(),
        facts: stopped.facts.clone(),
    });
    live.head.state = RunState::Paused;
    live.head.steering_mut().stopped = Some(stopped);
    live.steered = true;
}

fn changed_fact(live: &Live, change: &FactChange) -> Change {
    let mut types = live.rules.fact_types();
    let fact_type = types
        .position(|known| *known.name == *change.fact_type)
        .and_then(|at| u32::try_from(at).ok());
    let kind = match change.change {
        celesta_engine::Change::Inserted => 0,
        celesta_engine::Change::Updated => 1,
        celesta_engine::Change::Retracted => 2,
    };
    Change {
        fact: change.fact.0,
        fact_type: fact_type.unwrap_or(u32::MAX),
        kind,
    }
}

/// The turn cannot stand: its changes are dropped, its messages kept for a retry, the run put aside.
fn quarantine(mut live: Box<Live>, messages: Vec<Vec<u8>>, sender: &Outgoing<'_>, reason: String) -> Done {
    let mut done = Done::nothing_of();
    let now = sender.now;
    let seq = live.seq + 1;
    tracing::warn!(run = %live.head.run, seq, %reason, "a run is put aside");
    if let Ok(state) = live.head.state.after(RunStep::Quarantine) {
        live.head.state = state;
    }
    live.head.error = Some(reason.as_str().into());
    live.head.updated_at = now;
    live.head.ended_at = Some(now);
    live.head.update(&mut done.unit);
    sender.leave_gates(&live, &mut done);
    let record = Record {
        at: now,
        note: Some(Note::Quarantined { reason, messages }),
        ..Record::default()
    };
    append(&mut live, seq, &record, &mut done.unit);
    // The memory holds what was not kept: the next turn reads the run again.
    done
}

/// Adds the journal record, and a snapshot when reading the run would cost too much without.
fn append(live: &mut Live, seq: u64, record: &Record, unit: &mut Unit) {
    let run = live.head.run.to_bytes();
    let at = i64::try_from(seq).unwrap_or(i64::MAX);
    unit.add(
        &JOURNAL_APPEND,
        [Cell::Id(run), at.into(), record.encode().into()],
    );
    if std::mem::take(&mut live.steered) {
        live.head.steer(unit);
    }
    live.seq = seq;
    live.deltas = live.deltas.saturating_add(1);
    live.delta_bytes += record.delta.len();
    let large = live.delta_bytes >= DELTA_BYTES_PER_SNAPSHOT.max(live.snapshot_bytes);
    // A snapshot holds nothing of what is kept for later.
    let keeps = matches!(record.note, Some(Note::Paused { .. } | Note::Quarantined { .. }));
    if !keeps && (large || live.deltas >= DELTAS_PER_SNAPSHOT) {
        let state = live.memory.snapshot();
        live.snapshot_bytes = state.len();
        live.deltas = 0;
        live.delta_bytes = 0;
        unit.add(&SNAPSHOT_UPSERT, [Cell::Id(run), at.into(), state.into()]);
    }
}

impl Live {
    /// Whether an order for the workflow or the service has stopped the run.
    pub(crate) fn is_stopped_by_order(&self) -> bool {
        let stopped = self.head.steering().stopped.as_ref();
        stopped.is_some_and(|stopped| matches!(stopped.by, StoppedBy::Workflow | StoppedBy::Service))
    }

    /// Whether its gates have let the run in for another try when it had ended otherwise.
    fn was_let_in_too_late(&self, causes: &[Cause]) -> bool {
        !self.head.steering().gates.is_empty()
            && self.head.state.is_ended()
            && causes
                .iter()
                .any(|cause| matches!(cause, Cause::RetryRequested { .. }))
    }
}

impl Done {
    fn nothing_of() -> Self {
        Self {
            live: None,
            unit: Unit::new(),
            outgoing: Vec::new(),
            canceled: Vec::new(),
            reprioritized: Vec::new(),
            children: Vec::new(),
            answers: Vec::new(),
            firings: 0,
            changed: false,
        }
    }
}
