//! From effects to messages: calls to functions, timers, requests to other services, answers to a parent.

use std::sync::Arc;

use celesta_engine::{CallOptions, Effect, SharedFacts};
use celesta_functions::{INLINE_JSON_MAX, Invocation};
use celesta_queue::{Key, NewMessage, QueueName};
use celesta_types::{CallId, ErrorClass, MessageId, Priority, RunId, Timestamp, TraceId};

use crate::head::RunHead;
use crate::live::Live;
use crate::message::HostMessage;
use crate::record::Recorded;
use crate::registry::Registry;
use crate::state::RunState;
use crate::submit::{new_live, start_message};
use crate::turn::Done;

/// The latest instant a timer may be set for: the end of the year 9999. Later ones are a mistake of units.
const TIMER_MAX: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// The label of a run whose calls are run even when a pure function's result is recorded: its value is `no`.
pub const REUSE: &str = "celesta.reuse";

/// What sending needs to know besides the run.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) runs_queue: &'a QueueName,
    pub(crate) now: Timestamp,
    /// The service's shared facts, for rules that look at them.
    pub(crate) shared: Option<Arc<SharedFacts>>,
}

impl Outgoing<'_> {
    /// Has the run woken at `at` unless it will be woken by then already. A wake that comes too early or twice changes
    /// nothing.
    pub(crate) fn wake(&self, live: &mut Live, at: Option<i64>, done: &mut Done) {
        if live.wake_at.is_some_and(|known| known <= self.now.as_millis()) {
            live.wake_at = None;
        }
        let Some(at) = at else { return };
        if live.wake_at.is_some_and(|known| known <= at) {
            return;
        }
        live.wake_at = Some(at);
        let at = Timestamp::from_millis(at).min(TIMER_MAX);
        // The same instant has the same id: a run that was read again sends what is known already.
        let id = MessageId::new(at, live.head.run.bits());
        let message = NewMessage::new(id, self.runs_queue.clone(), HostMessage::Wake.encode());
        let message = message.with_key(live.head.run).visible_at(at);
        done.outgoing.push(message.with_priority(live.head.priority));
    }

    /// Adds to `done` what `effect` sends and says how it stands in the journal.
    pub(crate) fn send(&self, live: &mut Live, effect: Effect, done: &mut Done) -> Recorded {
        match effect {
            Effect::Call {
                call,
                function,
                input_json,
                has_artifacts,
                options,
            } => {
                let invocation = Invocation {
                    run: live.head.run,
                    call,
                    service: &live.head.service,
                    function: &function,
                    bundle: live.head.version,
                    input: input_json.as_bytes(),
                    has_artifacts,
                    timeout_ms: options.timeout_ms.and_then(|timeout| u64::try_from(timeout).ok()),
                    trace: live.head.trace.as_deref().and_then(trace_id),
                    fresh: live.head.labels.get(REUSE).is_some_and(|reuse| reuse == "no"),
                };
                let queue = live.version.queues.get(&*function);
                match queue {
                    Some(queue) if input_json.len() <= INLINE_JSON_MAX => {
                        let id = MessageId::derived(live.head.run, call);
                        let message = NewMessage::new(id, queue.clone(), invocation.encode());
                        done.outgoing.push(NewMessage {
                            repeatable_id: true,
                            priority: priority(live, &options),
                            visible_at: options.delay_ms.map(|delay| self.now.after_millis(delay)),
                            ..message
                        });
                    }
                    Some(_) => {
                        let bytes = input_json.len();
                        let message = format!(
                            "the input has {bytes} bytes, more than {INLINE_JSON_MAX}; pass an artifact instead"
                        );
                        self.refuse(live, call, ErrorClass::Input, message, &function, done);
                    }
                    None => {
                        let message = format!("version {} has no function `{function}`", live.head.version);
                        self.refuse(live, call, ErrorClass::Input, message, &function, done);
                    }
                }
                Recorded::Call {
                    function: function.to_string(),
                    input: input_json.to_string(),
                }
            }
            Effect::Timer { call, at_ms } => {
                let at = Timestamp::from_millis(at_ms).min(TIMER_MAX);
                done.outgoing.push(
                    self.to_run(&live.head, call, &HostMessage::Timer(call))
                        .visible_at(at),
                );
                Recorded::Timer { at }
            }
            Effect::Request {
                call,
                target,
                input_json,
                options,
            } => {
                if let Err((class, message)) = self.request(live, call, &target, &input_json, &options, done)
                {
                    self.refuse(live, call, class, message, &target, done);
                }
                Recorded::Request {
                    target: target.to_string(),
                    input: input_json.to_string(),
                }
            }
            Effect::CancelCalls { calls } => {
                for &call in &calls {
                    self.cancel_call(live, call, done);
                }
                Recorded::CancelCalls { calls }
            }
            Effect::Emit {
                event_type,
                data_json,
            } => Recorded::Emit {
                event_type: event_type.to_string(),
                data: data_json.to_string(),
            },
            Effect::Log { text, .. } => Recorded::Log { text },
            // The turn itself takes these: they move the run's state.
            Effect::Complete { result_json } => Recorded::Complete {
                result: result_json.to_string(),
            },
            Effect::Fail { message, .. } => Recorded::Fail { message },
            Effect::Progress { fraction, text } => Recorded::Progress { fraction, text },
            other => Recorded::Log {
                text: format!("an effect of a later release: {other:?}"),
            },
        }
    }

    /// The run has ended: the run that asked for it hears of it.
    pub(crate) fn answer_parent(&self, live: &Live, done: &mut Done) {
        let Some((parent, call)) = live.head.parent else {
            return;
        };
        let message = if live.head.state == RunState::Completed {
            let result = live.head.result.as_deref().unwrap_or("null").to_owned();
            if result.len() > INLINE_JSON_MAX {
                let message = format!(
                    "the result has {} bytes, more than {INLINE_JSON_MAX}",
                    result.len()
                );
                refused(call, ErrorClass::User, message, &live.head)
            } else {
                HostMessage::Answered { call, result }
            }
        } else {
            let class = if live.head.state == RunState::Canceled {
                ErrorClass::Canceled
            } else {
                ErrorClass::User
            };
            let message = live
                .head
                .error
                .as_deref()
                .unwrap_or_else(|| live.head.state.name())
                .to_owned();
            refused(call, class, message, &live.head)
        };
        // One answer for each end of the child: a retried child answers again, which the parent knows to ignore.
        let id = MessageId::derived(
            live.head.run,
            CallId {
                seq: live.seq + 1,
                index: ANSWER_INDEX,
            },
        );
        let key = Key::from(parent);
        let message = NewMessage::new(id, self.runs_queue.clone(), message.encode());
        done.outgoing.push(NewMessage {
            repeatable_id: true,
            ..message.with_key(key).with_priority(live.head.priority)
        });
    }

    /// A message of the runtime to the run itself, about one of its calls.
    fn to_run(&self, head: &RunHead, call: CallId, message: &HostMessage) -> NewMessage {
        let id = MessageId::derived(head.run, call);
        let message = NewMessage::new(id, self.runs_queue.clone(), message.encode());
        NewMessage {
            repeatable_id: true,
            ..message.with_key(head.run).with_priority(head.priority)
        }
    }

    /// A call that cannot be sent fails, by a message like any other.
    fn refuse(
        &self,
        live: &Live,
        call: CallId,
        class: ErrorClass,
        message: String,
        target: &str,
        done: &mut Done,
    ) {
        let message = HostMessage::Refused {
            call,
            class,
            message,
            target: target.to_owned(),
        };
        done.outgoing.push(self.to_run(&live.head, call, &message));
    }

    /// A request to another service is a run of its own, made in the same commit.
    fn request(
        &self,
        live: &mut Live,
        call: CallId,
        target: &str,
        input: &str,
        options: &CallOptions,
        done: &mut Done,
    ) -> Result<(), (ErrorClass, String)> {
        let wrong = |message: String| (ErrorClass::Input, message);
        if input.len() > INLINE_JSON_MAX {
            return Err(wrong(format!(
                "the input has {} bytes, more than {INLINE_JSON_MAX}; pass an artifact instead",
                input.len()
            )));
        }
        if live.head.depth >= REQUEST_DEPTH_MAX {
            return Err(wrong(format!(
                "requests are nested {REQUEST_DEPTH_MAX} deep; is there a cycle of services?"
            )));
        }
        let (service, operation) = target
            .split_once('/')
            .ok_or_else(|| wrong(format!("`{target}` is not `service/operation`")))?;
        let version = self
            .registry
            .current(service)
            .ok_or_else(|| wrong(format!("there is no service `{service}`")))?;
        let found = version.bundle.operations.get(operation);
        let found =
            found.ok_or_else(|| wrong(format!("service `{service}` has no operation `{operation}`")))?;
        if let Err(violations) = found.validate(input.as_bytes()) {
            let all: Vec<String> = violations
                .iter()
                .map(|wrong| format!("{}: {}", wrong.pointer, wrong.message))
                .collect();
            return Err(wrong(format!(
                "the input does not fit the schema of {target}: {}",
                all.join("; ")
            )));
        }
        let head = RunHead {
            run: live.head.run.child(call),
            service: Arc::clone(&version.service),
            operation: operation.into(),
            workflow: found.workflow.as_str().into(),
            version: version.digest,
            state: RunState::Running,
            created_at: self.now,
            updated_at: self.now,
            ended_at: None,
            priority: priority(live, options),
            labels: live.head.labels.clone(),
            trace: live.head.trace.clone(),
            parent: Some((live.head.run, call)),
            depth: live.head.depth + 1,
            result: None,
            error: None,
            progress: None,
        };
        head.insert(&mut done.unit, input.as_bytes(), None);
        live.requests.insert(call);
        done.outgoing.push(start_message(self.runs_queue, &head));
        done.children
            .extend(new_live(head, version, input.as_bytes().into()));
        Ok(())
    }

    /// Calls off one call: its message, and when it was a request the run that serves it.
    fn cancel_call(&self, live: &mut Live, call: CallId, done: &mut Done) {
        let id = MessageId::derived(live.head.run, call);
        done.canceled.push(id);
        let child = live.head.run.child(call);
        if live.requests.remove(&call) {
            let message = HostMessage::Cancel {
                reason: format!("called off by {}", live.head.run),
            };
            let id = MessageId::derived(
                child,
                CallId {
                    seq: 0,
                    index: ANSWER_INDEX,
                },
            );
            let message = NewMessage::new(id, self.runs_queue.clone(), message.encode());
            done.outgoing
                .push(message.with_key(child).with_priority(live.head.priority));
        }
    }
}

