//! What a section asks for: calls, requests, timers and the other effects, bounded one by one and as a sum.

use std::sync::Arc;

use celesta_types::{CallId, duration_ms};

use super::{Context, Done};
use crate::Value;
use crate::turn::{CallOptions, Effect, Section};
use crate::value::to_float;

/// How a call, request or timer is made again, and what is awaited.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Made {
    Call {
        function: Arc<str>,
        input: Arc<str>,
        artifacts: bool,
        options: CallOptions,
    },
    Request {
        target: Arc<str>,
        input: Arc<str>,
        options: CallOptions,
    },
    Timer {
        at_ms: i64,
    },
}

impl Made {
    pub(crate) fn effect(&self, call: CallId) -> Effect {
        match self.clone() {
            Self::Call {
                function,
                input,
                artifacts,
                options,
            } => Effect::Call {
                call,
                function,
                input_json: input,
                has_artifacts: artifacts,
                options,
            },
            Self::Request {
                target,
                input,
                options,
            } => Effect::Request {
                call,
                target,
                input_json: input,
                options,
            },
            Self::Timer { at_ms } => Effect::Timer { call, at_ms },
        }
    }

    pub(crate) const fn options(&self) -> Option<&CallOptions> {
        match self {
            Self::Call { options, .. } | Self::Request { options, .. } => Some(options),
            Self::Timer { .. } => None,
        }
    }

    pub(crate) fn target(&self) -> Arc<str> {
        match self {
            Self::Call { function, .. } => Arc::clone(function),
            Self::Request { target, .. } => Arc::clone(target),
            Self::Timer { .. } => "timer".into(),
        }
    }
}

impl Context {
    pub(crate) fn next_call(&self) -> CallId {
        CallId {
            seq: self.seq,
            index: u32::try_from(self.effects.len()).expect("effects are bounded far below 2^32"),
        }
    }

    fn json(&self, value: &Value) -> Done<Arc<str>> {
        let bound = self.rules.limits.effect_bytes;
        if value.weight() > bound.saturating_mul(32) {
            return Err(format!(
                "more than {bound} bytes of JSON; larger things are artifacts"
            ));
        }
        let text = value.to_json();
        if text.len() > bound {
            return Err(format!(
                "more than {bound} bytes of JSON; larger things are artifacts"
            ));
        }
        Ok(text.into())
    }

    pub(crate) fn effect(&mut self, effect: Effect) -> Done<()> {
        if self.effects.len() >= self.rules.limits.effects {
            return Err(format!(
                "more than {} effects in one turn",
                self.rules.limits.effects
            ));
        }
        let bytes = self.effect_bytes.saturating_add(effect.text_bytes());
        let bound = self.rules.limits.turn_bytes;
        if bytes > bound {
            return Err(format!("more than {bound} bytes of effects in one turn"));
        }
        self.effect_bytes = bytes;
        self.effects.push(effect);
        Ok(())
    }

    fn make(&mut self, made: Made) -> Done<i64> {
        if self.section != Section::Action {
            return Err(
                "calls, requests and timers are made in `action`; here nothing would wait for them".into(),
            );
        }
        let call = self.next_call();
        self.effect(made.effect(call))?;
        self.made.push((call, made));
        Ok(i64::try_from(self.made.len() - 1).unwrap_or(i64::MAX))
    }

    pub(crate) fn call(&mut self, function: &str, input: &Value, options: &Value) -> Done<i64> {
        let function = self.function_name(function);
        let artifacts = input.contains_artifact();
        let input = self.json(input)?;
        self.call_json(function, input, artifacts, options)
    }

    pub(crate) fn call_json(
        &mut self,
        function: Arc<str>,
        input: Arc<str>,
        artifacts: bool,
        options: &Value,
    ) -> Done<i64> {
        let options = self.options(options)?;
        self.make(Made::Call {
            function,
            input,
            artifacts,
            options,
        })
    }

    /// The function's name, shared with the call before: a fan-out calls one function many times.
    fn function_name(&self, function: &str) -> Arc<str> {
        match self.effects.last() {
            Some(Effect::Call { function: last, .. }) if **last == *function => Arc::clone(last),
            _ => function.into(),
        }
    }

    pub(crate) fn request(&mut self, target: &str, input: &Value, options: &Value) -> Done<i64> {
        let input = self.json(input)?;
        self.request_json(target, input, options)
    }

