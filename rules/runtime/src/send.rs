//! From effects to messages: calls to functions, timers, requests to other services, answers to a parent.

use std::collections::BTreeMap;
use std::sync::Arc;

use celesta_engine::{CallOptions, Effect, SharedFacts};
use celesta_functions::{INLINE_JSON_MAX, Invocation};
use celesta_queue::{Key, Leased, NewMessage, QueueName};
use celesta_types::{CallId, ErrorClass, MessageId, Priority, RunId, Timestamp};

use crate::gate::Then;
use crate::gates;
use crate::head::RunHead;
use crate::live::Live;
use crate::message::HostMessage;
use crate::orders::Orders;
use crate::record::Cause;
use crate::record::Recorded;
use crate::registry::Registry;
use crate::state::RunState;
use crate::steering::Steering;
use crate::submit::{begin, new_live};
use crate::trace;
use crate::turn::Done;
use crate::view::StoppedView;

/// The latest instant a timer may be set for: the end of the year 9999. Later ones are a mistake of units.
const TIMER_MAX: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// The label of a run whose calls are run even when a pure function's result is recorded: its value is `no`.
pub const REUSE: &str = "celesta.reuse";

/// What sending needs to know besides the run.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) runs_queue: &'a QueueName,
    pub(crate) orders: &'a Orders,
    /// What stops the runs of its workflow.
    pub(crate) stopped: Option<StoppedView>,
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
                    trace: trace::id(&live.head),
                    fresh: live.head.steering().fresh
                        || live.head.labels.get(REUSE).is_some_and(|reuse| reuse == "no"),
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

    /// The run has ended: others of its groups may begin.
    pub(crate) fn leave_gates(&self, live: &Live, done: &mut Done) {
        let left = gates::left(live.head.state);
        let messages = gates::leave(self.runs_queue, &live.head, live.seq + 1, left);
        done.outgoing.extend(messages);
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
            return Err(wrong(too_deep(&live.head, target)));
        }
        let (service, operation) = target
            .split_once('/')
            .ok_or_else(|| wrong(format!("`{target}` is not `service/operation`")))?;
        let version = self
            .registry
            .chosen(service, live.head.run.child(call), &live.head.labels)
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
        let own = priority(live, options);
        let timeout = options.timeout_ms.map(|timeout| self.now.after_millis(timeout));
        let mut via = live.head.steering().via.clone();
        via.push(format!("{}/{}", live.head.service, live.head.operation));
        let mut head = RunHead {
            run: live.head.run.child(call),
            service: Arc::clone(&version.service),
            operation: operation.into(),
            workflow: found.workflow.as_str().into(),
            version: version.digest,
            state: RunState::Running,
            created_at: self.now,
            updated_at: self.now,
            ended_at: None,
            priority: inherited(own, found.own_priority, timeout),
            labels: live.head.labels.clone(),
            trace: Some(trace::child(&live.head)),
            parent: Some((live.head.run, call)),
            depth: live.head.depth + 1,
            result: None,
            error: None,
            progress: None,
            steering: Some(Box::new(Steering {
                via,
                fresh: live.head.steering().fresh,
                ..Steering::default()
            })),
        };
        let message = begin(
            self.runs_queue,
            &mut head,
            &version,
            input.as_bytes(),
            None,
            Then::Start,
            &mut done.unit,
        );
        done.outgoing.push(message);
        live.requests.insert(call);
        if let Some(at) = timeout {
            live.timed.insert(call);
            let refused = HostMessage::Refused {
                call,
                class: ErrorClass::Timeout,
                message: format!("{target} has not answered in time"),
                target: target.to_owned(),
            };
            done.outgoing.push(
                self.to_run(&live.head, call, &refused)
                    .visible_at(at.min(TIMER_MAX)),
            );
        }
        done.children
            .extend(new_live(head, version, input.as_bytes().into()));
        Ok(())
    }

    /// Calls off one call: its message, and when it was a request the run that serves it.
    fn cancel_call(&self, live: &mut Live, call: CallId, done: &mut Done) {
        done.canceled.push(MessageId::derived(live.head.run, call));
        live.timed.remove(&call);
        if live.requests.remove(&call) {
            self.cancel_child(live, call, "its request was called off", done);
        }
    }

    /// Calls off the run that serves a request.
    pub(crate) fn cancel_child(&self, live: &Live, call: CallId, why: &str, done: &mut Done) {
        let child = live.head.run.child(call);
        let message = HostMessage::Cancel {
            reason: why.to_owned(),
            by: live.head.run.to_string(),
        };
        done.outgoing
            .push(self.to_child(&live.head, child, live.seq + 1, CANCEL_INDEX, &message));
    }

    /// A message to a child in the parent's turn `seq`; `index` tells several apart.
    fn to_child(
        &self,
        head: &RunHead,
        child: RunId,
        seq: u64,
        index: u32,
        message: &HostMessage,
    ) -> NewMessage {
        let id = MessageId::derived(child, CallId { seq, index });
        let message = NewMessage::new(id, self.runs_queue.clone(), message.encode());
        NewMessage {
            repeatable_id: true,
            ..message.with_key(child).with_priority(head.priority)
        }
    }

    /// Takes in what people and parents say of the run, in whatever state it is. Gives the causes for the journal.
    pub(crate) fn steer(&self, live: &mut Live, messages: &[Leased], done: &mut Steered) -> Vec<Cause> {
        let mut causes = Vec::new();
        for message in messages {
            match HostMessage::read(&message.payload) {
                Some(HostMessage::Prioritize {
                    priority,
                    lift,
                    reason,
                    by,
                }) => {
                    let current = live.head.priority;
                    let priority = if lift {
                        inherited(current, Some(priority), None)
                    } else {
                        priority
                    };
                    if priority == current {
                        continue;
                    }
                    live.head.priority = priority;
                    live.steered = true;
                    self.reprioritize(live, done);
                    causes.push(Cause::Prioritized { priority, reason, by });
                }
                Some(HostMessage::Breakpoints { rules, by }) => {
                    live.head.steering_mut().breakpoints.clone_from(&rules);
                    live.steered = true;
                    causes.push(Cause::BreakpointsSet { rules, by });
                }
                _ => {}
            }
        }
        causes
    }

    /// Everything of the run that waits somewhere moves to where the run's priority puts it; its children are lifted.
    fn reprioritize(&self, live: &Live, done: &mut Steered) {
        let head = &live.head;
        // A run that has not begun waits by its first message.
        let own = vec![(MessageId::from_bits(head.run.bits()), head.priority)];
        done.reprioritized.push((self.runs_queue.clone(), own));
        let mut queues: BTreeMap<&QueueName, Vec<(MessageId, Priority)>> = BTreeMap::new();
        for open in live.memory.open_calls() {
            if live.requests.contains(&open.call) {
                let message = HostMessage::Prioritize {
                    priority: numbered(head.priority, open.priority),
                    lift: true,
                    reason: "its parent became more urgent".to_owned(),
                    by: head.run.to_string(),
                };
                let child = head.run.child(open.call);
                done.outgoing
                    .push(self.to_child(head, child, live.seq + 1, LIFT_INDEX, &message));
            } else if let Some(queue) = live.version.queues.get(&*open.target) {
                let priority = numbered(head.priority, open.priority);
                let id = MessageId::derived(head.run, open.call);
                queues.entry(queue).or_default().push((id, priority));
            }
        }
        let queues = queues
            .into_iter()
            .map(|(queue, changes)| (queue.clone(), changes));
        done.reprioritized.extend(queues);
    }
}

