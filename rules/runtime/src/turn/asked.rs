//! What the messages of a lease ask for: read into causes for the journal and events for the engine.
//!
//! What they wish for the run as a whole is noted as well; to grant it is the turn's part.

use celesta_engine::{CallError, Event};
use celesta_functions::{ReportOutcome, RunMessage};
use celesta_types::{CallId, ErrorClass, MessageId, SweepId};

use crate::facts::{Written, events_of};
use crate::live::Live;
use crate::message::{HostMessage, Onward};
use crate::record::{Cause, Ran};
use crate::release::Upgraded;
use crate::state::RunStep;
use crate::sweep::Order;

/// What the messages of a lease ask for.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a wish of its own, and any may come with any other"
)]
pub(super) struct Asked {
    pub(super) causes: Vec<Cause>,
    pub(super) events: Vec<Event>,
    pub(super) cancel: Option<String>,
    pub(super) retry: bool,
    pub(super) resume: bool,
    pub(super) woken: bool,
    pub(super) upgraded: Option<Upgraded>,
    pub(super) sweeps: Vec<SweepId>,
    /// The run has passed its gates with this turn.
    pub(super) admitted: bool,
    /// An order still stops the run's workflow.
    pub(super) ordered: bool,
    /// Requests that were not answered in time.
    pub(super) late: Vec<CallId>,
    /// Requests that were answered before their time was over.
    pub(super) in_time: Vec<CallId>,
    pub(super) avoided: u64,
    pub(super) writes: Vec<Writes>,
    pub(super) rejected: Vec<String>,
}

/// The writes of one client's request.
pub(super) struct Writes {
    message: MessageId,
    /// Where they stand among the causes and the events.
    pub(super) cause: usize,
    events: std::ops::Range<usize>,
}

impl Asked {
    /// What becomes of each client's writes; `refusal` says why the event at a place changed nothing.
    pub(super) fn answers(
        &self,
        turn: u64,
        refusal: impl Fn(usize) -> Option<String>,
    ) -> Vec<(MessageId, Written)> {
        let answers = self.writes.iter().map(|writes| {
            let refused = (0_u32..)
                .zip(writes.events.clone())
                .filter_map(|(at, event)| Some((at, refusal(event)?)))
                .collect();
            let written = Written {
                turn,
                writes: writes.events.len(),
                refused,
            };
            (writes.message, written)
        });
        answers.collect()
    }

    /// Takes in one message; `id` is where somebody waits for what becomes of its writes.
    pub(super) fn read(&mut self, live: &mut Live, id: Option<MessageId>, payload: &[u8]) {
        match RunMessage::decode(payload) {
            Ok(RunMessage::Report(report)) => {
                let call = report.call;
                let ran = Ran {
                    attempts: report.attempt,
                    started: report.started,
                    ended: report.ended,
                    worker: report.worker.to_owned(),
                };
                self.avoided += u64::from(report.avoided);
                match report.outcome {
                    ReportOutcome::Succeeded { result } => self.succeeded(call, result, ran),
                    ReportOutcome::Failed {
                        class,
                        message,
                        attempts,
                    } => {
                        self.failed(
                            call,
                            class,
                            message.to_owned(),
                            String::new(),
                            Ran { attempts, ..ran },
                        );
                    }
                }
            }
            Ok(RunMessage::Host(tag, bytes)) => match HostMessage::decode(tag, bytes) {
                Ok(message) => self.read_host(live, id, message),
                Err(error) => self.rejected.push(error.to_string()),
            },
            Err(error) => self.rejected.push(error.to_string()),
        }
    }

    /// The request itself, before everything else a run is sent; nothing when a turn has used it.
    pub(super) fn start(&mut self, live: &mut Live) {
        let Some(input) = live.input.take() else { return };
        let Some(operation) = live.version.bundle.operations.get(&*live.head.operation) else {
            self.rejected.push(format!(
                "operation `{}` is not in version {}",
                live.head.operation, live.head.version
            ));
            return;
        };
        match operation.request_event(live.head.run, &input) {
            Ok(event) => {
                self.causes.push(Cause::Started);
                self.events.push(event);
            }
            Err(error) => self.rejected.push(error.to_string()),
        }
    }

