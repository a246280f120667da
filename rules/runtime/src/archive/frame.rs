//! The bytes of an archive.
//!
//! A segment: eight bytes of [`MAGIC`]; frames one after the other; for each frame the run's id (16 bytes), where the
//! frame begins and how long it is (two integers of eight bytes, low byte first); where that list begins (the same); and
//! the magic again. A frame: a byte for its version, and a zlib stream of: the run's row as a JSON object, the names of its
//! rules, its facts as JSON texts, and its journal records as in `record/codec.rs`, without the engine's deltas. Whoever has the
//! file needs nothing else to read it, not even the version of the service.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use celesta_types::wire::{Damaged, Reader, Writer};
use celesta_types::{CallId, Digest, Priority, RunId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::head::RunHead;
use crate::history::Names;
use crate::record::Record;
use crate::state::RunState;
use crate::view::{FactView, ProgressView, RunView, raw};

/// The first and last bytes of a segment.
pub(super) const MAGIC: &[u8; 8] = b"CELARC\x00\x01";
/// The first byte of a frame.
const VERSION: u8 = 1;
/// The bytes of an unpacked frame: far above what the bounds of a run allow, and below what hurts.
const FRAME_BYTES_MAX: u64 = 1 << 30;

/// A run's row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: RunId,
    service: String,
    operation: String,
    workflow: String,
    version: Digest,
    pub(crate) state: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    ended_at: Option<Timestamp>,
    rank: u32,
    deadline: Option<Timestamp>,
    labels: BTreeMap<String, String>,
    trace: Option<String>,
    parent: Option<RunId>,
    parent_call: Option<CallId>,
    depth: u32,
    input: String,
    result: Option<String>,
    error: Option<String>,
    progress: Option<ProgressView>,
}

/// A fact as it stood at the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Fact {
    id: u64,
    #[serde(rename = "type")]
    fact_type: String,
    version: u64,
    value: Box<RawValue>,
    written_by: String,
}

/// Everything that is kept of a run.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) row: Row,
    rules: Vec<String>,
    facts: Vec<Fact>,
    /// The records with their numbers, in order.
    pub(crate) records: Vec<(u64, Record)>,
}

impl Frame {
    pub(super) fn new(
        head: &RunHead,
        input: &[u8],
        rules: Vec<String>,
        facts: &[FactView],
        records: Vec<(u64, Record)>,
    ) -> Self {
        let row = Row {
            id: head.run,
            service: head.service.to_string(),
            operation: head.operation.to_string(),
            workflow: head.workflow.to_string(),
            version: head.version,
            state: head.state.name().to_owned(),
            created_at: head.created_at,
            updated_at: head.updated_at,
            ended_at: head.ended_at,
            rank: head.priority.rank(),
            deadline: head.priority.deadline,
            labels: head.labels.clone(),
            trace: head.trace.as_deref().map(str::to_owned),
            parent: head.parent.map(|(run, _)| run),
            parent_call: head.parent.map(|(_, call)| call),
            depth: head.depth,
            input: String::from_utf8_lossy(input).into_owned(),
            result: head.result.as_deref().map(str::to_owned),
            error: head.error.as_deref().map(str::to_owned),
            progress: head.progress.clone(),
        };
        let facts = facts.iter().map(|fact| Fact {
            id: fact.id,
            fact_type: fact.fact_type.clone(),
            version: fact.version,
            value: fact.value.clone(),
            written_by: fact.written_by.clone(),
        });
        let slim = |(seq, record)| {
            let delta = Vec::new();
            (seq, Record { delta, ..record })
        };
        Self {
            row,
            rules,
            facts: facts.collect(),
            records: records.into_iter().map(slim).collect(),
        }
    }

