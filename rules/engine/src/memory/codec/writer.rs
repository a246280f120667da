//! Numbers, texts, values and records as bytes.

use celesta_types::CallId;

use super::tag;
use crate::Value;
use crate::memory::firing::{Held, OpenFiring, Stage};
use crate::memory::section::Made;
use crate::memory::store::{FROM_REQUEST, Fact};
use crate::ruleset::RuleSet;
use crate::turn::{CallError, CallOptions, Section};

#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
            number >>= 7;
        }
        self.byte(u8::try_from(number).unwrap_or(0));
    }
    pub(super) fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).unwrap_or(u64::MAX));
    }
    pub(super) fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)).cast_unsigned());
    }
    pub(super) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }
    pub(super) fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.byte(0),
            Value::Bool(false) => self.byte(1),
            Value::Bool(true) => self.byte(2),
            Value::Int(number) => {
                self.byte(3);
                self.signed(*number);
            }
            Value::Float(number) => {
                self.byte(4);
                self.0.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            Value::Str(text) => {
                self.byte(5);
                self.text(text);
            }
            Value::List(values) => {
                self.byte(6);
                self.count(values.len());
                values.iter().for_each(|value| self.value(value));
            }
            Value::Map(map) => {
                self.byte(7);
                self.count(map.len());
                for (key, value) in map.iter() {
                    self.text(key);
                    self.value(value);
                }
            }
        }
    }
    pub(super) fn optional(&mut self, number: Option<i64>) {
        self.byte(u8::from(number.is_some()));
        if let Some(number) = number {
            self.signed(number);
        }
    }
    pub(super) fn call(&mut self, call: CallId) {
        self.number(call.seq);
        self.number(u64::from(call.index));
    }
    pub(super) fn fact(&mut self, tag: u8, fact: &Fact) {
        self.byte(tag);
        self.count(fact.kind);
        self.number(fact.id);
        self.number(u64::from(fact.version));
        self.number(writer(fact.writer));
        self.number(fact.inserted);
        for (slot, value) in fact.slots.iter().enumerate() {
            self.value(value);
            self.number(u64::from(fact.later.get(slot).copied().unwrap_or(0)));
        }
    }
    pub(super) fn options(&mut self, options: &CallOptions) {
        self.optional(options.timeout_ms);
        self.optional(options.priority);
        self.optional(options.delay_ms);
        self.byte(u8::from(options.key.is_some()));
        if let Some(key) = &options.key {
            self.text(key);
        }
    }
    pub(super) fn made(&mut self, made: &Made) {
        match made {
            Made::Call {
                function,
                input,
                artifacts,
                options,
            } => {
                self.byte(u8::from(*artifacts));
                self.text(function);
                self.text(input);
                self.options(options);
            }
            Made::Request {
                target,
                input,
                options,
            } => {
                self.byte(2);
                self.text(target);
                self.text(input);
                self.options(options);
            }
            Made::Timer { at_ms } => {
                self.byte(3);
                self.signed(*at_ms);
            }
        }
    }
    pub(super) fn outcome(&mut self, outcome: Option<&Result<Value, CallError>>) {
        match outcome {
            None => self.byte(0),
            Some(Ok(value)) => {
                self.byte(1);
                self.value(value);
            }
            Some(Err(error)) => {
                self.byte(2);
                self.byte(error.kind.code());
                self.text(&error.message);
                self.text(&error.function);
                self.number(u64::from(error.attempts));
            }
        }
    }
    pub(super) fn firing(&mut self, rules: &RuleSet, number: u64, firing: &OpenFiring) {
        self.byte(tag::FIRING);
        self.number(number);
        self.text(&rules.rules[firing.rule as usize].name);
        self.count(firing.facts.len());
        for (id, version) in &firing.facts {
            self.number(*id);
            self.number(u64::from(*version));
        }
        self.count(firing.bindings.len());
        for (level, held) in &firing.bindings {
            self.number(u64::from(*level));
            match held {
                Held::Fact(id) => {
                    self.byte(0);
                    self.number(*id);
                }
                Held::Value(value) => {
                    self.byte(1);
                    self.value(value);
                }
                Held::Facts(facts) => {
                    self.byte(2);
                    self.count(facts.len());
                    facts.iter().for_each(|id| self.number(*id));
                }
            }
        }
        self.byte(u8::from(firing.fail_fast));
        self.number(u64::from(firing.retries));
        self.byte(match firing.stage {
            Stage::Waiting => 0,
            Stage::FailedCalls => 1,
            Stage::FailedSection(Section::Action) => 2,
            Stage::FailedSection(Section::Reaction) => 3,
            Stage::FailedSection(Section::Error) => 4,
        });
        self.count(firing.calls.len());
        for call in &firing.calls {
            self.call(call.call);
            self.made(&call.made);
            self.outcome(call.outcome.as_ref());
        }
    }
}

pub(super) fn writer(rule: u32) -> u64 {
    if rule == FROM_REQUEST {
        0
    } else {
        u64::from(rule) + 1
    }
}
