//! How far the encoding is: calls done of calls made, for each function and recipe.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar};
use serde_json::Value;

use crate::client::{self, CallView, Client};
use crate::commands::run::all_pages;
use crate::exit::Failure;
use crate::output::{DIM, Output};

/// More calls than any demo makes.
const CALLS_MAX: usize = 100_000;
/// The server is killed when this share of the chunks, in hundredths, is encoded.
const HALFWAY_PERCENT: u64 = 30;

/// Bars on a terminal, lines elsewhere.
#[derive(Debug)]
pub(super) struct Progress {
    out: Output,
    bars: MultiProgress,
    rows: BTreeMap<String, Row>,
    order: Vec<String>,
}

#[derive(Debug)]
struct Row {
    bar: ProgressBar,
    done: u64,
    total: u64,
}

impl Progress {
    pub(super) fn new(out: Output) -> Self {
        Self {
            out,
            bars: MultiProgress::with_draw_target(out.target()),
            rows: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    /// Looks at the run's calls; whether enough is encoded for a kill in the middle.
    ///
    /// # Errors
    /// When the server is away.
    pub(super) async fn update(&mut self, client: &Client, run: &str) -> Result<bool, Failure> {
        let calls = all_pages(client, &["v1", "runs", run, "calls"], &[], CALLS_MAX).await?;
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let mut order = Vec::new();
        let (mut encoded, mut chunks) = (0, 0);
        for call in calls {
            let call: CallView = client::read(call)?;
            let row = row_of(&call);
            if !counts.contains_key(&row) {
                order.push(row.clone());
            }
            let done = u64::from(call.state == "succeeded");
            let count = counts.entry(row).or_default();
            *count = (count.0 + done, count.1 + 1);
            if call.target == "encode" {
                encoded += done;
                chunks += 1;
            }
        }
        for row in order {
            let (done, total) = counts.get(&row).copied().unwrap_or_default();
            self.show(&row, done, total)?;
        }
        Ok(chunks > 0 && encoded * 100 >= chunks * HALFWAY_PERCENT)
    }

    fn show(&mut self, name: &str, done: u64, total: u64) -> Result<(), Failure> {
        if !self.rows.contains_key(name) {
            let bar = self.bars.add(self.out.count_bar(total, name));
            self.rows.insert(
                name.to_owned(),
                Row {
                    bar,
                    done: 0,
                    total: 0,
                },
            );
            self.order.push(name.to_owned());
        }
        let Some(row) = self.rows.get_mut(name) else {
            return Ok(());
        };
        let changed = (row.done, row.total) != (done, total);
        (row.done, row.total) = (done, total);
        row.bar.set_length(total);
        row.bar.set_position(done);
        if changed && !self.out.is_live() {
            self.out
                .line(format_args!("{DIM}progress{DIM:#} {name} {done}/{total}"))?;
        }
        Ok(())
    }

    /// A line above the bars.
    pub(super) fn say(&self, text: &str) {
        self.bars.suspend(|| self.out.note(text));
    }

    /// Leaves the bars as they are.
    pub(super) fn finish(&self) {
        for row in self.order.iter().filter_map(|name| self.rows.get(name)) {
            row.bar.abandon();
        }
    }
}

/// The function, and the recipe when the call is for one.
fn row_of(call: &CallView) -> String {
    let input = call.input.as_ref();
    let recipe = input.and_then(|input| {
        let recipe = input.get("recipe").and_then(|recipe| {
            let (codec, height) = (recipe.get("codec")?.as_str()?, recipe.get("height")?.as_u64()?);
            Some(format!("{codec}-{height}p"))
        });
        recipe.or_else(|| input.get("name").and_then(Value::as_str).map(str::to_owned))
    });
    recipe.map_or_else(
        || call.target.clone(),
        |recipe| format!("{} {recipe}", call.target),
    )
}
