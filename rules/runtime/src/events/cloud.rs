//! One event, in the words of the `CloudEvents` specification.

use celesta_functions::INLINE_JSON_MAX;
use serde_json::Value;

/// Bytes of an event's attribute, as the specification advises for sources and ids.
const ATTRIBUTE_BYTES_MAX: usize = 1_024;
/// A `CloudEvent` 1.0 in its JSON form.
#[derive(Debug, Clone)]
pub struct CloudEvent {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) event_type: String,
    pub(super) value: Value,
}

impl CloudEvent {
    /// Takes an event over from its structured JSON form.
    ///
    /// # Errors
    /// When it is no event of version 1.0, or too large; the text says what is wrong.
    pub fn read(value: Value) -> Result<Self, String> {
        let Value::Object(members) = &value else {
            return Err("an event is a JSON object".to_owned());
        };
        let attribute = |name: &str| match members.get(name) {
            Some(Value::String(text)) if text.is_empty() => Err(format!("`{name}` is empty")),
            Some(Value::String(text)) if text.len() > ATTRIBUTE_BYTES_MAX => Err(format!(
                "`{name}` has {} bytes, more than {ATTRIBUTE_BYTES_MAX}",
                text.len()
            )),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("`{name}` is not a text")),
            None => Err(format!("`{name}` is missing")),
        };
        let version = attribute("specversion")?;
        if version != "1.0" {
            return Err(format!("`specversion` is `{version}`; expected `1.0`"));
        }
        let event = Self {
            id: attribute("id")?,
            source: attribute("source")?,
            event_type: attribute("type")?,
            value: Value::Null,
        };
        if members.contains_key("data") && members.contains_key("data_base64") {
            return Err("it has both `data` and `data_base64`".to_owned());
        }
        let bytes = value.to_string().len();
        if bytes > INLINE_JSON_MAX {
            return Err(format!(
                "it has {bytes} bytes, more than {INLINE_JSON_MAX}; store large values as artifacts"
            ));
        }
        Ok(Self { value, ..event })
    }

    /// Its id within its source.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// All of it, in its structured form.
    #[must_use]
    pub const fn value(&self) -> &Value {
        &self.value
    }

    /// Its source.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(event: Value) -> String {
        CloudEvent::read(event).expect_err("no event")
    }

    #[test]
    fn an_event_is_what_the_specification_says() {
        let good = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "extra": 1 });
        assert!(CloudEvent::read(good).is_ok());
        assert!(refusal(json!([])).contains("object"));
        let old = json!({ "specversion": "0.3", "id": "1", "source": "/s", "type": "t" });
        assert!(refusal(old).contains("0.3"));
        let nameless = json!({ "specversion": "1.0", "id": "", "source": "/s", "type": "t" });
        assert!(refusal(nameless).contains("`id` is empty"));
        let both = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1, "data_base64": "" });
        assert!(refusal(both).contains("both"));
        let long = "x".repeat(INLINE_JSON_MAX);
        let large = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": long });
        assert!(refusal(large).contains("artifacts"));
    }
}