/// What steering a run sends, besides what its turn sends.
#[derive(Debug, Default)]
pub(crate) struct Steered {
    pub(crate) outgoing: Vec<NewMessage>,
    pub(crate) reprioritized: Vec<(QueueName, Vec<(MessageId, Priority)>)>,
}

/// Why no more requests are made, with the requests that led here: a cycle is seen at a glance.
fn too_deep(head: &RunHead, target: &str) -> String {
    let own = format!("{}/{}", head.service, head.operation);
    let chain: Vec<&str> = head
        .steering()
        .via
        .iter()
        .map(String::as_str)
        .chain([own.as_str(), target])
        .collect();
    let cycle = chain.iter().rev().skip(1).position(|one| *one == target);
    let cycle = cycle.map_or_else(String::new, |length| {
        let cycle = chain.get(chain.len() - length - 2..).unwrap_or_default();
        format!("; the cycle is {}", cycle.join(" → "))
    });
    format!(
        "requests nest at most {REQUEST_DEPTH_MAX} deep, and this one would be deeper: {}{cycle}",
        chain.join(" → ")
    )
}

/// Requests nest at most this deep: a cycle of services ends with an error.
pub(crate) const REQUEST_DEPTH_MAX: u32 = 16;
/// The index of messages that no effect of the rules made: above every effect's.
pub(crate) const ANSWER_INDEX: u32 = (1 << 20) - 1;
/// Messages to a child, apart from those of its gates.
const CANCEL_INDEX: u32 = ANSWER_INDEX - 32;
const LIFT_INDEX: u32 = ANSWER_INDEX - 33;

/// The more urgent of what a parent and an operation say, and the earlier of their deadlines.
pub(crate) fn inherited(parent: Priority, own: Option<Priority>, deadline: Option<Timestamp>) -> Priority {
    let rank_of = |priority: &Priority| priority.rank();
    let urgent = own.into_iter().chain([parent]).min_by_key(rank_of);
    let deadlines = [parent.deadline, own.and_then(|own| own.deadline), deadline];
    Priority {
        deadline: deadlines.into_iter().flatten().min(),
        ..urgent.unwrap_or(parent)
    }
}

/// A run's priority, with the number of one of its calls when that has one.
fn numbered(priority: Priority, number: Option<i64>) -> Priority {
    let number = number.map(|number| number.clamp(i16::MIN.into(), i16::MAX.into()));
    let number = number.and_then(|number| i16::try_from(number).ok());
    Priority {
        number: number.unwrap_or(priority.number),
        ..priority
    }
}

/// The run's priority, with the call's own number when it gives one.
fn priority(live: &Live, options: &CallOptions) -> Priority {
    numbered(live.head.priority, options.priority)
}

fn refused(call: CallId, class: ErrorClass, message: String, head: &RunHead) -> HostMessage {
    HostMessage::Refused {
        call,
        class,
        message,
        target: format!("{}/{}", head.service, head.operation),
    }
}

/// The id of the message that asks a run for something on behalf of a person: new each time.
pub(crate) fn asked_id(run: RunId, now: Timestamp, random: u128) -> MessageId {
    MessageId::new(now, random ^ run.bits())
}
