//! Values of scenarios: `${input.path}` and `${run}` inside of texts, files in the place of artifacts, comparison.

use celesta_types::{Digest, RunId};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// Differences reported of one comparison: the first ones tell.
const DIFFERENCES_MAX: usize = 10;
/// Characters of a value in a message.
const SHOWN_MAX: usize = 200;

/// What `${…}` may refer to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'v> {
    /// The run, for `${run}`.
    pub(super) run: RunId,
    /// The input of the call that is answered, for `${input.…}`.
    pub(super) input: Option<&'v Value>,
}

impl Names<'_> {
    /// `value` with every `${…}` replaced and every `{ "$file" = name }` as an artifact: equal names, equal artifacts.
    ///
    /// # Errors
    /// When a name refers to nothing.
    pub(super) fn fill(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => self.fill_text(text)?,
            Value::Array(list) => {
                Value::Array(list.iter().map(|one| self.fill(one)).collect::<Result<_, _>>()?)
            }
            Value::Object(map) => {
                let mut filled = Map::new();
                for (key, value) in map {
                    filled.insert(key.clone(), self.fill(value)?);
                }
                match filled.get("$file").and_then(Value::as_str) {
                    Some(name) => artifact(name, &filled),
                    None => Value::Object(filled),
                }
            }
            other => other.clone(),
        })
    }

    fn fill_text(&self, text: &str) -> Result<Value, String> {
        if let Some(name) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))
            && !name.contains('}')
        {
            // The text is one name: its value keeps its type.
            return self.look_up(name);
        }
        let mut filled = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let Some(length) = rest[at..].find('}') else { break };
            filled.push_str(&rest[..at]);
            match self.look_up(&rest[at + 2..at + length])? {
                Value::String(text) => filled.push_str(&text),
                other => filled.push_str(&other.to_string()),
            }
            rest = &rest[at + length + 1..];
        }
        filled.push_str(rest);
        Ok(Value::String(filled))
    }

    fn look_up(&self, name: &str) -> Result<Value, String> {
        if name == "run" {
            return Ok(Value::String(self.run.to_string()));
        }
        let mut parts = name.split('.');
        let root = (parts.next() == Some("input")).then_some(self.input).flatten();
        let found = parts.try_fold(root, |value, part| {
            let value = value?;
            let inner = match part.parse::<usize>() {
                Ok(at) if value.is_array() => value.get(at),
                _ => value.get(part),
            };
            inner.map(Some)
        });
        found.flatten().cloned().ok_or_else(|| {
            let known = self
                .input
                .map_or("`run`", |_| "`run`, `input` and what is in the input");
            format!("`${{{name}}}` refers to nothing; known: {known}")
        })
    }
}

/// A reference to the artifact that a file of this name would become.
fn artifact(name: &str, written: &Map<String, Value>) -> Value {
    let digest = Digest::from_bytes(Sha256::digest(name.as_bytes()).into());
    let mut reference = Map::new();
    reference.insert("$artifact".to_owned(), Value::String(digest.to_string()));
    reference.insert(
        "size".to_owned(),
        written
            .get("size")
            .cloned()
            .unwrap_or_else(|| Value::from(name.len())),
    );
    if let Some(media_type) = written.get("media_type") {
        reference.insert("media_type".to_owned(), media_type.clone());
    }
    Value::Object(reference)
}

/// Whether every key of `pattern` is in `value` with a fitting value; lists fit element by element.
pub(super) fn fits(pattern: &Value, value: &Value) -> bool {
    differences("", pattern, value, false).is_empty()
}

/// Where `actual` differs from `expected`; keys that are not expected are let pass unless `exactly`.
pub(super) fn differences(place: &str, expected: &Value, actual: &Value, exactly: bool) -> Vec<String> {
    let mut found = Vec::new();
    compare(place, expected, actual, exactly, &mut found);
    found
}

