//! Sweeps as rows: made, moved, counted, listed. The runs they are about are found in `selected`.

use std::collections::BTreeSet;
use std::sync::Arc;

use celesta_store::{Cell, CommitError, Expect, QueryError, Row, Statement, Unit};
use celesta_types::{RunId, SweepId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{NewSweep, Order, SWEEPS_KEPT, Selection, SweepError, SweepState, SweepStep, SweepView, Swept};
use crate::query::PAGE_ROWS_MAX;
use crate::runtime::Inner;
use crate::shared::forget;
use crate::view::Page;

static SWEEP_INSERT: Statement = Statement {
    name: "sweeps.insert",
    rank: 10,
    head: "INSERT INTO sweeps (id, service, plan, state, hold, rate, created_at, updated_at) VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?, ?)",
    tail: "",
    cells: 8,
    expect: Expect::Each,
};

/// Moves a sweep from one state to the next; somebody else may have been first.
static SWEEP_MOVE: Statement = Statement {
    name: "sweeps.move",
    rank: 20,
    head: "UPDATE sweeps SET state = v.column3, runs = COALESCE(v.column4, runs), \
           reason = COALESCE(v.column5, reason), updated_at = v.column6, ended_at = v.column7 FROM (VALUES ",
    row: "(?, ?, ?, ?/*bigint*/, ?/*text*/, ?, ?/*bigint*/)",
    tail: ") AS v WHERE id = v.column1 AND state = v.column2",
    cells: 7,
    expect: Expect::Each,
};

/// Keeps the place and the counts, which only the driver writes.
static SWEEP_PROGRESS: Statement = Statement {
    name: "sweeps.progress",
    rank: 20,
    head: "UPDATE sweeps SET place = v.column2, told = v.column3, moved = v.column4, still = v.column5, \
           missed = v.column6, updated_at = v.column7 FROM (VALUES ",
    row: "(?, ?, ?, ?, ?, ?, ?)",
    tail: ") AS v WHERE id = v.column1",
    cells: 7,
    expect: Expect::Each,
};

/// What became of a run: the first word counts.
pub(crate) static SWEPT_NOTE: Statement = Statement {
    name: "swept.note",
    rank: 13,
    head: "INSERT INTO swept (sweep, run, outcome) VALUES ",
    row: "(?, ?, ?)",
    tail: " ON CONFLICT (sweep, run) DO NOTHING",
    cells: 3,
    expect: Expect::Any,
};

static SWEPT_DELETE: Statement = Statement {
    name: "swept.delete",
    rank: 30,
    head: "DELETE FROM swept WHERE (sweep, run) IN (VALUES ",
    row: "(?, ?)",
    tail: ")",
    cells: 2,
    expect: Expect::Any,
};

static SWEPT_FORGET: Statement = Statement {
    name: "swept.forget",
    rank: 30,
    head: "DELETE FROM swept WHERE sweep IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

static SWEEP_FORGET: Statement = Statement {
    name: "sweeps.forget",
    rank: 31,
    head: "DELETE FROM sweeps WHERE id IN (VALUES ",
    row: "(?)",
    tail: ")",
    cells: 1,
    expect: Expect::Any,
};

pub(crate) const COLUMNS: &str = "id, service, plan, state, hold, rate, place, runs, told, moved, still, missed, reason, created_at, \
     updated_at, ended_at";

/// What a sweep is to do, as it is stored; new members need defaults.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) cause: String,
    #[serde(default)]
    pub(crate) rules: Vec<String>,
    pub(crate) selection: Selection,
    pub(crate) order: Order,
}

/// Where a sweep is: the key of the index it looks under, and the last run it has told there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: usize,
    pub(crate) run: Option<RunId>,
}

impl Place {
    fn cell(self) -> Cell {
        let run = self.run.map_or(0, RunId::bits);
        let mut bytes = u64::try_from(self.key).unwrap_or(u64::MAX).to_be_bytes().to_vec();
        bytes.extend(run.to_be_bytes());
        Cell::Blob(bytes)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (key, run) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            key: usize::try_from(u64::from_be_bytes(*key)).ok()?,
            run: RunId::from_bytes(run).filter(|run| run.bits() != 0),
        })
    }
}