    /// The stored form.
    pub(super) fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut body = Writer::with_capacity(1_024);
        body.bytes(&serde_json::to_vec(&self.row)?);
        body.size(self.rules.len());
        self.rules.iter().for_each(|rule| body.text(rule));
        body.size(self.facts.len());
        for fact in &self.facts {
            body.bytes(&serde_json::to_vec(fact)?);
        }
        body.size(self.records.len());
        for (seq, record) in &self.records {
            body.uint(*seq);
            body.bytes(&record.encode());
        }
        let mut packed = flate2::write::ZlibEncoder::new(vec![VERSION], flate2::Compression::default());
        packed.write_all(&body.finish())?;
        packed.finish()
    }

    /// Reads the stored form of any release.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let what = |what| Damaged { at: 0, what };
        let (version, packed) = bytes.split_first().ok_or_else(|| what("a frame"))?;
        if *version != VERSION {
            return Err(what("a frame of version 1"));
        }
        let mut body = Vec::new();
        let unpacked = flate2::read::ZlibDecoder::new(packed)
            .take(FRAME_BYTES_MAX)
            .read_to_end(&mut body);
        unpacked.map_err(|_| what("a zlib stream"))?;
        let mut from = Reader::new(&body);
        let row = json(&mut from, "a run's row")?;
        let rules = (0..from.size()?)
            .map(|_| from.text().map(str::to_owned))
            .collect::<Result<_, _>>()?;
        let facts = (0..from.size()?)
            .map(|_| json(&mut from, "a fact"))
            .collect::<Result<_, _>>()?;
        let records = (0..from.size()?)
            .map(|_| Ok((from.uint()?, Record::decode(from.bytes()?)?)))
            .collect::<Result<_, Damaged>>()?;
        Ok(Self {
            row,
            rules,
            facts,
            records,
        })
    }

    /// The run as clients see it; `None` when its row holds what no release writes.
    pub(crate) fn view(&self) -> Option<RunView> {
        let row = self.row.clone();
        Some(RunView {
            id: row.id,
            service: row.service,
            operation: row.operation,
            workflow: row.workflow,
            version: row.version,
            state: row.state.parse::<RunState>().ok()?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            ended_at: row.ended_at,
            priority: Priority::from_rank(row.rank, row.deadline)?,
            labels: row.labels,
            input: Some(raw(row.input)),
            result: row.result.map(raw),
            error: row.error,
            progress: row.progress,
            parent: row.parent,
            trace: row.trace,
            archived: true,
            concurrency: Vec::new(),
            breakpoints: Vec::new(),
            stopped: None,
            avoided: 0,
        })
    }

    /// The names behind the numbers of its records.
    pub(crate) fn names(self) -> Names {
        Names::from(self.rules)
    }

    /// Its facts as they stood at the end.
    pub(crate) fn facts(self) -> impl Iterator<Item = FactView> {
        self.facts.into_iter().map(|fact| FactView {
            id: fact.id,
            fact_type: fact.fact_type,
            version: fact.version,
            value: fact.value,
            written_by: fact.written_by,
        })
    }
}

fn json<T: for<'de> Deserialize<'de>>(from: &mut Reader<'_>, what: &'static str) -> Result<T, Damaged> {
    let before = *from;
    serde_json::from_slice(from.bytes()?).map_err(|_| before.damaged(what))
}

/// The frames of many runs as they grow into one artifact.
#[derive(Debug)]
pub(super) struct Segment {
    bytes: Vec<u8>,
    places: Vec<(RunId, u64, u64)>,
}

impl Segment {
    pub(super) fn new() -> Self {
        Self {
            bytes: MAGIC.to_vec(),
            places: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, run: RunId, frame: &[u8]) -> (u64, u64) {
        let size = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        let (at, bytes) = (size(self.bytes.len()), size(frame.len()));
        self.bytes.extend_from_slice(frame);
        self.places.push((run, at, bytes));
        (at, bytes)
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let list = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        for (run, at, bytes) in self.places {
            self.bytes.extend(run.to_bytes());
            self.bytes.extend(at.to_le_bytes());
            self.bytes.extend(bytes.to_le_bytes());
        }
        self.bytes.extend(list.to_le_bytes());
        self.bytes.extend(MAGIC);
        self.bytes
    }
}
