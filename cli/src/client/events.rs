//! A run's event stream: server-sent events that survive a lost connection by resuming after the last one seen.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::{Method, header};
use serde_json::Value;

use super::{Client, Repeat};
use crate::exit::{Exit, Failure};

/// A stream that stays silent longer than several heartbeats is dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a server that went away is waited for: long enough for a restart.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to reconnect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);
/// No event of a run is larger.
const EVENT_MAX: usize = 8 * 1024 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// Where the stream can be resumed.
    pub(crate) id: String,
    /// `turn`, `progress`, `log`, `completed` and so on.
    pub(crate) kind: String,
    /// What it says.
    pub(crate) data: Value,
}

impl Event {
    /// Whether it is the run's last.
    pub(crate) fn is_last(&self) -> bool {
        super::views::is_end(&self.kind)
    }
}

/// The events of one run, in order, each once.
pub(crate) struct EventStream {
    client: Client,
    run: String,
    last_id: Option<String>,
    body: Option<BoxStream<'static, reqwest::Result<Bytes>>>,
    parser: Parser,
    ready: VecDeque<Event>,
    ended: bool,
}

impl EventStream {
    /// The events of `run` from its beginning, or after `last_id`.
    pub(crate) fn new(client: &Client, run: &str, last_id: Option<String>) -> Self {
        Self {
            client: client.clone(),
            run: run.to_owned(),
            last_id,
            body: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// The next event; none after the run's last. Reconnects by itself while the server is away for up to a minute.
    ///
    /// # Errors
    /// When the server stays away or answers with a problem.
    ///
    /// # Cancel safety
    /// An event is lost only if the future is dropped after it was returned.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.ended |= event.is_last();
                if !event.id.is_empty() {
                    self.last_id = Some(event.id.clone());
                }
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            if self.body.is_none() {
                self.connect().await?;
            }
            let Some(body) = &mut self.body else { continue };
            match tokio::time::timeout(SILENCE_MAX, body.next()).await {
                Ok(Some(Ok(bytes))) => self.parser.feed(&bytes, &mut self.ready),
                Ok(Some(Err(_)) | None) | Err(_) => {
                    self.body = None;
                    self.parser = Parser::default();
                    self.client.clock().sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let clock = self.client.clock().clone();
        let begun = clock.monotonic();
        loop {
            let url = self.client.url(&["v1", "runs", &self.run, "events"], &[]);
            let mut request = self
                .client
                .request(Method::GET, url)
                .header(header::ACCEPT, "text/event-stream");
            if let Some(id) = &self.last_id {
                request = request.header("Last-Event-ID", id);
            }
            match self.client.send(request, Repeat::Safe).await {
                Ok(response) => {
                    self.body = Some(response.bytes_stream().boxed());
                    return Ok(());
                }
                // Before the first connection a server that is away is simply away.
                Err(failure) if failure.exit == Exit::Unreachable && self.last_id.is_some() => {
                    if clock.monotonic().saturating_sub(begun) > AWAY_MAX {
                        return Err(failure);
                    }
                    clock.sleep(RECONNECT_PAUSE).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream")
            .field("run", &self.run)
            .field("last_id", &self.last_id)
            .finish_non_exhaustive()
    }
}

/// Puts server-sent events together from pieces of any size (WHATWG HTML, 9.2.6).
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    id: String,
    kind: String,
    text: String,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8], ready: &mut VecDeque<Event>) {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                    self.take_line(line.trim_end_matches('\r'), ready);
                }
                _ if self.line.len() < EVENT_MAX => self.line.push(byte),
                _ => {}
            }
        }
    }

    fn take_line(&mut self, line: &str, ready: &mut VecDeque<Event>) {
        if line.is_empty() {
            if !self.text.is_empty() || !self.kind.is_empty() {
                let text = std::mem::take(&mut self.text);
                let data = serde_json::from_str(&text).unwrap_or(Value::String(text));
                ready.push_back(Event {
                    id: self.id.clone(),
                    kind: std::mem::take(&mut self.kind),
                    data,
                });
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut self.id),
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if !self.text.is_empty() {
                    self.text.push('\n');
                }
                self.text.push_str(value);
            }
            // Comments are heartbeats.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_from_any_pieces() {
        let text = ": heartbeat\n\nid: 3.0\nevent: progress\ndata: {\"fraction\":0.5}\n\nid: 4.1\r\nevent: completed\r\ndata: {}\r\n\r\n";
        for size in 1..text.len() {
            let (mut parser, mut ready) = (Parser::default(), VecDeque::new());
            for piece in text.as_bytes().chunks(size) {
                parser.feed(piece, &mut ready);
            }
            let kinds: Vec<_> = ready
                .iter()
                .map(|event| (event.id.as_str(), event.kind.as_str()))
                .collect();
            assert_eq!(
                kinds,
                [("3.0", "progress"), ("4.1", "completed")],
                "pieces of {size}"
            );
            assert!(ready[1].is_last());
        }
    }
}
