//! The clients: what they ask, and what they were promised. What they ask by events is in `clients/events.rs`, what they
//! write for all runs of a service in `clients/sharing.rs`, what they order for all runs of a workflow in
//! `clients/orders.rs`, what they do to all runs of a filter in `clients/bulk.rs`, what they do over in `clients/over.rs`,
//! and how they steer sweeps in `clients/sweeps.rs`.

mod bulk;
mod events;
mod orders;
mod over;
mod sharing;
mod sweeps;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use celesta_runs::{
    Action, LifecycleError, OperationError, OrderError, ReleaseError, RunState, RunView, Runtime,
    SharedWritten, Submit, SubmitError, SweepError, SweepState, Wish, WriteError, WriteFacts,
    WriteSharedError, Written,
};
use celesta_types::{ErrorKind, RunId, SweepId};

pub(crate) use self::bulk::Bulk;
pub(crate) use self::orders::{Order, SCOPES};
pub(crate) use self::over::{Derived, EDITS, How};
pub(crate) use self::sharing::{Share, fact_of};
pub(crate) use self::sweeps::SweepWish;
use crate::node::Waiting;
use crate::workloads::{MAIN, WORKLOADS};

/// The label that says which try of a client made a run.
pub(crate) const TRY: &str = "try";
/// The label that says which run has emitted the event that made a run.
pub(crate) const EMITTER: &str = "emitter";
/// How long a client waits for a run to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    /// A run, with the try of that number.
    Run { tried: usize },
    /// That the note is written, with its try of that number.
    Note { note: usize },
    /// That the write to the shared facts of that number is durable.
    Share { number: usize },
    /// That a wish is durable.
    Steer { run: RunId, how: Steer },
    /// That another version is current.
    Release,
    /// That the runs of that scope are stopped, or let go on.
    Order { scope: usize, pause: bool },
    /// That the bulk operation of that number is accepted.
    Bulk { number: usize },
    /// That the run is done over or repeated, with the wish of that number.
    Derive { number: usize },
    /// That a sweep is steered.
    Sweep { sweep: SweepId, wish: SweepWish },
    /// Something that nobody counts on.
    Told,
    /// The end of a run.
    End,
}

/// What people do to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Steer {
    Cancel,
    Pause,
    Resume,
    Retry,
    Step,
}

/// What a client heard.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The run; none when the event that asked for it was known already.
    Run(Result<Option<RunId>, Refusal>),
    Note(Result<Option<Written>, Refusal>),
    Share(Result<SharedWritten, WriteSharedError>),
    Steer(Result<RunState, LifecycleError>),
    Release(Result<(), ReleaseError>),
    Order(Result<(), OrderError>),
    Bulk(Result<(), OperationError>),
    Derive(Result<RunId, Refusal>),
    Sweep(Result<SweepState, SweepError>),
    Told(Result<String, String>),
    End(Option<Box<RunView>>),
}

/// Why something was not done.
#[derive(Debug)]
pub(crate) struct Refusal {
    kind: ErrorKind,
    text: String,
}

impl Refusal {
    fn of(kind: ErrorKind, error: impl std::fmt::Display) -> Self {
        Self {
            kind,
            text: error.to_string(),
        }
    }
}

/// What is known of something that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nobody has answered: it may be so or not.
    Doubtful,
    /// It is so.
    Promised,
    /// It is not so.
    Refused,
}

/// A request of a client, asked once or, with a key, again until it is answered.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) workload: usize,
    pub(crate) input: String,
    pub(crate) key: Option<String>,
    /// The type of the event that asks, where one does.
    pub(crate) event: Option<&'static str>,
    pub(crate) run: Option<RunId>,
}

/// One try of a request.
#[derive(Debug)]
pub(crate) struct Try {
    pub(crate) request: usize,
    pub(crate) known: Known,
    pub(crate) run: Option<RunId>,
    /// When it was asked and when it was promised, by the count of what clients ask and hear.
    span: Span,
}