/// A sweep as it stands in the store.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) view: SweepView,
    pub(crate) plan: Plan,
    pub(crate) place: Place,
}

impl Found {
    pub(crate) fn read(row: &Row) -> Option<Self> {
        let instant = |at| row.int(at).map(Timestamp::from_millis);
        let count = |at| row.int(at).and_then(|count| u64::try_from(count).ok());
        let plan: Plan = serde_json::from_str(row.text(2)?).ok()?;
        Some(Self {
            view: SweepView {
                id: SweepId::from_bytes(row.blob(0)?)?,
                service: row.text(1)?.to_owned(),
                cause: plan.cause.clone(),
                rules: plan.rules.clone(),
                state: SweepState::from_code(row.int(3)?)?,
                hold: row.int(4)? != 0,
                rate: u32::try_from(row.int(5)?).ok()?,
                runs: count(7),
                told: count(8)?,
                moved: count(9)?,
                still: count(10)?,
                missed: count(11)?,
                reason: row.text(12).map(str::to_owned),
                created_at: instant(13)?,
                updated_at: instant(14)?,
                ended_at: instant(15),
            },
            plan,
            place: row.blob(6).and_then(Place::read).unwrap_or_default(),
        })
    }
}

/// Adds the new sweep to `unit`.
pub(crate) fn place(unit: &mut Unit, id: SweepId, new: &NewSweep, now: Timestamp) {
    let plan = Plan {
        cause: new.cause.clone(),
        rules: new.rules.clone(),
        selection: new.selection.clone(),
        order: new.order,
    };
    unit.add(
        &SWEEP_INSERT,
        [
            Cell::Id(id.to_bytes()),
            new.service.as_str().into(),
            serde_json::to_string(&plan).unwrap_or_default().into(),
            i64::from(SweepState::Pending.code()).into(),
            i64::from(new.hold).into(),
            i64::from(new.rate).into(),
            now.as_millis().into(),
            now.as_millis().into(),
        ],
    );
}

/// A condition of SQL and its values.
#[derive(Debug, Default)]
pub(super) struct Condition {
    pub(super) sql: String,
    pub(super) cells: Vec<Cell>,
}

impl Condition {
    pub(super) fn and(&mut self, sql: &str, cells: impl IntoIterator<Item = Cell>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.cells.extend(cells);
    }
}

fn to_int(count: u64) -> Cell {
    i64::try_from(count).unwrap_or(i64::MAX).into()
}

impl Inner {
    pub(super) async fn find_sweep(&self, sweep: SweepId) -> Result<Option<Found>, QueryError> {
        let sql = format!("SELECT {COLUMNS} FROM sweeps WHERE id = ?");
        let rows = self.store.fetch(&sql, &[Cell::Id(sweep.to_bytes())]).await?;
        Ok(rows.first().and_then(Found::read))
    }

    /// The service's sweeps that have not ended, the oldest first.
    pub(super) async fn open_sweeps(&self, service: &str) -> Result<Vec<Found>, QueryError> {
        let sql = format!("SELECT {COLUMNS} FROM sweeps WHERE ended_at IS NULL AND service = ? ORDER BY id");
        let rows = self.store.fetch(&sql, &[service.into()]).await?;
        Ok(rows.iter().filter_map(Found::read).collect())
    }

    /// Those that have something to do by themselves, and the services they are of, the oldest first.
    pub(super) async fn moving_sweeps(&self) -> Result<Vec<(SweepId, Arc<str>)>, QueryError> {
        let sql = "SELECT id, service FROM sweeps WHERE ended_at IS NULL AND state IN (?, ?) ORDER BY id";
        let states = [SweepState::Pending, SweepState::Running];
        let cells = states.map(|state| Cell::from(i64::from(state.code())));
        let rows = self.store.fetch(sql, &cells).await?;
        let read = |row: &Row| Some((SweepId::from_bytes(row.blob(0)?)?, row.text(1)?.into()));
        Ok(rows.iter().filter_map(read).collect())
    }

