//! The lines between a worker and a warm process (`protocol = "serve"`), and the error an `exec` process may leave.
//!
//! The worker writes one request a line to the process' standard input:
//!
//! ```json
//! {"id":7,"input":{"name":"Ada"},"attempt":1,"deadline_ms":1764000000000,"dir":"/…/work"}
//! ```
//!
//! `id` is opaque and comes back with everything the process says about this request. `deadline_ms` is an instant in
//! milliseconds since 1970. `dir` is a folder of this attempt; it is given when the input names artifacts or the
//! function is known to make files, else the process' own working directory is meant.
//!
//! The process writes lines to standard output, in any order, many at once if it likes:
//!
//! ```json
//! {"ready":true,"concurrency":16}
//! {"id":7,"progress":0.4,"text":"frame 40 of 100"}
//! {"id":7,"log":"a line for the attempt's log"}
//! {"id":7,"result":{"greeting":"Hello, Ada"}}
//! {"id":8,"error":{"class":"input","message":"no such recipe"}}
//! ```
//!
//! `ready` is optional and comes first; its `concurrency` lowers the number of requests in flight. Each id is answered
//! once by `result` or `error`; a later answer is ignored. Errors have the classes of [`celesta_types::ErrorClass`];
//! a class that is missing or unknown is `user`.
//!
//! Reading a line allocates nothing for the result: it is found as a span of the line and checked to be JSON.

use std::borrow::Cow;
use std::fmt::Write as _;

use celesta_types::ErrorClass;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Bytes of one line a process may write: the largest result, an error or a log line, and what stands around it.
pub const LINE_MAX: usize = 256 * 1024;

/// One request, as written to a process.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Comes back with the response.
    pub id: u64,
    /// The input, one JSON value.
    pub input: &'a [u8],
    /// From 1.
    pub attempt: u32,
    /// When the attempt is cut off, in milliseconds since 1970.
    pub deadline_ms: i64,
    /// The attempt's own folder.
    pub dir: Option<&'a str>,
}

impl Request<'_> {
    /// Appends the request and its line feed to `out`. The input is copied as it is, but for line feeds.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut numbers = String::with_capacity(64);
        out.extend_from_slice(b"{\"id\":");
        // Writing into a string always succeeds.
        write!(numbers, "{}", self.id).ok();
        out.extend_from_slice(numbers.as_bytes());
        out.extend_from_slice(b",\"input\":");
        if self.input.contains(&b'\n') {
            // Outside of strings a line feed is white space, and inside it is always escaped.
            out.extend(
                self.input
                    .iter()
                    .map(|&byte| if byte == b'\n' { b' ' } else { byte }),
            );
        } else {
            out.extend_from_slice(self.input);
        }
        numbers.clear();
        write!(
            numbers,
            ",\"attempt\":{},\"deadline_ms\":{}",
            self.attempt, self.deadline_ms
        )
        .ok();
        out.extend_from_slice(numbers.as_bytes());
        if let Some(dir) = self.dir {
            out.extend_from_slice(b",\"dir\":");
            out.extend_from_slice(serde_json::Value::from(dir).to_string().as_bytes());
        }
        out.extend_from_slice(b"}\n");
    }
}

/// An error as a function reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure<'a> {
    /// Whose fault it is; `user` unless said otherwise.
    pub class: ErrorClass,
    /// For people.
    pub message: Cow<'a, str>,
}

/// One line of a process, borrowed from it.
#[derive(Debug, Clone, PartialEq)]
pub enum Line<'a> {
    /// The process is ready, and takes at most so many requests at once when it says so.
    Ready {
        /// Requests in flight, at least 1.
        concurrency: Option<u32>,
    },
    /// The answer to a request.
    Result {
        /// Which request.
        id: u64,
        /// One JSON value.
        result: &'a [u8],
    },
    /// A request failed.
    Error {
        /// Which request.
        id: u64,
        /// How.
        failure: Failure<'a>,
    },
    /// How far a request is.
    Progress {
        /// Which request.
        id: u64,
        /// From 0 to 1.
        fraction: f64,
        /// For people.
        text: Cow<'a, str>,
    },
    /// A line for the log of a request, or of the process when it names none.
    Log {
        /// Which request.
        id: Option<u64>,
        /// The line.
        text: Cow<'a, str>,
    },
}

/// A line that is not of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a line of the protocol: {reason}")]
pub struct LineError {
    /// What is wrong.
    pub reason: String,
}

