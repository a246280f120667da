//! Leases and completions: what the consumers of this node ask for at the same time is one transaction.
//!
//! A busy consumer completes what it has and leases what comes next; together they wait for one commit.

use std::sync::Arc;

use celesta_store::{Call, QueryError, Row};

use super::Core;
use super::gather::Request;
use super::lease::{self, Wanted};
use super::settle::{self, Completing};

/// What a consumer asks for.
pub(super) enum Work {
    Lease(Wanted),
    Complete(Completing),
}

impl Request for Work {
    fn rows(&self) -> usize {
        match self {
            Self::Lease(wanted) => wanted.max(),
            Self::Complete(completing) => completing.len(),
        }
    }
}

/// Work that is one statement, and who waits for it.
enum Group {
    Lease(lease::Group),
    Complete(settle::Group),
}

impl Group {
    async fn finish(self, core: &Arc<Core>, answer: Result<Vec<Row>, QueryError>) {
        match self {
            Self::Lease(group) => group.finish(core, answer).await,
            Self::Complete(group) => group.finish(core, answer),
        }
    }
}

pub(super) async fn serve(core: Arc<Core>, works: Vec<Work>) {
    let (mut wanted, mut completing) = (Vec::new(), Vec::new());
    for work in works {
        match work {
            Work::Lease(one) => wanted.push(one),
            Work::Complete(one) => completing.push(one),
        }
    }
    let (mut groups, mut calls): (Vec<Group>, Vec<Call>) = (Vec::new(), Vec::new());
    // Completions first: their rows are nobody else's, and what they free can be leased at once.
    for (group, call) in settle::groups(&core, completing) {
        groups.push(Group::Complete(group));
        calls.push(call);
    }
    for (group, call) in lease::groups(&core, wanted) {
        groups.push(Group::Lease(group));
        calls.push(call);
    }
    if calls.is_empty() {
        return;
    }
    match core.database.write(&calls).await {
        Ok(answers) => {
            for (group, answer) in groups.into_iter().zip(answers) {
                group.finish(&core, Ok(answer)).await;
            }
        }
        Err(error) if calls.len() == 1 => {
            for group in groups {
                group.finish(&core, Err(error.clone())).await;
            }
        }
        // One of them is refused, or the server is away: each is told its own.
        Err(_) => {
            for (group, call) in groups.into_iter().zip(&calls) {
                let answer = core.database.write(std::slice::from_ref(call)).await;
                group
                    .finish(&core, answer.map(|mut rows| rows.pop().unwrap_or_default()))
                    .await;
            }
        }
    }
}
