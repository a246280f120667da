//! Calls as they go: attempts, answers, retries by the function's own policy.

use celesta_engine::{CallError, Event};
use celesta_functions::{Verdict, retry};
use celesta_types::{CallId, ErrorClass};
use serde_json::Value;

use super::{Call, Due, World};
use crate::scenario::read::{Answer, Callee, Reply};
use crate::scenario::template::{Names, fits, shown};

/// The middle of the jitter: waits are exactly what the policy says.
const NO_JITTER: f64 = 0.5;

impl World<'_> {
    pub(super) fn happen(&mut self, due: Due, events: &mut Vec<Event>) {
        match due {
            Due::Event(event) => events.push(event),
            Due::Sharing(change) => {
                let rules = std::sync::Arc::clone(self.memory.rules());
                match self.service.change(&rules, change) {
                    Ok(()) => self.shared_changed = true,
                    Err(message) => self.trace.broken.push(message),
                }
            }
            Due::Attempt { call, attempt } => self.attempt(call, attempt),
            Due::Timer { call } => {
                if self.timers.remove(&call) {
                    events.push(Event::TimerFired { call });
                }
            }
            Due::Succeeded { call, result } => {
                if self.calls.remove(&call).is_none() {
                    return;
                }
                match serde_json::from_value(result) {
                    Ok(result) => events.push(Event::CallSucceeded { call, result }),
                    Err(error) => self.trace.broken.push(error.to_string()),
                }
            }
            Due::Failed {
                call,
                attempt,
                class,
                message,
            } => {
                let Some(open) = self.calls.get(&call) else { return };
                let (name, verdict) = match &open.callee {
                    Callee::Function(name) => {
                        let policy = &self.bundle.functions[name].retry;
                        (name.clone(), retry::next(policy, class, attempt, NO_JITTER))
                    }
                    Callee::Request(target) => (target.clone(), Verdict::GiveUp),
                };
                match verdict {
                    Verdict::Retry { after_ms, .. } => {
                        let at_ms = self
                            .now_ms
                            .saturating_add(i64::try_from(after_ms).unwrap_or(i64::MAX));
                        // A preempted attempt is not counted.
                        let attempt = if class == ErrorClass::Preempted {
                            attempt
                        } else {
                            attempt + 1
                        };
                        self.arrange(at_ms, Due::Attempt { call, attempt });
                    }
                    Verdict::GiveUp => {
                        self.calls.remove(&call);
                        let error = CallError {
                            kind: class,
                            message,
                            function: name.as_str().into(),
                            attempts: attempt,
                        };
                        events.push(Event::CallFailed { call, error });
                    }
                }
            }
        }
    }

    /// One attempt of a call begins: the first answer that fits says how it ends.
    fn attempt(&mut self, call: CallId, attempt: u32) {
        let Some(open) = self.calls.get(&call) else { return };
        let name = match &open.callee {
            Callee::Function(name) | Callee::Request(name) => name.clone(),
        };
        *self.trace.attempts.entry(name.clone()).or_default() += 1;
        if let Callee::Function(function) = &open.callee
            && let Some(schema) = &self.bundle.functions[function].input
        {
            let violations = schema.violations(&open.input);
            if !violations.is_empty() {
                let list: Vec<String> = violations.iter().map(ToString::to_string).collect();
                let message = format!(
                    "the input does not fit the schema of `{name}`: {}",
                    list.join("; ")
                );
                return self.arrange(
                    self.now_ms,
                    Due::Failed {
                        call,
                        attempt,
                        class: ErrorClass::Input,
                        message,
                    },
                );
            }
        }
        let answers = &self.scenario.answers;
        let pattern = Names {
            run: self.trace.run,
            input: None,
        };
        let fitting = |(at, answer): &(usize, &Answer)| {
            answer.to == open.callee
                && answer.times.is_none_or(|times| self.used[*at] < times)
                && answer
                    .when
                    .as_ref()
                    .is_none_or(|when| pattern.fill(when).is_ok_and(|when| fits(&when, &open.input)))
        };
        let Some((at, answer)) = answers.iter().enumerate().find(fitting) else {
            let input = shown(&open.input);
            self.trace.broken.push(format!(
                "calls: no answer for attempt {attempt} of `{name}` with the input {input}"
            ));
            return;
        };
        let names = Names {
            run: self.trace.run,
            input: Some(&open.input),
        };
        let mut after_ms = answer.after_ms;
        let mut due = match &answer.reply {
            Reply::Never => None,
            Reply::Error { class, message } => Some(Due::Failed {
                call,
                attempt,
                class: *class,
                message: message.clone(),
            }),
            Reply::Result(result) => match names.fill(result) {
                Ok(result) => {
                    if let Some(problem) = self.unfit_result(&open.callee, &result) {
                        self.trace.broken.push(problem);
                        return;
                    }
                    Some(Due::Succeeded { call, result })
                }
                Err(message) => {
                    self.trace.broken.push(format!("answer of `{name}`: {message}"));
                    return;
                }
            },
        };
        if let Some(timeout_ms) = open.timeout_ms
            && (due.is_some() && after_ms > timeout_ms)
        {
            after_ms = timeout_ms;
            let message = format!("the attempt took longer than {timeout_ms} ms");
            due = Some(Due::Failed {
                call,
                attempt,
                class: ErrorClass::Timeout,
                message,
            });
        }
        self.used[at] += 1;
        if let Some(due) = due {
            self.arrange(self.now_ms.saturating_add(after_ms), due);
        }
    }

    /// A worker refuses results that do not fit the function's schema, so a scenario must not give them.
    fn unfit_result(&self, callee: &Callee, result: &Value) -> Option<String> {
        let Callee::Function(name) = callee else {
            return None;
        };
        let violations = self.bundle.functions[name].output.as_ref()?.violations(result);
        let list: Vec<String> = violations.iter().map(ToString::to_string).collect();
        (!list.is_empty()).then(|| {
            format!(
                "answer of `{name}`: the result does not fit its schema: {}",
                list.join("; ")
            )
        })
    }

    pub(super) fn open(
        &mut self,
        call: CallId,
        callee: Callee,
        input: &str,
        delay_ms: Option<i64>,
        timeout_ms: Option<i64>,
    ) {
        let (Callee::Function(name) | Callee::Request(name)) = &callee;
        *self.trace.calls.entry(name.clone()).or_default() += 1;
        let input = serde_json::from_str(input).unwrap_or(Value::Null);
        self.calls.insert(
            call,
            Call {
                callee,
                input,
                timeout_ms,
            },
        );
        let begin = self.now_ms.saturating_add(delay_ms.unwrap_or(0));
        self.arrange(begin, Due::Attempt { call, attempt: 1 });
    }
}
