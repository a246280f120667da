//! The clients: what they ask, and what they were promised.

use std::collections::BTreeMap;
use std::time::Duration;

use celesta_runs::{
    LifecycleError, RunState, RunView, Runtime, Submit, SubmitError, Wish, WriteError, WriteFacts, Written,
};
use celesta_types::{ErrorKind, RunId};

use crate::node::Waiting;
use crate::workloads::WORKLOADS;

/// The label that says which try of a client made a run.
pub(crate) const TRY: &str = "try";
/// How long a client waits for a run to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    /// A run, with the try of that number.
    Run { tried: usize },
    /// That the note is written, with its try of that number.
    Note { note: usize },
    /// That a wish is durable.
    Steer { run: RunId, how: Steer },
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
}

/// What a client heard.
#[derive(Debug)]
pub(crate) enum Answer {
    Run(Result<RunId, SubmitError>),
    Note(Result<Option<Written>, WriteError>),
    Steer(Result<RunState, LifecycleError>),
    End(Option<Box<RunView>>),
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
    pub(crate) run: Option<RunId>,
}

/// One try of a request.
#[derive(Debug)]
pub(crate) struct Try {
    pub(crate) request: usize,
    pub(crate) known: Known,
    pub(crate) run: Option<RunId>,
}

/// A fact written from outside.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) run: RunId,
    pub(crate) key: Option<String>,
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
    /// The runs that were promised, in the order they were.
    pub(crate) runs: Vec<RunId>,
    pub(crate) workload_of: BTreeMap<RunId, usize>,
    /// Runs whose cancel was promised.
    pub(crate) canceled: BTreeMap<RunId, Known>,
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
            workload, input, key, ..
        } = &self.requests[request];
        let tried = self.tries.len();
        let submit = Submit {
            service: "main".to_owned(),
            operation: WORKLOADS[*workload].operation.to_owned(),
            input: input.clone().into_bytes(),
            idempotency_key: key.clone(),
            labels: BTreeMap::from([(TRY.to_owned(), tried.to_string())]),
            ..Submit::default()
        };
        self.tries.push(Try {
            request,
            known: Known::Doubtful,
            run: None,
        });
        let runtime = runtime.clone();
        let answer = async move {
            let submitted = runtime.submit(submit, None).await;
            Answer::Run(submitted.map(|submitted| submitted.run))
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
        let write = WriteFacts {
            writes: format!(r#"[{{"insert":"Note","fields":{{"n":{number}}}}}]"#).into_bytes(),
            idempotency_key: note.key.clone(),
            by: "simulated".to_owned(),
        };
        let runtime = runtime.clone();
        let answer = async move { Answer::Note(runtime.write_facts(run, write, PATIENCE).await) };
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
            })
        };
        (Ask::Steer { run, how }, Box::pin(answer))
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
        match (ask, answer) {
            (Ask::Run { tried }, Answer::Run(answer)) => self.heard_of_run(tried, answer),
            (Ask::Note { note }, Answer::Note(answer)) => self.heard_of_note(note, answer),
            (Ask::Steer { run, how }, Answer::Steer(answer)) => self.heard_of_wish(run, how, answer),
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

    const fn refused(&self) -> Known {
        if self.lied_to {
            Known::Doubtful
        } else {
            Known::Refused
        }
    }

    fn heard_of_run(&mut self, tried: usize, answer: Result<RunId, SubmitError>) -> String {
        let known = self.refused();
        let one = &mut self.tries[tried];
        let request = &mut self.requests[one.request];
        match answer {
            Ok(run) => {
                (one.known, one.run) = (Known::Promised, Some(run));
                match request.run {
                    None => {
                        request.run = Some(run);
                        self.runs.push(run);
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
            Err(error) => {
                one.known = known;
                if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict) {
                    self.violations
                        .push(format!("a good request was refused: {error}"));
                }
                format!("try {tried} is refused: {error}")
            }
        }
    }

    fn heard_of_note(&mut self, number: usize, answer: Result<Option<Written>, WriteError>) -> String {
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
            Err(error) => {
                // Somebody else's try may have been promised before.
                if note.known == Known::Doubtful && note.tries == 1 {
                    note.known = known;
                }
                format!("note {number} is refused: {error}")
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
