//! What clients write for all runs of a service: shared facts, each with a key, so that every write may be asked for again.

use celesta_runs::{Runtime, SharedWrite, SharedWritten, WriteShared, WriteSharedError};
use celesta_types::ErrorKind;
use serde_json::json;

use super::{Answer, Ask, Known, Model};
use crate::node::Waiting;
use crate::workloads::{MAIN, NAMES};

/// One write: the fact of a name, which all runs that listen to the name hear.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) name: usize,
    /// Whether the fact is to be new.
    is_first: bool,
    /// Runs that are told in a second.
    rate: u32,
    /// Whether nobody is told before somebody says so.
    hold: bool,
    tries: usize,
    pub(crate) known: Known,
    /// The service's count of changes with it, when it is promised.
    pub(crate) revision: Option<u64>,
}

impl Share {
    /// What is written: no other write has it.
    pub(crate) fn value(number: usize) -> i64 {
        i64::try_from(number).unwrap_or(i64::MAX)
    }
}

/// The number of the fact of a name.
pub(crate) fn fact_of(name: usize) -> u64 {
    u64::try_from(name).unwrap_or(u64::MAX).saturating_add(1)
}

impl Model {
    /// Somebody wants the fact of a name changed: the number of the write.
    pub(crate) fn new_share(&mut self, name: usize, rate: u32, hold: bool) -> usize {
        let is_there = |share: &Share| share.name == name && share.is_first && share.known == Known::Promised;
        let is_first = !self.shares.iter().any(is_there);
        self.shares.push(Share {
            name,
            is_first,
            rate,
            hold,
            tries: 0,
            known: Known::Doubtful,
            revision: None,
        });
        self.shares.len() - 1
    }

    /// A client writes it.
    pub(crate) fn share(&mut self, runtime: &Runtime, number: usize) -> (Ask, Waiting<Answer>) {
        let share = &mut self.shares[number];
        share.tries += 1;
        if share.known == Known::Refused {
            share.known = Known::Doubtful;
        }
        let fact = fact_of(share.name);
        let fields = json!({ "name": NAMES[share.name], "value": Share::value(number) });
        let write = if share.is_first {
            json!({ "insert": "Rate", "fact": fact, "fields": fields })
        } else {
            json!({ "update": fact, "fields": fields })
        };
        let writes = serde_json::from_value::<SharedWrite>(write);
        let request = WriteShared {
            writes: writes.into_iter().collect(),
            idempotency_key: Some(format!("share-{number}")),
            sweep: None,
            hold: share.hold,
            rate: share.rate,
            dry_run: false,
        };
        let runtime = runtime.clone();
        let answer = async move { Answer::Share(runtime.write_shared(MAIN, request).await) };
        (Ask::Share { number }, Box::pin(answer))
    }

    pub(super) fn heard_of_share(
        &mut self,
        number: usize,
        answer: Result<SharedWritten, WriteSharedError>,
    ) -> String {
        let known = self.refused();
        let share = &mut self.shares[number];
        match answer {
            Ok(written) => {
                let before = share.revision.replace(written.revision);
                if before.is_some_and(|before| before != written.revision) {
                    self.violations.push(format!(
                        "write {number} was promised as change {before:?} and as {}",
                        written.revision
                    ));
                }
                share.known = Known::Promised;
                format!("write {number} is change {}", written.revision)
            }
            Err(error) => {
                // An earlier try may have come through unheard.
                if share.known == Known::Doubtful && share.tries == 1 {
                    share.known = known;
                }
                // Somebody else's write may have made the fact first.
                let may_be = error.kind() == ErrorKind::Unavailable
                    || (share.is_first && error.kind() == ErrorKind::Conflict);
                if !may_be {
                    self.violations
                        .push(format!("a good write of a shared fact was refused: {error}"));
                }
                format!("write {number} is refused: {error}")
            }
        }
    }
}
