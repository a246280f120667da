//! An operation of a service: what its requests must look like, and the fact a request becomes.
//!
//! A request is checked twice: against the JSON Schema when there is one, and against the fact type always, so that a
//! request which was accepted is never refused by the rules afterwards.

use std::fmt;
use std::sync::Arc;

use crate::subscription::Mapping;
use celesta_engine::{Event, FieldKind, Text, Value};
use celesta_functions::{Schema, VIOLATIONS_MAX, Violation};
use celesta_types::{Class, ErrorKind, Priority, RunId};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One field of a fact type that requests are made of.
#[derive(Debug, Clone)]
pub(crate) struct InputField {
    pub(crate) name: String,
    pub(crate) kind: FieldKind,
    pub(crate) optional: bool,
    pub(crate) has_default: bool,
}

/// One operation of a service.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The name it is requested by.
    pub name: String,
    /// What it does, for people.
    pub description: Option<String>,
    /// The workflow its runs follow.
    pub workflow: String,
    /// The type of the fact that a request becomes.
    pub fact: Arc<str>,
    /// What requests must look like.
    pub input: Option<Schema>,
    /// What results look like, for clients.
    pub output: Option<Schema>,
    /// The priority of its runs unless a request says otherwise.
    pub priority: Class,
    /// That priority when the operation says it: a run that asks for it is at least as urgent.
    pub own_priority: Option<Priority>,
    /// Labels that its runs get from the request's body.
    pub labels: Mapping,
    /// The fields of the fact type.
    pub(crate) fields: Arc<[InputField]>,
    /// Whether the fact has a field `id: string`, which gets the run's id.
    pub(crate) takes_id: bool,
}

/// A request that cannot become a fact. [`Operation::validate`] finds these first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the request as `{fact}`: {reason}")]
pub struct RequestError {
    /// The type of the fact.
    pub fact: String,
    /// What is wrong.
    pub reason: String,
}

impl RequestError {
    /// What a caller may do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl Operation {
    /// Checks a request's body. Wrong JSON is one violation that names line and column.
    ///
    /// # Errors
    /// All violations, at most [`VIOLATIONS_MAX`].
    pub fn validate(&self, json: &[u8]) -> Result<(), Vec<Violation>> {
        let whole = |message: String| {
            vec![Violation {
                pointer: String::new(),
                message,
            }]
        };
        let shapes: Shapes<'_> = serde_json::from_slice(json).map_err(|error| {
            let syntax = !matches!(error.classify(), serde_json::error::Category::Data);
            whole(if syntax {
                format!("not JSON: {error}")
            } else {
                error.to_string()
            })
        })?;
        let mut violations = Vec::new();
        if let Some(schema) = &self.input {
            let value = serde_json::from_slice(json).map_err(|error| whole(format!("not JSON: {error}")))?;
            violations = schema.violations(&value);
        }
        for violation in self.misfits(&shapes) {
            // The schema speaks first; the type adds only what the schema lets pass.
            let said = |one: &Violation| {
                one.pointer == violation.pointer || (one.pointer.is_empty() && self.input.is_some())
            };
            if violations.len() < VIOLATIONS_MAX && !violations.iter().any(said) {
                violations.push(violation);
            }
        }
        if violations.is_empty() {
            Ok(())
        } else {
            Err(violations)
        }
    }

    /// The event with which a run of this operation begins: its fact, made of the request's body.
    ///
    /// # Errors
    /// When the body is not an object that fits the fact's type.
    pub fn request_event(&self, run: RunId, json: &[u8]) -> Result<Event, RequestError> {
        let refused = |reason: String| RequestError {
            fact: self.fact.to_string(),
            reason,
        };
        let mut value = Value::from_json(json).map_err(|error| refused(error.to_string()))?;
        if self.takes_id {
            let Value::Map(given) = &value else {
                return Err(refused(format!("it is {}, not a map", value.kind_name())));
            };
            let id = (Text::from("id"), Value::Str(Text::from(run.to_string())));
            let others = given.iter().filter(|(key, _)| key.as_str() != "id");
            value = Value::map(
                others
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .chain([id]),
            );
        }
        Ok(Event::Insert {
            fact_type: Arc::clone(&self.fact),
            value,
        })
    }

    /// Where the body does not fit the fact's type.
    fn misfits<'s>(&'s self, shapes: &'s Shapes<'_>) -> impl Iterator<Item = Violation> + 's {
        let fields = &self.fields;
        let wrong = shapes.0.iter().enumerate().filter_map(move |(at, (key, shape))| {
            let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
            if shapes.0[..at].iter().any(|(earlier, _)| earlier == key) {
                return Some(Violation {
                    pointer,
                    message: format!("\"{key}\" is given twice"),
                });
            }
            let Some(field) = fields.iter().find(|field| field.name == **key) else {
                let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                let hint = crate::toml_text::did_you_mean(key, known.iter().copied());
                let hint = hint.unwrap_or_else(|| format!("known: {}", known.join(", ")));
                return Some(Violation {
                    pointer,
                    message: format!("\"{key}\" is not a field of {}; {hint}", self.fact),
                });
            };
            if field.accepts(*shape) {
                return None;
            }
            Some(Violation {
                pointer,
                message: format!("expected {}, found {shape}", field.kind.name()),
            })
        });
        let missing = fields.iter().filter_map(move |field| {
            let given = shapes.0.iter().any(|(key, _)| **key == field.name);
            let comes_by_itself =
                field.optional || field.has_default || (self.takes_id && field.name == "id");
            (!given && !comes_by_itself).then(|| Violation {
                pointer: String::new(),
                message: format!("\"{}\" is missing", field.name),
            })
        });
        wrong.chain(missing)
    }
}

impl InputField {
    fn accepts(&self, shape: Shape) -> bool {
        match (self.kind, shape) {
            (_, Shape::Null) => self.optional,
            (FieldKind::Any, _)
            | (FieldKind::String, Shape::String)
            | (FieldKind::Int | FieldKind::Time | FieldKind::Float, Shape::Int)
            | (FieldKind::Float, Shape::Float)
            | (FieldKind::Bool, Shape::Bool)
            | (FieldKind::List, Shape::List)
            | (FieldKind::Map, Shape::Map | Shape::Artifact)
            | (FieldKind::Artifact, Shape::Artifact) => true,
            _ => false,
        }
    }
}

/// What kind of JSON a value is, without the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Null,
    Bool,
    Int,
    Float,
    String,
    List,
    Map,
    Artifact,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a bool",
            Self::Int => "an int",
            Self::Float => "a float",
            Self::String => "a string",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Artifact => "an artifact",
        })
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Bool)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Int)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Shape, E> {
        // Beyond 63 bits a whole number is read as a float.
        Ok(if i64::try_from(value).is_ok() {
            Shape::Int
        } else {
            Shape::Float
        })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Float)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Shape::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut shape = Shape::Map;
        while let Some((key, _)) = map.next_entry::<std::borrow::Cow<'de, str>, IgnoredAny>()? {
            if key == "$artifact" {
                shape = Shape::Artifact;
            }
        }
        Ok(shape)
    }
}

/// The keys of an object and the shapes of their values, in order, doubles included.
struct Shapes<'de>(Vec<(std::borrow::Cow<'de, str>, Shape)>);

impl<'de> Deserialize<'de> for Shapes<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ShapesVisitor)
    }
}

struct ShapesVisitor;

impl<'de> Visitor<'de> for ShapesVisitor {
    type Value = Shapes<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut shapes = Vec::new();
        while let Some(entry) = map.next_entry()? {
            shapes.push(entry);
        }
        Ok(Shapes(shapes))
    }
}