    pub(super) async fn sweeps_page(
        &self,
        filter: &super::SweepsFilter,
        cursor: Option<SweepId>,
        limit: usize,
    ) -> Result<Page<SweepView>, QueryError> {
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let mut condition = Condition::default();
        if let Some(service) = &filter.service {
            condition.and("service = ?", [service.as_str().into()]);
        }
        if let Some(state) = filter.state {
            condition.and("state = ?", [i64::from(state.code()).into()]);
        }
        if let Some(cursor) = cursor {
            condition.and("id < ?", [Cell::Id(cursor.to_bytes())]);
        }
        let Condition { sql, mut cells } = condition;
        let sql = format!("SELECT {COLUMNS} FROM sweeps WHERE TRUE{sql} ORDER BY id DESC LIMIT ?");
        cells.push(i64::try_from(limit + 1).unwrap_or(i64::MAX).into());
        let rows = self.store.fetch(&sql, &cells).await?;
        let mut views: Vec<SweepView> =
            (rows.iter().filter_map(Found::read).map(|found| found.view)).collect();
        let more = views.len() > limit;
        views.truncate(limit);
        let next = views.last().filter(|_| more).map(|last| last.id.to_string());
        Ok(Page { rows: views, next })
    }

    pub(super) async fn swept_page(
        &self,
        sweep: SweepId,
        after: Option<RunId>,
        limit: usize,
    ) -> Result<Page<(RunId, Swept)>, QueryError> {
        let limit = limit.clamp(1, PAGE_ROWS_MAX);
        let sql = "SELECT run, outcome FROM swept WHERE sweep = ? AND run > ? AND outcome <> 0 ORDER BY run LIMIT ?";
        let cells = [
            Cell::Id(sweep.to_bytes()),
            Cell::Id(after.map_or([0; 16], RunId::to_bytes)),
            i64::try_from(limit + 1).unwrap_or(i64::MAX).into(),
        ];
        let rows = self.store.fetch(sql, &cells).await?;
        let read = |row: &Row| Some((RunId::from_bytes(row.blob(0)?)?, Swept::from_code(row.int(1)?)?));
        let mut swept: Vec<_> = rows.iter().filter_map(read).collect();
        let more = swept.len() > limit;
        swept.truncate(limit);
        let next = swept.last().filter(|_| more).map(|(run, _)| run.to_string());
        Ok(Page { rows: swept, next })
    }

    /// Moves the sweep by `step`; says where it stands then.
    pub(super) async fn move_sweep(
        &self,
        sweep: SweepId,
        step: SweepStep,
        reason: Option<&str>,
        runs: Option<u64>,
    ) -> Result<SweepState, SweepError> {
        loop {
            let found = self.find_sweep(sweep).await?;
            let found = found.ok_or(SweepError::NotFound { sweep })?;
            let before = found.view.state;
            let after = before.after(step)?;
            if after == before && runs.is_none() {
                return Ok(after);
            }
            let now = self.clock.now();
            let mut unit = Unit::new();
            unit.add(
                &SWEEP_MOVE,
                [
                    Cell::Id(sweep.to_bytes()),
                    i64::from(before.code()).into(),
                    i64::from(after.code()).into(),
                    runs.map_or(Cell::Null, to_int),
                    reason.into(),
                    now.as_millis().into(),
                    after.is_ended().then(|| now.as_millis()).into(),
                ],
            );
            match self.store.commit(unit).await {
                Ok(()) => {
                    if after.is_ended() {
                        self.forget_sweeps(&found.view.service).await?;
                    }
                    return Ok(after);
                }
                // Somebody else moved it: look again.
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(SweepError::unavailable(error)),
            }
        }
    }

