//! JSON Schemas of inputs and outputs, compiled once.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

/// Violations reported of one value: enough to mend it, bounded because a large wrong list has one for each element.
pub const VIOLATIONS_MAX: usize = 50;

/// A compiled JSON Schema (2020-12 unless it names another draft). Cheap to clone. Remote references are not followed.
#[derive(Clone)]
pub struct Schema {
    compiled: Arc<(Value, jsonschema::Validator)>,
}

/// A schema that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid JSON Schema: {message} (at `{pointer}`)")]
pub struct SchemaError {
    /// Where in the schema, as a JSON pointer.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

/// One place where a value does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Where in the value, as a JSON pointer; empty for the whole.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.pointer, self.message)
        }
    }
}

impl Schema {
    /// Compiles `json`.
    ///
    /// # Errors
    /// When it is not a schema, or refers to something outside of itself.
    pub fn compile(json: Value) -> Result<Self, SchemaError> {
        let validator = jsonschema::validator_for(&json).map_err(|error| SchemaError {
            pointer: error.instance_path().to_string(),
            message: shorten(&error.to_string()),
        })?;
        Ok(Self {
            compiled: Arc::new((json, validator)),
        })
    }

    /// The schema as it was written.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.compiled.0
    }

    /// Checks `value`; no violation means that it fits.
    #[must_use]
    pub fn violations(&self, value: &Value) -> Vec<Violation> {
        let validator = &self.compiled.1;
        if validator.is_valid(value) {
            return Vec::new();
        }
        let errors = validator.iter_errors(value).take(VIOLATIONS_MAX);
        errors
            .map(|error| Violation {
                pointer: error.instance_path().to_string(),
                message: shorten(&error.to_string()),
            })
            .collect()
    }
}

/// Messages quote the value, which may be large.
fn shorten(message: &str) -> String {
    const LENGTH_MAX: usize = 300;
    if message.len() <= LENGTH_MAX {
        return message.to_owned();
    }
    let cut: String = message.chars().take(LENGTH_MAX / 2).collect();
    let tail_from = message
        .char_indices()
        .rev()
        .nth(LENGTH_MAX / 2 - 1)
        .map_or(0, |(at, _)| at);
    format!("{cut} … {}", &message[tail_from..])
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.compiled.0).finish()
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.compiled.0 == other.compiled.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_violation_is_named_with_its_place() {
        let schema = Schema::compile(json!({
            "type": "object", "required": ["name"], "additionalProperties": false,
            "properties": { "name": { "type": "string" }, "parts": { "type": "array", "items": { "type": "integer" } } },
        }))
        .expect("a schema");
        assert!(
            schema
                .violations(&json!({ "name": "a", "parts": [1] }))
                .is_empty()
        );
        let wrong = schema.violations(&json!({ "parts": [1, "x"], "more": 1 }));
        let places: Vec<_> = wrong.iter().map(|violation| violation.pointer.as_str()).collect();
        assert_eq!(places.len(), 3);
        assert!(places.contains(&"/parts/1"));
    }

    #[test]
    fn a_wrong_schema_and_a_remote_reference_are_refused() {
        assert!(Schema::compile(json!({ "type": "strnig" })).is_err());
        assert!(Schema::compile(json!({ "$ref": "https://example.com/schema.json" })).is_err());
    }

    #[test]
    fn violations_are_bounded_and_short() {
        let schema = Schema::compile(json!({ "items": { "type": "integer" } })).expect("a schema");
        let wrong = schema.violations(&Value::Array(vec![json!("x".repeat(10_000)); 1_000]));
        assert_eq!(wrong.len(), VIOLATIONS_MAX);
        assert!(wrong[0].message.len() < 1_000);
    }
}