fn compare(place: &str, expected: &Value, actual: &Value, exactly: bool, found: &mut Vec<String>) {
    if found.len() >= DIFFERENCES_MAX {
        return;
    }
    match (expected, actual) {
        (Value::Object(wanted), Value::Object(have)) => {
            for (key, value) in wanted {
                match have.get(key) {
                    Some(actual) => compare(&format!("{place}.{key}"), value, actual, exactly, found),
                    None => found.push(format!(
                        "{place}.{key}: expected {}, and it is missing",
                        shown(value)
                    )),
                }
            }
            if exactly {
                for (key, value) in have {
                    if !wanted.contains_key(key) {
                        found.push(format!("{place}.{key}: not expected, and it is {}", shown(value)));
                    }
                }
            }
        }
        (Value::Array(wanted), Value::Array(have)) => {
            if wanted.len() != have.len() {
                found.push(format!(
                    "{place}: expected {} elements, got {}: {}",
                    wanted.len(),
                    have.len(),
                    shown(actual)
                ));
                return;
            }
            for (at, (value, actual)) in wanted.iter().zip(have).enumerate() {
                compare(&format!("{place}[{at}]"), value, actual, exactly, found);
            }
        }
        (Value::Number(wanted), Value::Number(have)) => {
            // 1 and 1.0 are one number to whoever writes a test.
            let equal = wanted == have
                || matches!((wanted.as_f64(), have.as_f64()), (Some(one), Some(other)) if one.total_cmp(&other).is_eq());
            if !equal {
                found.push(format!("{place}: expected {wanted}, got {have}"));
            }
        }
        (expected, actual) => {
            if expected != actual {
                found.push(format!(
                    "{place}: expected {}, got {}",
                    shown(expected),
                    shown(actual)
                ));
            }
        }
    }
}

/// A value as text, cut when long.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_MAX {
        return text;
    }
    let cut: String = text.chars().take(SHOWN_MAX).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fill(value: &Value, input: &Value) -> Result<Value, String> {
        Names {
            run: RunId::from_bits(7),
            input: Some(input),
        }
        .fill(value)
    }

    #[test]
    fn a_name_alone_keeps_its_type_and_within_a_text_becomes_text() {
        let input = json!({ "chunk": { "index": 3 }, "list": [10, 20] });
        let filled = fill(
            &json!([
                "${input.chunk.index}",
                "part-${input.chunk.index}.mp4",
                "${input.list.1}"
            ]),
            &input,
        );
        assert_eq!(filled, Ok(json!([3, "part-3.mp4", 20])));
        assert!(fill(&json!("${input.missing}"), &input).is_err());
        assert_eq!(fill(&json!("a ${ b"), &input), Ok(json!("a ${ b")));
    }

    #[test]
    fn equal_file_names_become_equal_artifacts() {
        let one = fill(&json!({ "$file": "a-${input.n}" }), &json!({ "n": 1 })).expect("filled");
        let same = fill(&json!({ "$file": "a-1" }), &json!(null)).expect("filled");
        assert_eq!(one, same);
        assert!(
            one["$artifact"]
                .as_str()
                .is_some_and(|digest| digest.starts_with("sha256:"))
        );
    }

    #[test]
    fn a_pattern_fits_what_has_more_and_names_each_difference() {
        assert!(fits(
            &json!({ "a": { "b": 1 } }),
            &json!({ "a": { "b": 1.0, "c": 2 }, "d": 3 })
        ));
        let wrong = differences(
            "result",
            &json!({ "a": [1, 2], "b": "x" }),
            &json!({ "a": [1, 3] }),
            false,
        );
        assert_eq!(
            wrong,
            [
                "result.a[1]: expected 2, got 3",
                "result.b: expected \"x\", and it is missing"
            ]
        );
        assert_eq!(
            differences("r", &json!({}), &json!({ "a": 1 }), true),
            ["r.a: not expected, and it is 1"]
        );
    }
}
