//! `[subscriptions.<name>]` of `service.toml`: which events concern a service, and what becomes of one that does.
//!
//! An event starts an operation, or becomes a fact of runs that are there. Only the words are here; the runtime routes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use celesta_functions::names::is_name;
use serde_json::{Map, Value};
use toml::de::DeValue;

use crate::concurrency::{Pointer, pointer};
use crate::toml_text::{Fields, Text, type_name};

/// Subscriptions of one service: each event is compared with all of them.
const SUBSCRIPTIONS_MAX: usize = 256;

/// What a text must look like: the whole of it, or its beginning when it ends with `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern written so.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether `text` looks like that.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => text.starts_with(beginning),
            None => self.0 == text,
        }
    }
}

/// Values of an object by their names, each found in an event by its pointer.
#[derive(Debug, Clone, Default)]
pub struct Mapping(BTreeMap<String, Pointer>);

impl Mapping {
    /// Whether nothing is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object made of `event`; the event's data when nothing is mapped. What is missing there is left out.
    #[must_use]
    pub fn object(&self, event: &Value) -> Value {
        if self.0.is_empty() {
            let data = event.get("data").cloned();
            return data.unwrap_or_else(|| Value::Object(Map::new()));
        }
        let found = self
            .0
            .iter()
            .filter_map(|(name, pointer)| Some((name.clone(), pointer.value(event)?.clone())));
        Value::Object(found.collect())
    }

    /// The texts made of `event`.
    #[must_use]
    pub fn texts(&self, event: &Value) -> BTreeMap<String, String> {
        self.0
            .iter()
            .filter_map(|(name, pointer)| Some((name.clone(), pointer.text(event)?)))
            .collect()
    }
}

/// What becomes of an event.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// It starts a run.
    Start {
        /// The operation.
        operation: String,
        /// The request's body.
        input: Mapping,
        /// Labels of the run.
        labels: Mapping,
    },
    /// It becomes a fact of a run.
    Fact {
        /// The fact's type.
        fact: Arc<str>,
        /// Its fields.
        fields: Mapping,
        /// The runs it is for.
        to: Correlation,
    },
}

/// Which runs an event is for.
#[derive(Debug, Clone)]
pub enum Correlation {
    /// The run whose id stands there.
    Run(Pointer),
    /// The runs of the service that have this label, with the value that stands there.
    Label {
        /// The label's name.
        name: String,
        /// Where its value stands in the event.
        value: Pointer,
    },
}

/// One subscription of a service.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Its name.
    pub name: String,
    /// The types of events it is about.
    pub event_type: Pattern,
    /// The sources of events it is about; any without.
    pub source: Option<Pattern>,
    /// What becomes of them.
    pub delivery: Delivery,
}

impl Subscription {
    /// Whether an event of that type and source concerns it.
    #[must_use]
    pub fn concerns(&self, event_type: &str, source: &str) -> bool {
        self.event_type.matches(event_type)
            && self.source.as_ref().is_none_or(|pattern| pattern.matches(source))
    }
}

/// A subscription as written, and where its operation or fact type stands.
#[derive(Debug)]
pub(crate) struct SubscriptionText {
    pub(crate) subscription: Subscription,
    pub(crate) target: Range<usize>,
}

/// Reads the table `subscriptions`.
pub(crate) fn read(fields: &mut Fields<'_, '_>, text: &Text<'_>) -> Vec<SubscriptionText> {
    if fields.get("subscriptions").is_none() {
        return Vec::new();
    }
    let Some(subscriptions) = fields.table("subscriptions") else {
        return Vec::new();
    };
    if subscriptions.entries().count() > SUBSCRIPTIONS_MAX {
        text.report(
            &subscriptions.span,
            format!("more than {SUBSCRIPTIONS_MAX} subscriptions"),
        );
    }
    let mut found = Vec::new();
    for (name, key, value) in subscriptions.entries().take(SUBSCRIPTIONS_MAX) {
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("`{name}` is {}, expected a table", type_name(value.get_ref()));
            text.report(&value.span(), message);
            continue;
        };
        if !is_name(name) {
            let hint =
                "a lowercase letter, then lowercase letters, digits, `-` and `_`, at most 64 characters";
            text.report_with(
                &key,
                format!("`{name}` cannot name a subscription"),
                hint.to_owned(),
            );
        }
        let fields = Fields::new(table, key, format!("subscriptions.{name}"), text);
        found.extend(subscription(name, fields, text));
    }
    found
}