    pub(crate) fn request_json(&mut self, target: &str, input: Arc<str>, options: &Value) -> Done<i64> {
        let parts: Vec<_> = target.split('/').collect();
        if parts.len() != 2 || parts.iter().any(|part| part.is_empty()) {
            return Err(format!(
                "`{target}` is no operation; expected `service/operation`"
            ));
        }
        let options = self.options(options)?;
        self.make(Made::Request {
            target: target.into(),
            input,
            options,
        })
    }

    pub(crate) fn timer(&mut self, when: &Value) -> Done<i64> {
        let at_ms = match (when.get("at"), when.get("after")) {
            (Some(at), None) => at.as_int().ok_or("`at` is an instant in milliseconds")?,
            (None, Some(after)) => self.now_ms.saturating_add(duration(after)?),
            _ => self.now_ms.saturating_add(duration(when)?),
        };
        self.make(Made::Timer { at_ms })
    }

    pub(crate) fn emit(&mut self, event_type: &str, content: &Value) -> Done<()> {
        let data_json = self.json(content)?;
        self.emit_json(event_type, data_json)
    }

    pub(crate) fn emit_json(&mut self, event_type: &str, data_json: Arc<str>) -> Done<()> {
        self.effect(Effect::Emit {
            event_type: event_type.into(),
            data_json,
        })
    }

    pub(crate) fn complete(&mut self, result: &Value) -> Done<()> {
        let result_json = self.json(result)?;
        self.complete_json(result_json)
    }

    pub(crate) fn complete_json(&mut self, result_json: Arc<str>) -> Done<()> {
        self.effect(Effect::Complete { result_json })
    }

    pub(crate) fn fail(&mut self, message: &str, content: Option<&Value>) -> Done<()> {
        let data_json = content.map(|content| self.json(content)).transpose()?;
        self.fail_json(message, data_json)
    }

    pub(crate) fn fail_json(&mut self, message: &str, data_json: Option<Arc<str>>) -> Done<()> {
        self.failed = true;
        self.effect(Effect::Fail {
            message: message.to_owned(),
            data_json,
        })
    }

    pub(crate) fn retry(&mut self, options: &Value) -> Done<()> {
        if self.section != Section::Error {
            return Err("`retry` makes the failed calls again; it stands in `error`".into());
        }
        let fail_fast = self.fail_fast;
        self.retry = Some(self.options(options)?);
        self.fail_fast = fail_fast;
        Ok(())
    }

    pub(crate) fn progress(&mut self, fraction: &Value, text: &str) -> Done<()> {
        let fraction = match fraction {
            Value::Int(number) => to_float(*number),
            Value::Float(number) => *number,
            other => {
                return Err(format!(
                    "progress is a number from 0 to 1, not {}",
                    other.kind_name()
                ));
            }
        };
        self.effect(Effect::Progress {
            fraction: fraction.clamp(0.0, 1.0),
            text: text.to_owned(),
        })
    }

    pub(crate) fn log(&mut self, level: &'static str, text: &str) -> Done<()> {
        self.effect(Effect::Log {
            level,
            text: text.chars().take(10_000).collect(),
        })
    }

    fn options(&mut self, options: &Value) -> Done<CallOptions> {
        let mut parsed = CallOptions::default();
        let map = match options {
            Value::Null => return Ok(parsed),
            Value::Map(map) => map,
            other => return Err(format!("options are a map, not {}", other.kind_name())),
        };
        for (name, value) in map.iter() {
            match (name.as_str(), value) {
                ("timeout", value) => parsed.timeout_ms = Some(duration(value)?),
                ("after", value) => parsed.delay_ms = Some(duration(value)?),
                ("priority", Value::Int(priority)) => parsed.priority = Some(*priority),
                ("key", Value::Str(key)) => parsed.key = Some(key.to_string()),
                ("fail_fast", Value::Bool(fail_fast)) => self.fail_fast = *fail_fast,
                ("priority" | "key" | "fail_fast", value) => {
                    return Err(format!("option `{name}` cannot be {}", value.kind_name()));
                }
                _ => {
                    return Err(format!(
                        "no option `{name}`; there are timeout, after, priority, key and fail_fast"
                    ));
                }
            }
        }
        Ok(parsed)
    }
}

fn duration(value: &Value) -> Done<i64> {
    match value {
        Value::Int(millis) if *millis >= 0 => Ok(*millis),
        Value::Str(text) => text_duration(text),
        other => Err(format!(
            "a duration is milliseconds or a text like `10s`, not {other}"
        )),
    }
}

fn text_duration(text: &str) -> Done<i64> {
    duration_ms(text).map_err(|error| error.to_string())
}