impl<'a> Line<'a> {
    /// Reads one line, without its line feed.
    ///
    /// # Errors
    /// When it is not a JSON object, or none of the known forms.
    pub fn parse(line: &'a [u8]) -> Result<Self, LineError> {
        let mut members = Members::default();
        read_members(line, |key, value| members.take(key, value))?;
        members.line()
    }
}

#[derive(Default)]
struct Members<'a> {
    id: Option<u64>,
    result: Option<&'a [u8]>,
    error: Option<Failure<'a>>,
    progress: Option<f64>,
    text: Option<Cow<'a, str>>,
    log: Option<Cow<'a, str>>,
    ready: bool,
    concurrency: Option<u32>,
}

impl<'a> Members<'a> {
    fn take(&mut self, key: &[u8], value: &'a [u8]) -> Result<(), LineError> {
        match key {
            b"id" => self.id = Some(typed(value, "`id` is not the id of a request")?),
            b"result" => self.result = Some(value),
            b"error" => self.error = Some(Failure::parse(value)?),
            b"progress" => self.progress = Some(typed(value, "`progress` is not a number")?),
            b"text" => self.text = Some(text(value)),
            b"log" => self.log = Some(text(value)),
            b"ready" => self.ready = typed(value, "`ready` is not true or false")?,
            b"concurrency" => {
                self.concurrency = Some(typed(value, "`concurrency` is not a number of requests")?);
            }
            _ => {}
        }
        Ok(())
    }

    fn line(self) -> Result<Line<'a>, LineError> {
        match self {
            Self {
                id: Some(id),
                error: Some(failure),
                ..
            } => Ok(Line::Error { id, failure }),
            Self {
                id: Some(id),
                result: Some(result),
                ..
            } => Ok(Line::Result { id, result }),
            Self {
                id: Some(id),
                progress: Some(fraction),
                text,
                ..
            } => Ok(Line::Progress {
                id,
                fraction: if fraction.is_finite() {
                    fraction.clamp(0.0, 1.0)
                } else {
                    0.0
                },
                text: text.unwrap_or_default(),
            }),
            Self {
                id, log: Some(text), ..
            } => Ok(Line::Log { id, text }),
            Self {
                ready: true,
                concurrency,
                ..
            } => Ok(Line::Ready {
                concurrency: concurrency.map(|most| most.max(1)),
            }),
            Self { id: None, .. } => Err(wrong("it has no `id`")),
            Self { .. } => Err(wrong("expected `result`, `error`, `progress` or `log`")),
        }
    }
}

impl<'a> Failure<'a> {
    /// Reads `{"class":…,"message":…}`, or a text alone.
    ///
    /// # Errors
    /// When `value` is not JSON.
    pub fn parse(value: &'a [u8]) -> Result<Self, LineError> {
        let mut failure = Failure {
            class: ErrorClass::User,
            message: Cow::Borrowed(""),
        };
        if value.first() != Some(&b'{') {
            failure.message = text(value);
            return Ok(failure);
        }
        read_members(value, |key, value| {
            match key {
                b"class" => failure.class = text(value).parse().unwrap_or(ErrorClass::User),
                b"message" => failure.message = text(value),
                _ => {}
            }
            Ok(())
        })?;
        Ok(failure)
    }

    /// Reads the line `{"error":{…}}` that a failed process may leave; `None` when `line` is anything else.
    #[must_use]
    pub fn parse_envelope(line: &'a [u8]) -> Option<Self> {
        let line = line.trim_ascii();
        if !line.starts_with(b"{") {
            return None;
        }
        let mut found = None;
        let read = read_members(line, |key, value| {
            if key == b"error" {
                found = Some(Self::parse(value)?);
            }
            Ok(())
        });
        read.ok().and(found)
    }
}

fn wrong(reason: impl Into<String>) -> LineError {
    LineError {
        reason: reason.into(),
    }
}

fn typed<'a, T: Deserialize<'a>>(value: &'a [u8], reason: &str) -> Result<T, LineError> {
    serde_json::from_slice(value).map_err(|_| wrong(reason))
}

/// A JSON string's text, or the JSON itself when it is of another type.
fn text(value: &[u8]) -> Cow<'_, str> {
    match value {
        [b'"', plain @ .., b'"'] if !plain.contains(&b'\\') => String::from_utf8_lossy(plain),
        [b'"', ..] => serde_json::from_slice::<String>(value)
            .map_or_else(|_| String::from_utf8_lossy(value), Cow::Owned),
        _ => String::from_utf8_lossy(value),
    }
}