fn subscription(name: &str, mut fields: Fields<'_, '_>, text: &Text<'_>) -> Option<SubscriptionText> {
    let span = fields.span.clone();
    let event_type = fields.needed_text("type", "type = \"com.example.order.*\"");
    let source = fields.text("source").map(|(source, _)| Pattern::new(source));
    let start = fields.text("start");
    let fact = fields.text("fact");
    let (delivery, target) = match (start, fact) {
        (Some((operation, at)), None) => {
            let delivery = Delivery::Start {
                operation: operation.to_owned(),
                input: mapping(&mut fields, "input", text),
                labels: mapping(&mut fields, "labels", text),
            };
            (Some(delivery), at)
        }
        (None, Some((fact, at))) => {
            let to = correlation(&mut fields, text);
            let fields = mapping(&mut fields, "fields", text);
            let delivery = to.map(|to| Delivery::Fact {
                fact: fact.into(),
                fields,
                to,
            });
            (delivery, at)
        }
        _ => {
            let hint = "write `start = \"operation\"`, or `fact = \"Type\"` with `run` or `label`";
            text.report_with(
                &span,
                format!("the subscription `{name}` needs either `start` or `fact`"),
                hint.to_owned(),
            );
            return None;
        }
    };
    fields.finish();
    Some(SubscriptionText {
        subscription: Subscription {
            name: name.to_owned(),
            event_type: Pattern::new(event_type?.0),
            source,
            delivery: delivery?,
        },
        target,
    })
}

/// Reads `run = "/pointer"`, or `label = { name = "/pointer" }`.
fn correlation(fields: &mut Fields<'_, '_>, text: &Text<'_>) -> Option<Correlation> {
    let span = fields.span.clone();
    let run = fields.text("run");
    let label = fields
        .get("label")
        .is_some()
        .then(|| mapping(fields, "label", text));
    match (run, label) {
        (Some((written, at)), None) => pointer(text, written, &at).map(Correlation::Run),
        (None, Some(Mapping(labels))) if labels.len() == 1 => labels
            .into_iter()
            .next()
            .map(|(name, value)| Correlation::Label { name, value }),
        _ => {
            let hint = "write `run = \"/subject\"`, or one label: `label = { order = \"/data/order\" }`";
            text.report_with(
                &span,
                "the subscription does not say which runs its events are for",
                hint.to_owned(),
            );
            None
        }
    }
}

/// Reads a table of pointers.
pub(crate) fn mapping(fields: &mut Fields<'_, '_>, key: &'static str, text: &Text<'_>) -> Mapping {
    if fields.get(key).is_none() {
        return Mapping::default();
    }
    let Some(table) = fields.table(key) else {
        return Mapping::default();
    };
    let mut found = BTreeMap::new();
    for (name, _, value) in table.entries() {
        let Some(written) = value.get_ref().as_str() else {
            let kind = type_name(value.get_ref());
            text.report(
                &value.span(),
                format!("`{name}` is {kind}, expected a JSON pointer"),
            );
            continue;
        };
        if let Some(pointer) = pointer(text, written, &value.span()) {
            found.insert(name.to_owned(), pointer);
        }
    }
    Mapping(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pattern_is_a_whole_text_or_its_beginning() {
        assert!(Pattern::new("com.shop.*").matches("com.shop.order"));
        assert!(!Pattern::new("com.shop.*").matches("com.other"));
        assert!(Pattern::new("com.shop").matches("com.shop"));
        assert!(!Pattern::new("com.shop").matches("com.shop.order"));
        assert!(Pattern::new("*").matches(""));
    }

    #[test]
    fn what_is_mapped_is_taken_and_what_is_missing_left_out() {
        let event = json!({ "id": "1", "data": { "a": { "b": 2 } } });
        let pointer = |text| Pointer::new(text).expect("a pointer");
        let mapping = Mapping(BTreeMap::from([
            ("n".to_owned(), pointer("/data/a/b")),
            ("event".to_owned(), pointer("/id")),
            ("none".to_owned(), pointer("/data/x")),
        ]));
        assert_eq!(mapping.object(&event), json!({ "n": 2, "event": "1" }));
        assert_eq!(Mapping::default().object(&event), json!({ "a": { "b": 2 } }));
        assert_eq!(mapping.texts(&event)["n"], "2");
    }
}
