//! What must hold while the runs of a service or a workflow are stopped: each stands still after at most the turn that was
//! under way when the order became durable.

use std::collections::BTreeMap;

use celesta_store::driven::Record;

use crate::history;

/// When the runs of which scopes stood, by positions of the journal.
#[derive(Debug, Default)]
pub(super) struct Pauses(BTreeMap<String, Vec<Pause>>);

#[derive(Debug)]
struct Pause {
    after: i64,
    /// The last position; none while it stands.
    until: Option<i64>,
}

impl Pauses {
    /// Reads them; adds to `broken` what cannot be read.
    pub(super) fn read(record: &Record, broken: &mut Vec<String>) -> Self {
        let mut pauses = Self::default();
        match history::read(record, &["ordered", "taken back"]) {
            Ok(lines) => lines.into_iter().for_each(|line| pauses.line(line)),
            Err(error) => broken.push(error.to_string()),
        }
        pauses
    }

    fn line(&mut self, line: history::Line) {
        let pauses = self.0.entry(line.text).or_default();
        let open = pauses.last_mut().filter(|pause| pause.until.is_none());
        match (line.what.as_str(), open) {
            ("ordered", None) => pauses.push(Pause {
                after: line.position,
                until: None,
            }),
            ("taken back", Some(open)) => open.until = Some(line.position),
            _ => {}
        }
    }

    /// Since when an order has held that held at `position`; the longest standing one.
    pub(super) fn since(&self, service: &str, workflow: &str, position: i64) -> Option<i64> {
        let scopes = [format!("{service}/"), format!("{service}/{workflow}")];
        let pauses = scopes.iter().filter_map(|scope| self.0.get(scope)).flatten();
        let held = pauses
            .filter(|pause| pause.after < position && pause.until.is_none_or(|until| position <= until));
        held.map(|pause| pause.after).min()
    }
}
