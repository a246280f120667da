//! What is in memory of the orders: looked up once a turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use celesta_store::{QueryError, Store};
use celesta_types::Timestamp;
use parking_lot::RwLock;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::under_way::{Seeing, UnderWay};
use crate::view::{StoppedBy, StoppedView};

pub(super) const PAUSE: &str = "pause";
pub(super) const BREAKPOINT: &str = "breakpoint";
/// What orders there are, as they are stored; the second is about a rule.
pub(crate) const KINDS: [&str; 2] = [PAUSE, BREAKPOINT];

/// What an order is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct About {
    pub(super) service: String,
    /// Empty: the whole service.
    pub(super) workflow: String,
    pub(super) kind: &'static str,
    /// The rule of a breakpoint.
    pub(super) rule: String,
}

/// All orders.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    any: AtomicBool,
    pub(super) all: RwLock<BTreeMap<About, Given>>,
    /// How often one was taken back.
    revision: AtomicU64,
    /// The turns that have found one.
    turns: Arc<UnderWay>,
    /// Whoever changes the orders holds this until it is durable.
    changing: Arc<Mutex<()>>,
}

#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) reason: String,
    pub(super) by: String,
    pub(super) at: Timestamp,
}

impl Orders {
    /// Reads the orders that stand.
    pub(crate) async fn open(store: &Store) -> Result<Self, QueryError> {
        let sql = "SELECT service, workflow, kind, rule, reason, actor, given_at FROM orders";
        let orders = Self::default();
        for row in store.fetch(sql, &[]).await? {
            let text = |at: usize| row.text(at).unwrap_or_default().to_owned();
            let kind = if row.text(2) == Some(PAUSE) {
                PAUSE
            } else {
                BREAKPOINT
            };
            let about = About {
                service: text(0),
                workflow: text(1),
                kind,
                rule: text(3),
            };
            let given = Given {
                reason: text(4),
                by: text(5),
                at: Timestamp::from_millis(row.int(6).unwrap_or(0)),
            };
            orders.give(about, given);
        }
        Ok(orders)
    }

    /// To be held until a change of the orders is durable.
    pub(super) async fn change(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.changing).lock_owned().await
    }

    pub(super) fn give(&self, about: About, given: Given) {
        self.all.write().insert(about, given);
        self.any.store(true, Ordering::Release);
    }

    /// Gives the revision of which no turn finds it.
    pub(super) fn take_back(&self, about: &About) -> u64 {
        let mut all = self.all.write();
        all.remove(about);
        self.any.store(!all.is_empty(), Ordering::Release);
        self.revision.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether a turn of the service is under way that has seen less than `revision`, and may still stop.
    pub(crate) fn may_stop(&self, service: &str, revision: u64) -> bool {
        self.turns.has_older(service, revision)
    }

    /// What stops the runs of this workflow, for a turn. It is known to be under way until `Seeing` is dropped.
    pub(crate) fn seen_by(&self, service: &str, workflow: &str) -> Option<(StoppedView, Seeing)> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        // Looked at and noted under one lock: who takes the order back finds the turn, or the turn does not find the order.
        let all = self.all.read();
        let find = |workflow: &str, by| {
            let about = About {
                service: service.to_owned(),
                workflow: workflow.to_owned(),
                kind: PAUSE,
                rule: String::new(),
            };
            let given = all.get(&about)?;
            Some(StoppedView {
                by,
                rule: None,
                facts: Vec::new(),
                reason: given.reason.clone(),
                actor: given.by.clone(),
            })
        };
        let stopped = find("", StoppedBy::Service).or_else(|| find(workflow, StoppedBy::Workflow))?;
        Some((
            stopped,
            self.turns.begin(service, self.revision.load(Ordering::Acquire)),
        ))
    }

    /// Adds the rules before which all runs of this workflow stop.
    pub(crate) fn breakpoints(&self, service: &str, workflow: &str, rules: &mut Vec<String>) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let all = self.all.read();
        let about = all.keys().filter(|about| {
            about.kind == BREAKPOINT && about.service == service && about.workflow == workflow
        });
        rules.extend(about.map(|about| about.rule.clone()));
    }
}