/// Requests nest at most this deep: a cycle of services ends with an error.
const REQUEST_DEPTH_MAX: u32 = 16;
/// The index of messages that no effect of the rules made: above every effect's.
const ANSWER_INDEX: u32 = (1 << 20) - 1;

/// The run's priority, with the call's own number when it gives one.
fn priority(live: &Live, options: &CallOptions) -> Priority {
    let number = options
        .priority
        .map(|number| number.clamp(i16::MIN.into(), i16::MAX.into()));
    let number = number
        .and_then(|number| i16::try_from(number).ok())
        .unwrap_or(live.head.priority.number);
    Priority {
        number,
        ..live.head.priority
    }
}

fn refused(call: CallId, class: ErrorClass, message: String, head: &RunHead) -> HostMessage {
    HostMessage::Refused {
        call,
        class,
        message,
        target: format!("{}/{}", head.service, head.operation),
    }
}

/// The trace id of a W3C `traceparent`: `00-<32 hexadecimal digits>-…`.
fn trace_id(traceparent: &str) -> Option<TraceId> {
    let digits = traceparent
        .split('-')
        .nth(1)
        .filter(|digits| digits.len() == 32)?;
    u128::from_str_radix(digits, 16).ok().map(TraceId::from_bits)
}

/// The id of the message that asks a run for something on behalf of a person: new each time.
pub(crate) fn asked_id(run: RunId, now: Timestamp, random: u128) -> MessageId {
    MessageId::new(now, random ^ run.bits())
}