/// Calls `take` with the raw key and the raw value of each member of the object `json`; values are checked to be JSON.
fn read_members<'a>(
    json: &'a [u8],
    mut take: impl FnMut(&[u8], &'a [u8]) -> Result<(), LineError>,
) -> Result<(), LineError> {
    let mut rest = json
        .trim_ascii()
        .strip_prefix(b"{")
        .ok_or_else(|| wrong("it is not a JSON object"))?
        .trim_ascii_start();
    if rest == b"}" {
        return Ok(());
    }
    loop {
        let (key, after) = value_at(rest)?;
        let key = key
            .strip_prefix(b"\"")
            .and_then(|key| key.strip_suffix(b"\""))
            .ok_or_else(|| wrong("a key is not a string"))?;
        let after = after
            .trim_ascii_start()
            .strip_prefix(b":")
            .ok_or_else(|| wrong("`:` is missing after a key"))?;
        let (value, after) = value_at(after.trim_ascii_start())?;
        take(key, value)?;
        let after = after.trim_ascii_start();
        match after.split_first() {
            Some((b',', more)) => rest = more.trim_ascii_start(),
            Some((b'}', [])) => return Ok(()),
            Some((b'}', _)) => return Err(wrong("something follows the object")),
            _ => return Err(wrong("the object is not closed")),
        }
    }
}

/// The JSON value at the front, and what follows it.
fn value_at(json: &[u8]) -> Result<(&[u8], &[u8]), LineError> {
    let mut values = serde_json::Deserializer::from_slice(json).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Ok(json.split_at(values.byte_offset())),
        Some(Err(error)) => Err(wrong(error.to_string())),
        None => Err(wrong("a value is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_one_line() {
        let mut out = Vec::new();
        let request = Request {
            id: 7,
            input: b"{\n\"a\": \"x\\ny\"}",
            attempt: 2,
            deadline_ms: 5,
            dir: Some("/a \"b\""),
        };
        request.write(&mut out);
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["input"]["a"], "x\ny");
        assert_eq!(value["dir"], "/a \"b\"");
    }

    #[test]
    fn every_documented_line_reads() {
        let parse = |line: &'static str| Line::parse(line.as_bytes()).expect("a line of the protocol");
        assert_eq!(
            parse(r#"{"ready":true,"concurrency":0}"#),
            Line::Ready { concurrency: Some(1) }
        );
        assert_eq!(
            parse(r#"{"id":7,"result": {"a":[1,2,"}"]} }"#),
            Line::Result {
                id: 7,
                result: br#"{"a":[1,2,"}"]}"#
            }
        );
        assert_eq!(
            parse(r#"{"result":null,"id":7}"#),
            Line::Result {
                id: 7,
                result: b"null"
            }
        );
        assert_eq!(
            parse(r#"{"id":7,"result":12}"#),
            Line::Result { id: 7, result: b"12" }
        );
        assert_eq!(
            parse(r#"{"id":7,"log":"a\tb"}"#),
            Line::Log {
                id: Some(7),
                text: "a\tb".into()
            }
        );
        assert_eq!(
            parse(r#"{"id":8,"error":{"class":"input","message":"no"}}"#),
            Line::Error {
                id: 8,
                failure: Failure {
                    class: ErrorClass::Input,
                    message: "no".into()
                }
            }
        );
        assert_eq!(
            parse(r#"{"id":8,"error":"boom"}"#),
            Line::Error {
                id: 8,
                failure: Failure {
                    class: ErrorClass::User,
                    message: "boom".into()
                }
            }
        );
        assert_eq!(
            parse(r#"{"id":1,"progress":7}"#),
            Line::Progress {
                id: 1,
                fraction: 1.0,
                text: "".into()
            }
        );
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            "",
            "{",
            "[]",
            "hello",
            "{}",
            r#"{"id":1}"#,
            r#"{"id":1,"result":}"#,
            r#"{"id":1,"result":1} x"#,
            r#"{"id":"x","result":1}"#,
        ] {
            assert!(Line::parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn an_error_left_by_a_process_is_found() {
        let failure = Failure::parse_envelope(br#" {"error":{"class":"transient","message":"later"}} "#)
            .expect("an error");
        assert_eq!(
            (failure.class, &*failure.message),
            (ErrorClass::Transient, "later")
        );
        assert_eq!(Failure::parse_envelope(b"Traceback"), None);
        assert_eq!(Failure::parse_envelope(br#"{"result":1}"#), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_and_no_panic(bytes: Vec<u8>) {
            let _outcome = Line::parse(&bytes);
        }
    }
}