    /// The oldest ended sweeps of a service beyond those that are kept.
    async fn forget_sweeps(&self, service: &str) -> Result<(), SweepError> {
        let sql = "SELECT id FROM sweeps WHERE service = ? AND ended_at IS NOT NULL ORDER BY id DESC LIMIT 100 OFFSET ?";
        let kept = i64::try_from(SWEEPS_KEPT).unwrap_or(i64::MAX);
        let rows = self.store.fetch(sql, &[service.into(), kept.into()]).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut unit = Unit::new();
        for id in rows.iter().filter_map(|row| SweepId::from_bytes(row.blob(0)?)) {
            unit.add(&SWEPT_FORGET, [Cell::Id(id.to_bytes())]);
            unit.add(&SWEEP_FORGET, [Cell::Id(id.to_bytes())]);
        }
        self.store.commit(unit).await.map_err(SweepError::unavailable)
    }

    /// Those of these runs that are no more.
    async fn gone(&self, settled: &[(RunId, Swept)]) -> Result<BTreeSet<RunId>, QueryError> {
        let missed = settled.iter().filter(|(_, swept)| *swept == Swept::Missed);
        let mut gone: BTreeSet<RunId> = missed.map(|(run, _)| *run).collect();
        for run in gone.clone() {
            let sql = "SELECT 1 FROM runs WHERE id = ?";
            if !self
                .store
                .fetch(sql, &[Cell::Id(run.to_bytes())])
                .await?
                .is_empty()
            {
                gone.remove(&run);
            }
        }
        Ok(gone)
    }

    /// Keeps the place and the counts after a batch; `settled` are the batch's runs and what became of them. Those that
    /// are no more are taken out of the index.
    pub(super) async fn keep_place(
        &self,
        found: &mut Found,
        place: Place,
        settled: &[(RunId, Swept)],
    ) -> Result<(), SweepError> {
        let gone = self.gone(settled).await?;
        let count = |wanted: Swept| {
            let counted = settled.iter().filter(|(_, swept)| *swept == wanted).count();
            u64::try_from(counted).unwrap_or(u64::MAX)
        };
        let view = &mut found.view;
        view.moved += count(Swept::Moved);
        view.still += count(Swept::Still);
        view.missed += count(Swept::Missed);
        view.told = view.moved + view.still + view.missed;
        found.place = place;
        let sweep = || Cell::Id(view.id.to_bytes());
        let mut unit = Unit::new();
        unit.add(
            &SWEEP_PROGRESS,
            [
                sweep(),
                place.cell(),
                to_int(view.told),
                to_int(view.moved),
                to_int(view.still),
                to_int(view.missed),
                self.clock.now().as_millis().into(),
            ],
        );
        for (run, swept) in settled {
            match swept {
                // Counted; nobody will ask for it by name.
                Swept::Still => unit.add(&SWEPT_DELETE, [sweep(), Cell::Id(run.to_bytes())]),
                Swept::Missed => {
                    if let (Selection::Interests { keys, .. }, true) =
                        (&found.plan.selection, gone.contains(run))
                    {
                        forget(&mut unit, *run, keys);
                    }
                    let missed = Swept::Missed.code().into();
                    unit.add(&SWEPT_NOTE, [sweep(), Cell::Id(run.to_bytes()), missed]);
                }
                Swept::Moved => {}
            }
        }
        self.store.commit(unit).await.map_err(SweepError::unavailable)
    }

    /// What became of these runs, as far as they have answered.
    pub(super) async fn outcomes(
        &self,
        sweep: SweepId,
        runs: &[RunId],
    ) -> Result<Vec<(RunId, Swept)>, QueryError> {
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = String::from("SELECT run, outcome FROM swept WHERE sweep = ? AND run IN (");
        let mut cells = vec![Cell::Id(sweep.to_bytes())];
        for (at, run) in runs.iter().enumerate() {
            sql.push_str(if at == 0 { "?" } else { ", ?" });
            cells.push(Cell::Id(run.to_bytes()));
        }
        sql.push(')');
        let rows = self.store.fetch(&sql, &cells).await?;
        let read = |row: &Row| Some((RunId::from_bytes(row.blob(0)?)?, Swept::from_code(row.int(1)?)?));
        Ok(rows.iter().filter_map(read).collect())
    }
}