/// When something was asked for, and when it was promised if it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) asked: u64,
    pub(crate) promised: Option<u64>,
}

impl Try {
    const fn of(request: usize, asked: u64) -> Self {
        Self {
            request,
            known: Known::Doubtful,
            run: None,
            span: Span {
                asked,
                promised: None,
            },
        }
    }
}

/// A fact written from outside.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) run: RunId,
    pub(crate) key: Option<String>,
    /// Whether it is told by an event; its key is the event's id then.
    pub(crate) by_event: bool,
    pub(crate) known: Known,
    /// How often it was asked for without an answer or with one that says it is so.
    pub(crate) tries: usize,
}

/// Everything clients know.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) requests: Vec<Request>,
    pub(crate) tries: Vec<Try>,
    pub(crate) notes: Vec<Note>,
    pub(crate) shares: Vec<Share>,
    /// The runs that were promised, in the order they were.
    pub(crate) runs: Vec<RunId>,
    pub(crate) workload_of: BTreeMap<RunId, usize>,
    /// Runs whose cancel was promised.
    pub(crate) canceled: BTreeMap<RunId, Known>,
    pub(crate) orders: BTreeMap<usize, Order>,
    pub(crate) bulks: Vec<Bulk>,
    pub(crate) derived: Vec<Derived>,
    /// Sweeps that were promised to be paused, and nobody has let go on since.
    pub(crate) paused_sweeps: BTreeSet<SweepId>,
    /// Whether a sweep may have been given up: some runs have not heard what was written then.
    pub(crate) has_aborted: bool,
    /// How often clients have asked or heard.
    moments: u64,
    /// Results that clients have seen of completed runs.
    pub(crate) seen: BTreeMap<RunId, Option<String>>,
    /// Refusals are lies at this moment: the disk has kept what it says it has not.
    pub(crate) lied_to: bool,
    pub(crate) violations: Vec<String>,
}

impl Model {
    /// A client asks for a run.
    pub(crate) fn submit(&mut self, runtime: &Runtime, request: usize) -> (Ask, Waiting<Answer>) {
        let Request {
            workload,
            input,
            key,
            event,
            ..
        } = &self.requests[request];
        let tried = self.tries.len();
        self.moments += 1;
        let asked = self.moments;
        if let Some(event_type) = event {
            let event = events::asking(event_type, request, tried, input);
            self.tries.push(Try::of(request, asked));
            return (Ask::Run { tried }, events::publish_request(runtime, event));
        }
        let submit = Submit {
            service: WORKLOADS[*workload].service.to_owned(),
            operation: WORKLOADS[*workload].operation.to_owned(),
            input: input.clone().into_bytes(),
            idempotency_key: key.clone(),
            labels: BTreeMap::from([(TRY.to_owned(), tried.to_string())]),
            ..Submit::default()
        };
        self.tries.push(Try::of(request, asked));
        let runtime = runtime.clone();
        let answer = async move {
            let submitted = runtime.submit(submit, None).await;
            let refused = |error: SubmitError| Refusal::of(error.kind(), error);
            Answer::Run(submitted.map(|submitted| Some(submitted.run)).map_err(refused))
        };
        (Ask::Run { tried }, Box::pin(answer))
    }

