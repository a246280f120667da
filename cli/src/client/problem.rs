//! RFC 9457 problems as the server sends them, and how they read on a terminal.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Lines of a problem's detail shown at most; `--json` has all of them.
const LINES_MAX: usize = 60;

/// What the server says is wrong.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    /// Where the problem is explained.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The problem in a few words.
    pub(crate) title: String,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What happened this time.
    pub(crate) detail: String,
    /// The stable code.
    pub(crate) code: String,
    /// Single violations, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<Value>,
    /// Everything else.
    #[serde(flatten)]
    pub(crate) more: Map<String, Value>,
}

impl Problem {
    /// Reads a problem; an answer that is none (from a proxy, say) becomes one.
    pub(crate) fn read(status: u16, body: &[u8]) -> Self {
        let mut problem: Self = serde_json::from_slice(body).unwrap_or_else(|_| Self {
            title: format!("the server answered with status {status}"),
            detail: String::from_utf8_lossy(body).chars().take(2_000).collect(),
            ..Self::default()
        });
        if problem.status == 0 {
            problem.status = status;
        }
        problem
    }

    /// Title and code in one line.
    pub(crate) fn headline(&self) -> String {
        let title = if self.title.is_empty() {
            "the server refused"
        } else {
            &self.title
        };
        if self.code.is_empty() {
            title.to_owned()
        } else {
            format!("{title} [{}]", self.code)
        }
    }

    /// The detail and the violations, line by line.
    pub(crate) fn detail_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.detail.lines().map(str::to_owned).collect();
        for error in &self.errors {
            let line = violation(error);
            if !lines.iter().any(|known| known.contains(line.trim())) {
                lines.push(line);
            }
        }
        if lines.len() > LINES_MAX {
            let more = lines.len() - LINES_MAX;
            lines.truncate(LINES_MAX);
            lines.push(format!("… and {more} more lines (see them all with --json)"));
        }
        lines
    }
}

/// `pointer: message` for a violation of a schema; `path:line: message` for a diagnostic; otherwise its JSON.
fn violation(error: &Value) -> String {
    let text = |key: &str| error.get(key).and_then(Value::as_str);
    let Some(message) = text("message") else {
        return error.to_string();
    };
    if let Some(path) = text("path") {
        let line = error
            .get("line")
            .and_then(Value::as_u64)
            .map(|line| format!(":{line}"))
            .unwrap_or_default();
        return format!("{path}{line}: {message}");
    }
    match text("pointer") {
        Some("") => format!("(body): {message}"),
        Some(pointer) => format!("{pointer}: {message}"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_lines() {
        let body = br#"{"type":"/errors/invalid-input","title":"the input does not fit","status":422,"detail":"two violations",
            "code":"invalid-input","errors":[{"pointer":"/n","message":"is not an integer"},{"pointer":"","message":"lacks m"}]}"#;
        let problem = Problem::read(422, body);
        assert_eq!(problem.headline(), "the input does not fit [invalid-input]");
        assert_eq!(
            problem.detail_lines(),
            ["two violations", "/n: is not an integer", "(body): lacks m"]
        );
    }

    #[test]
    fn an_answer_of_somebody_else_is_still_told() {
        let problem = Problem::read(502, b"<html>bad gateway</html>");
        assert_eq!(
            (problem.status, problem.headline().as_str()),
            (502, "the server answered with status 502")
        );
    }
}
