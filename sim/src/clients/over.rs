//! What people do over: a run's request once more, or a run from where one of its rules first fired, with facts changed.

use celesta_runs::{Restart, RestartError, Runtime, SubmitError, Wish};
use celesta_types::{ErrorKind, RunId};

use super::{Answer, Ask, Known, Model, Refusal, Span};
use crate::node::Waiting;

/// Notes with such numbers are written by whoever does a run over.
pub(crate) const EDITS: i64 = 1_000_000;

/// How a run is done over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Its request is asked for again.
    Clone,
    /// It begins again, or goes on before that rule first fired.
    Restart {
        rule: Option<&'static str>,
        /// Whether a note is written then.
        edit: bool,
    },
}

/// A run that is made from another.
#[derive(Debug)]
pub(crate) struct Derived {
    pub(crate) from: RunId,
    pub(crate) how: How,
    pub(crate) known: Known,
    pub(crate) run: Option<RunId>,
    pub(super) span: Span,
}

impl Derived {
    /// The note that is written into it.
    pub(crate) fn edit(number: usize) -> i64 {
        EDITS + i64::try_from(number).unwrap_or(0)
    }
}

impl Model {
    /// Somebody wants a run done over: the number of the wish.
    pub(crate) fn new_derived(&mut self, from: RunId, how: How) -> usize {
        self.moments += 1;
        self.derived.push(Derived {
            from,
            how,
            known: Known::Doubtful,
            run: None,
            span: Span {
                asked: self.moments,
                promised: None,
            },
        });
        self.derived.len() - 1
    }

    /// A client asks for it; a clone has a key and may be asked for again.
    pub(crate) fn derive(&self, runtime: &Runtime, number: usize) -> (Ask, Waiting<Answer>) {
        let Derived { from, how, .. } = self.derived[number];
        let runtime = runtime.clone();
        let answer = async move {
            Answer::Derive(match how {
                How::Clone => {
                    let cloned = runtime.clone_run(from, Some(format!("clone-{number}"))).await;
                    let missing = || Refusal::of(ErrorKind::NotFound, "there is no such run");
                    let refused = |error: SubmitError| Refusal::of(error.kind(), error);
                    let cloned = cloned.map_err(refused);
                    cloned.and_then(|cloned| cloned.map(|cloned| cloned.run).ok_or_else(missing))
                }
                How::Restart { rule, edit } => {
                    let note = format!(
                        r#"[{{"insert":"Note","fields":{{"n":{}}}}}]"#,
                        Derived::edit(number)
                    );
                    let restart = Restart {
                        rule: rule.map(str::to_owned),
                        turn: None,
                        writes: if edit { note.into_bytes() } else { Vec::new() },
                    };
                    let wish = Wish::anonymous("simulated");
                    let restarted = runtime.restart(from, restart, &wish).await;
                    restarted.map_err(|error: RestartError| Refusal::of(error.kind(), error))
                }
            })
        };
        (Ask::Derive { number }, Box::pin(answer))
    }

    /// Somebody says before which rules a run stops.
    pub(crate) fn set_breakpoints(
        runtime: &Runtime,
        run: RunId,
        rules: &[&'static str],
    ) -> (Ask, Waiting<Answer>) {
        let runtime = runtime.clone();
        let rules: Vec<String> = rules.iter().map(|&rule| rule.to_owned()).collect();
        let answer = async move {
            let told = format!("{run} stops before {}", rules.join(", "));
            let set = runtime.set_breakpoints(run, rules, "simulated").await;
            Answer::Told(set.map(|_| told).map_err(|error| error.to_string()))
        };
        (Ask::Told, Box::pin(answer))
    }

    pub(super) fn heard_of_derived(&mut self, number: usize, answer: Result<RunId, Refusal>) -> String {
        let (known, now) = (self.refused(), self.moments);
        let derived = &mut self.derived[number];
        match answer {
            Ok(run) => {
                derived.known = Known::Promised;
                match derived.run.replace(run) {
                    None => {
                        derived.span.promised = Some(now);
                        self.runs.push(run);
                        if let Some(&workload) = self.workload_of.get(&derived.from) {
                            self.workload_of.insert(run, workload);
                        }
                    }
                    Some(before) if before == run => {}
                    Some(before) => self.violations.push(format!(
                        "wish {number} to do {} over was promised as {before} and as {run}",
                        derived.from
                    )),
                }
                format!("{} is done over as {run}", derived.from)
            }
            Err(Refusal { kind, text }) => {
                let may_be = matches!(
                    kind,
                    ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::NotFound
                );
                // Another try of the same wish may have come through unheard.
                if derived.how != How::Clone || kind == ErrorKind::NotFound {
                    derived.known = known;
                }
                if !may_be {
                    self.violations
                        .push(format!("a good wish to do a run over was refused: {text}"));
                }
                format!("{} is not done over: {text}", derived.from)
            }
        }
    }
}