    /// A client writes a note.
    pub(crate) fn write(&mut self, runtime: &Runtime, number: usize) -> (Ask, Waiting<Answer>) {
        let note = &mut self.notes[number];
        note.tries += 1;
        if note.known == Known::Refused {
            note.known = Known::Doubtful;
        }
        let run = note.run;
        if note.by_event {
            let event = events::telling(run, number);
            return (Ask::Note { note: number }, events::publish_note(runtime, event));
        }
        let write = WriteFacts {
            writes: format!(r#"[{{"insert":"Note","fields":{{"n":{number}}}}}]"#).into_bytes(),
            idempotency_key: note.key.clone(),
            by: "simulated".to_owned(),
        };
        let runtime = runtime.clone();
        let answer = async move {
            let written = runtime.write_facts(run, write, PATIENCE).await;
            Answer::Note(written.map_err(|error: WriteError| Refusal::of(error.kind(), error)))
        };
        (Ask::Note { note: number }, Box::pin(answer))
    }

    /// Somebody steers a run.
    pub(crate) fn steer(runtime: &Runtime, run: RunId, how: Steer) -> (Ask, Waiting<Answer>) {
        let runtime = runtime.clone();
        let answer = async move {
            let wish = Wish::anonymous("simulated");
            Answer::Steer(match how {
                Steer::Cancel => runtime.cancel(run, &wish).await,
                Steer::Pause => runtime.pause(run, &wish).await,
                Steer::Resume => runtime.resume(run, &wish).await,
                Steer::Retry => runtime.retry(run, &wish).await,
                Steer::Step => runtime.act(run, Action::Step, &wish).await,
            })
        };
        (Ask::Steer { run, how }, Box::pin(answer))
    }

    /// Somebody makes the next version current, or takes it back.
    pub(crate) fn release(runtime: &Runtime, forward: bool) -> (Ask, Waiting<Answer>) {
        let runtime = runtime.clone();
        let answer = async move {
            Answer::Release(if forward {
                runtime.promote(MAIN).await.map(drop)
            } else {
                runtime.roll_back(MAIN).await.map(drop)
            })
        };
        (Ask::Release, Box::pin(answer))
    }

    /// A client waits for the end of a run.
    pub(crate) fn wait(runtime: &Runtime, run: RunId) -> (Ask, Waiting<Answer>) {
        let runtime = runtime.clone();
        let answer = async move {
            let view = runtime.wait(run, PATIENCE).await.ok().flatten();
            Answer::End(view.map(Box::new))
        };
        (Ask::End, Box::pin(answer))
    }

    /// A client hears; gives the line for the trace.
    pub(crate) fn hear(&mut self, ask: Ask, answer: Answer) -> String {
        self.moments += 1;
        match (ask, answer) {
            (Ask::Run { tried }, Answer::Run(answer)) => self.heard_of_run(tried, answer),
            (Ask::Note { note }, Answer::Note(answer)) => self.heard_of_note(note, answer),
            (Ask::Share { number }, Answer::Share(answer)) => self.heard_of_share(number, answer),
            (Ask::Steer { run, how }, Answer::Steer(answer)) => self.heard_of_wish(run, how, answer),
            (Ask::Release, Answer::Release(answer)) => match answer {
                Ok(()) => "another version is current".to_owned(),
                Err(error) => format!("the version stays: {error}"),
            },
            (Ask::Order { scope, pause }, Answer::Order(answer)) => self.heard_of_order(scope, pause, answer),
            (Ask::Bulk { number }, Answer::Bulk(answer)) => self.heard_of_bulk(number, answer),
            (Ask::Derive { number }, Answer::Derive(answer)) => self.heard_of_derived(number, answer),
            (Ask::Sweep { sweep, wish }, Answer::Sweep(answer)) => self.heard_of_sweep(sweep, wish, answer),
            (_, Answer::Told(answer)) => answer.unwrap_or_else(|error| format!("refused: {error}")),
            (_, Answer::End(view)) => self.heard_of_end(view),
            (ask, answer) => {
                self.violations
                    .push(format!("a client that asked {ask:?} was answered {answer:?}"));
                String::new()
            }
        }
    }

    /// Nobody answers any more.
    pub(crate) fn lost(&mut self, ask: Ask) {
        if let Ask::Steer {
            run,
            how: Steer::Cancel,
        } = ask
        {
            self.canceled.entry(run).or_insert(Known::Doubtful);
        }
    }

    /// When the promised runs were asked for first and promised first.
    pub(crate) fn spans(&self) -> BTreeMap<RunId, Span> {
        let mut asked: BTreeMap<usize, u64> = BTreeMap::new();
        for tried in &self.tries {
            asked.entry(tried.request).or_insert(tried.span.asked);
        }
        let mut spans: BTreeMap<RunId, Span> = BTreeMap::new();
        for tried in &self.tries {
            let (Some(run), Some(promised)) = (tried.run, tried.span.promised) else {
                continue;
            };
            let asked = asked.get(&tried.request).copied().unwrap_or(0);
            let span = spans.entry(run).or_insert(Span {
                asked,
                promised: None,
            });
            span.promised = Some(span.promised.map_or(promised, |before| before.min(promised)));
        }
        let derived = self.derived.iter().filter_map(|one| Some((one.run?, one.span)));
        spans.extend(derived);
        spans
    }

    const fn refused(&self) -> Known {
        if self.lied_to {
            Known::Doubtful
        } else {
            Known::Refused
        }
    }

    fn heard_of_run(&mut self, tried: usize, answer: Result<Option<RunId>, Refusal>) -> String {
        let known = self.refused();
        let now = self.moments;
        let one = &mut self.tries[tried];
        let request = &mut self.requests[one.request];
        match answer {
            Ok(None) => {
                one.known = Known::Promised;
                format!("try {tried} is known")
            }
            Ok(Some(run)) => {
                (one.known, one.run) = (Known::Promised, Some(run));
                one.span.promised = Some(now);
                match request.run {
                    None => {
                        request.run = Some(run);
                        // What may be archived is left alone: reading it takes the time of a real disk.
                        if !WORKLOADS[request.workload].is_archived() {
                            self.runs.push(run);
                        }
                        self.workload_of.insert(run, request.workload);
                    }
                    Some(before) if before == run => {}
                    Some(before) => self.violations.push(format!(
                        "the request with key {:?} was promised as {before} and as {run}",
                        request.key
                    )),
                }
                format!("try {tried} is {run}")
            }
            Err(Refusal { kind, text }) => {
                one.known = known;
                if !matches!(kind, ErrorKind::Unavailable | ErrorKind::Conflict) {
                    self.violations
                        .push(format!("a good request was refused: {text}"));
                }
                format!("try {tried} is refused: {text}")
            }
        }
    }

    fn heard_of_note(&mut self, number: usize, answer: Result<Option<Written>, Refusal>) -> String {
        let known = self.refused();
        let note = &mut self.notes[number];
        match answer {
            Ok(written) => {
                note.known = Known::Promised;
                if let Some((_, why)) = written.as_ref().and_then(|written| written.refused.first())
                    && why != "the run was canceled"
                {
                    self.violations.push(format!("a good note was refused: {why}"));
                }
                format!("note {number} is written")
            }
            Err(Refusal { text, .. }) => {
                // Somebody else's try may have been promised before.
                if note.known == Known::Doubtful && note.tries == 1 {
                    note.known = known;
                }
                format!("note {number} is refused: {text}")
            }
        }
    }

    fn heard_of_wish(&mut self, run: RunId, how: Steer, answer: Result<RunState, LifecycleError>) -> String {
        match answer {
            Ok(state) => {
                if how == Steer::Cancel {
                    self.canceled.insert(run, Known::Promised);
                }
                format!("{how:?} of {run}, {state}, is promised")
            }
            Err(error) => {
                if self.lied_to && how == Steer::Cancel {
                    self.canceled.entry(run).or_insert(Known::Doubtful);
                }
                format!("{how:?} of {run} is refused: {error}")
            }
        }
    }

    fn heard_of_end(&mut self, view: Option<Box<RunView>>) -> String {
        let Some(view) = view else {
            return "a wait without an answer".to_owned();
        };
        if view.state == RunState::Completed {
            let result = view.result.as_ref().map(|result| result.get().to_owned());
            let before = self.seen.insert(view.id, result.clone());
            if before.is_some_and(|before| before != result) {
                self.violations
                    .push(format!("two results were seen of {}", view.id));
            }
        }
        format!("{} is seen {}", view.id, view.state)
    }
}
