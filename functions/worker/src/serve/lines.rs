//! What a warm process says, line by line.

use celesta_functions::INLINE_JSON_MAX;
use celesta_functions::protocol::{LINE_MAX, Line};

use super::flights::Flight;
use super::{Next, Process};
use crate::feed::{Finished, Progress};
use crate::files;
use crate::judge::check_output;
use crate::outcome::Failure;

impl Process {
    pub(super) async fn read_lines(&mut self) -> Next {
        let buffer = std::mem::take(&mut self.incoming);
        let mut finished = Vec::new();
        let mut begin = 0;
        let mut from = self.searched;
        while let Some(length) = buffer[from..].iter().position(|&byte| byte == b'\n') {
            let end = from + length;
            self.read_line(&buffer[begin..end], &mut finished);
            begin = end + 1;
            from = begin;
        }
        // What is left is the beginning of a line.
        let rest = buffer.len() - begin;
        self.incoming = buffer;
        self.incoming.drain(..begin);
        self.searched = rest;
        if !finished.is_empty() {
            self.lane.says_result();
            self.floor.feed.settle(finished).await;
        }
        if rest > LINE_MAX {
            self.log
                .push(format!("a line has more than {LINE_MAX} bytes\n").as_bytes());
            return Next::Ended;
        }
        Next::On
    }

    pub(super) fn read_line(&mut self, line: &[u8], finished: &mut Vec<Finished>) {
        match Line::parse(line) {
            Ok(Line::Result { id, result }) => {
                if let Some(flight) = self.flights.take(id) {
                    self.answered(flight, result, finished);
                }
            }
            Ok(Line::Error { id, failure }) => {
                if let Some(flight) = self.flights.take(id) {
                    self.finish_later(flight, Err(Failure::new(failure.class, failure.message)));
                }
            }
            Ok(Line::Progress { id, fraction, text }) => {
                if let Some(held) = self.flights.get_mut(id).and_then(|flight| flight.held.as_ref()) {
                    let (invocation, run, call) = (held.leased.id, held.run, held.call);
                    self.floor.feed.progress(Progress {
                        invocation,
                        run,
                        call,
                        fraction,
                        text: text.into_owned(),
                    });
                }
            }
            Ok(Line::Log { id, text }) => {
                let flight = id.and_then(|id| self.flights.get_mut(id));
                let log = flight.map_or(&mut self.log, |flight| flight.printed.get_or_insert_default());
                log.push(text.as_bytes());
                log.push(b"\n");
            }
            Ok(Line::Ready { concurrency }) => {
                let most = usize::try_from(concurrency.unwrap_or(u32::MAX)).unwrap_or(usize::MAX);
                self.concurrency = self.concurrency.min(most);
            }
            // What is not of the protocol was printed for people.
            Err(_) => {
                let log = self
                    .flights
                    .only()
                    .map_or(&mut self.log, |flight| flight.printed.get_or_insert_default());
                log.push(line);
                log.push(b"\n");
            }
        }
    }

    /// A result has come. Nearly always it is settled with the others of its batch.
    pub(super) fn answered(&self, mut flight: Flight, result: &[u8], finished: &mut Vec<Finished>) {
        let plain = flight.folder.is_none()
            && flight.printed.is_none()
            && result.len() <= INLINE_JSON_MAX
            && !files::names_files(result);
        if !plain {
            return self.finish_later(flight, Ok(result.to_vec()));
        }
        let Some(held) = flight.held.take() else {
            return;
        };
        self.floor.metrics.running.dec();
        finished.push(match check_output(&self.package.manifest, result) {
            Ok(()) => self.floor.succeeded(&held, result),
            Err(failure) => self.finish_now(&held, Err(failure)),
        });
    }
}