    fn read_host(&mut self, live: &mut Live, id: Option<MessageId>, message: HostMessage) {
        match message {
            HostMessage::Start => self.start(live),
            HostMessage::Timer(call) => {
                self.causes.push(Cause::TimerFired { call });
                self.events.push(Event::TimerFired { call });
            }
            HostMessage::Cancel { .. } if live.head.state.after(RunStep::Cancel).is_err() => {
                // It has completed since somebody wished so, and goes on as completed runs do.
                self.rejected.push("the run has completed".to_owned());
            }
            HostMessage::Cancel { reason, by } => {
                self.causes.push(Cause::CancelRequested {
                    reason: reason.clone(),
                    by,
                });
                self.events.push(Event::Cancel {
                    reason: reason.clone(),
                });
                self.cancel = Some(reason);
            }
            HostMessage::Retry { reason, by } => {
                self.causes.push(Cause::RetryRequested { reason, by });
                self.events.push(Event::RetryFailed);
                self.retry = true;
            }
            HostMessage::Refused {
                call,
                class,
                message,
                target,
            } => {
                if live.requests.remove(&call) && class == ErrorClass::Timeout && live.timed.remove(&call) {
                    self.late.push(call);
                }
                self.failed(call, class, message, target, Ran::default());
            }
            HostMessage::Answered { call, result } => {
                live.requests.remove(&call);
                if live.timed.remove(&call) {
                    self.in_time.push(call);
                }
                self.succeeded(call, result.as_bytes(), Ran::default());
            }
            HostMessage::Restart { writes, reason, by } => {
                // What the run goes on with was open in another one, or had failed there; nothing when it has just begun.
                self.events.extend([Event::Remake, Event::RetryFailed]);
                match events_of(writes.as_bytes()) {
                    Ok(events) => self.events.extend(events),
                    Err(error) => self.rejected.push(error),
                }
                self.causes.push(Cause::Restarted { writes, reason, by });
            }
            HostMessage::Facts { writes, by } => match events_of(writes.as_bytes()) {
                Ok(events) => {
                    let first = self.events.len();
                    self.events.extend(events);
                    self.writes.push(Writes {
                        message: id.unwrap_or(MessageId::from_bits(0)),
                        cause: self.causes.len(),
                        events: first..self.events.len(),
                    });
                    self.causes.push(Cause::FactsWritten {
                        writes,
                        refused: Vec::new(),
                        by,
                    });
                }
                Err(error) => self.rejected.push(error),
            },
            // A pause that means nothing here: the run has ended, or goes on in the same turn.
            HostMessage::Pause { .. } => {}
            HostMessage::Wake => self.woken = true,
            HostMessage::Swept { sweep, order } => {
                self.sweeps.push(sweep);
                match order {
                    // A turn looks at all there is.
                    Order::Look => {}
                }
            }
            // The run moves in this very turn, so it is not what the archive holds.
            HostMessage::Archive(_) | HostMessage::Compact => {}
            HostMessage::Resume { reason, by, how } => {
                if how != Onward::Scope || (live.is_stopped_by_order() && !self.ordered) {
                    self.causes.push(Cause::Resumed { reason, by });
                    self.resume = true;
                }
            }
            // Taken in before, whatever state the run is in.
            HostMessage::Prioritize { .. } | HostMessage::Breakpoints { .. } => {}
            // Not for runs.
            HostMessage::Enter(_)
            | HostMessage::Leave { .. }
            | HostMessage::TakeOver { .. }
            | HostMessage::Copy(_) => {}
        }
    }

    fn succeeded(&mut self, call: CallId, result: &[u8], ran: Ran) {
        match serde_json::from_slice(result) {
            Ok(value) => {
                let result = String::from_utf8_lossy(result).into_owned();
                self.causes.push(Cause::Succeeded { call, result, ran });
                self.events.push(Event::CallSucceeded { call, result: value });
            }
            Err(error) => {
                let message = format!("the result is not JSON: {error}");
                self.failed(call, ErrorClass::Internal, message, String::new(), ran);
            }
        }
    }

    fn failed(&mut self, call: CallId, class: ErrorClass, message: String, function: String, ran: Ran) {
        let error = CallError {
            kind: class,
            message: message.clone(),
            function,
            attempts: ran.attempts,
        };
        self.causes.push(Cause::Failed {
            call,
            class,
            message,
            ran,
        });
        self.events.push(Event::CallFailed { call, error });
    }
}
