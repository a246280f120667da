//! What the record went through: rows that the platform changes and removes again, kept by triggers of the simulation in a
//! table of its own, in the order in which they became durable.
//!
//! The journal shows every turn of every run; this shows what has no journal: who stood at a gate, which orders stood, which
//! runs a bulk operation was about when it was accepted, where a sweep stood when it moved on. Each line has the position of
//! the journal at its instant, so the two are read as one story.

use celesta_store::driven::Record;
use celesta_store::{Migration, QueryError};
use celesta_types::RunId;

/// The table and what fills it. A passage at a gate begins with the id of its run.
pub(crate) const MIGRATION: Migration = Migration {
    subsystem: "sim",
    version: 1,
    sql: "
CREATE TABLE sim_history (
    at INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    what TEXT NOT NULL,
    id BLOB,
    number INTEGER,
    run BLOB,
    text TEXT
) STRICT;
CREATE TRIGGER sim_asked AFTER INSERT ON runs WHEN NEW.service = 'lanes' BEGIN
    INSERT INTO sim_history (position, what, run)
    VALUES ((SELECT COALESCE(max(position), 0) FROM journal), 'asked', NEW.id);
END;
CREATE TRIGGER sim_put AFTER INSERT ON places BEGIN
    INSERT INTO sim_history (position, what, id, number, run)
    VALUES ((SELECT COALESCE(max(position), 0) FROM journal), 'put', NEW.gate, NEW.place, substr(NEW.passage, 1, 16));
END;
CREATE TRIGGER sim_stand AFTER UPDATE ON places BEGIN
    INSERT INTO sim_history (position, what, id, number, run)
    VALUES ((SELECT COALESCE(max(position), 0) FROM journal), CASE NEW.stand WHEN 1 THEN 'inside' ELSE 'blocks' END,
            NEW.gate, NEW.place, substr(NEW.passage, 1, 16));
END;
CREATE TRIGGER sim_free AFTER DELETE ON places BEGIN
    INSERT INTO sim_history (position, what, id, number, run)
    VALUES ((SELECT COALESCE(max(position), 0) FROM journal), 'free', OLD.gate, OLD.place, substr(OLD.passage, 1, 16));
END;
CREATE TRIGGER sim_ordered AFTER INSERT ON orders WHEN NEW.kind = 'pause' BEGIN
    INSERT INTO sim_history (position, what, text)
    VALUES ((SELECT COALESCE(max(position), 0) FROM journal), 'ordered', NEW.service || '/' || NEW.workflow);
END;
CREATE TRIGGER sim_taken_back AFTER DELETE ON orders WHEN OLD.kind = 'pause' BEGIN
    INSERT INTO sim_history (position, what, text)
    VALUES ((SELECT COALESCE(max(position), 0) FROM journal), 'taken back', OLD.service || '/' || OLD.workflow);
END;
CREATE TRIGGER sim_accepted AFTER INSERT ON operations BEGIN
    INSERT INTO sim_history (position, what, id, text)
    VALUES ((SELECT COALESCE(max(position), 0) FROM journal), 'accepted', NEW.id,
            (SELECT group_concat(hex(id)) FROM runs
             WHERE service = COALESCE(json_extract(NEW.filter, '$.service'), service)
               AND workflow = COALESCE(json_extract(NEW.filter, '$.workflow'), workflow)));
END;
CREATE TRIGGER sim_swept AFTER UPDATE ON sweeps WHEN NEW.told <> OLD.told OR NEW.state <> OLD.state BEGIN
    INSERT INTO sim_history (position, what, id, number)
    VALUES ((SELECT COALESCE(max(position), 0) FROM journal), CASE WHEN NEW.state <> OLD.state THEN 'sweep stands' ELSE 'sweep told' END,
            NEW.id, CASE WHEN NEW.state <> OLD.state THEN NEW.state ELSE NEW.told END);
END;
",
    postgres: "",
};

/// One line of it.
#[derive(Debug)]
pub(crate) struct Line {
    /// The journal's last position at that instant.
    pub(crate) position: i64,
    pub(crate) what: String,
    /// The gate, the operation, the sweep.
    pub(crate) id: Vec<u8>,
    /// The place at a gate; the state of a sweep, or how many it has told.
    pub(crate) number: i64,
    pub(crate) run: Option<RunId>,
    pub(crate) text: String,
}

/// The lines of those kinds, in their order.
pub(crate) fn read(record: &Record, kinds: &[&str]) -> Result<Vec<Line>, QueryError> {
    let kinds: Vec<String> = kinds.iter().map(|kind| format!("'{kind}'")).collect();
    let sql = format!(
        "SELECT position, what, id, number, run, text FROM sim_history WHERE what IN ({}) ORDER BY at",
        kinds.join(", ")
    );
    let rows = record.fetch(&sql, &[])?;
    let lines = rows.iter().map(|row| Line {
        position: row.int(0).unwrap_or(0),
        what: row.text(1).unwrap_or_default().to_owned(),
        id: row.blob(2).unwrap_or_default().to_vec(),
        number: row.int(3).unwrap_or(-1),
        run: row.blob(4).and_then(RunId::from_bytes),
        text: row.text(5).unwrap_or_default().to_owned(),
    });
    Ok(lines.collect())
}
