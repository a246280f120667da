//! A worker on a stage: a feed in memory, functions in a temporary folder, the real guard.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use celesta_artifacts::Artifacts;
use celesta_functions::names::function_queue;
use celesta_functions::{Invocation, Manifest, ReportOutcome, RunMessage};
use celesta_queue::{LeaseRef, Leased, QueueName, Token};
use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use celesta_types::{CallId, Digest, ErrorClass, MessageId, Priority, RunId};
use celesta_worker::{
    AttemptRecord, Feed, FeedError, Finish, Finished, GuardProgram, Handle, Package, PackageError, Packages,
    Progress, Ready, Served, Worker, WorkerConfig, WorkerParts,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::{Notify, watch};

pub(crate) const BUNDLE: Digest = Digest::from_bytes([1; 32]);
const PATIENCE: Duration = Duration::from_secs(20);

/// How an invocation was settled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Settled {
    Ok(serde_json::Value),
    Err(ErrorClass, String, u32),
    Retry(i64, String),
    Released,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<QueueName, VecDeque<Leased>>,
    settled: HashMap<MessageId, Settled>,
    records: HashMap<MessageId, AttemptRecord>,
    progress: Vec<Progress>,
    extended: usize,
    lost: Vec<MessageId>,
}

#[derive(Debug, Default)]
pub(crate) struct StageFeed {
    state: Mutex<State>,
    came: Notify,
    ended: Notify,
}

impl StageFeed {
    fn take(&self, queue: &QueueName, max: usize) -> Vec<Leased> {
        let mut state = self.state.lock();
        let Some(waiting) = state.waiting.get_mut(queue) else {
            return Vec::new();
        };
        let count = max.min(waiting.len());
        waiting.drain(..count).collect()
    }
}

impl Feed for StageFeed {
    fn ready(self: Arc<Self>, queues: Arc<[QueueName]>) -> BoxFuture<'static, Vec<Ready>> {
        Box::pin(async move {
            loop {
                let came = self.came.notified();
                tokio::pin!(came);
                came.as_mut().enable();
                let ready: Vec<Ready> = {
                    let state = self.state.lock();
                    let waiting = queues.iter().enumerate().filter_map(|(index, queue)| {
                        let waiting = state.waiting.get(queue)?;
                        Some(Ready {
                            index,
                            head: waiting.front()?.priority,
                            depth: waiting.len(),
                        })
                    });
                    waiting.collect()
                };
                if !ready.is_empty() {
                    return ready;
                }
                came.await;
            }
        })
    }

    fn lease(
        self: Arc<Self>,
        queue: QueueName,
        max: usize,
        _lease: Duration,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Vec<Leased>, FeedError>> {
        Box::pin(async move {
            loop {
                let came = self.came.notified();
                tokio::pin!(came);
                came.as_mut().enable();
                let works = self.take(&queue, max);
                if !works.is_empty() || wait.is_zero() {
                    return Ok(works);
                }
                came.await;
            }
        })
    }

    fn extend(&self, leases: Vec<LeaseRef>, _lease: Duration) -> BoxFuture<'_, Vec<bool>> {
        let mut state = self.state.lock();
        state.extended += leases.len();
        let holds = leases
            .iter()
            .map(|lease| !state.lost.contains(&lease.id))
            .collect();
        Box::pin(std::future::ready(holds))
    }

    fn settle(&self, finished: Vec<Finished>) -> BoxFuture<'_, ()> {
        let mut state = self.state.lock();
        for one in finished {
            let settled = match one.finish {
                Finish::Report(bytes) => match RunMessage::decode(&bytes).expect("a report") {
                    RunMessage::Report(report) => match report.outcome {
                        ReportOutcome::Succeeded { result } => {
                            Settled::Ok(serde_json::from_slice(result).expect("JSON"))
                        }
                        ReportOutcome::Failed {
                            class,
                            message,
                            attempts,
                        } => Settled::Err(class, message.to_owned(), attempts),
                    },
                    RunMessage::Host(..) => panic!("not a report"),
                },
                Finish::Retry { after_ms, error } => Settled::Retry(after_ms, error),
                Finish::Release => Settled::Released,
            };
            let before = state.settled.insert(one.lease.id, settled);
            assert_eq!(before, None, "an invocation is settled once");
            if let Some(record) = one.record {
                state.records.insert(one.lease.id, record);
            }
        }
        drop(state);
        self.ended.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    fn shortages(&self, _run: RunId, _call: CallId) -> BoxFuture<'_, u32> {
        Box::pin(std::future::ready(1))
    }

    fn progress(&self, progress: Progress) {
        self.state.lock().progress.push(progress);
        self.ended.notify_waiters();
    }
}

#[derive(Debug)]
struct Folder {
    functions: BTreeMap<Arc<str>, Arc<Package>>,
    changes: watch::Sender<u64>,
}

impl Packages for Folder {
    fn served(&self) -> Vec<Served> {
        let served = self.functions.iter().map(|(name, package)| Served {
            service: "test".into(),
            function: Arc::clone(name),
            bundle: BUNDLE,
            manifest: Arc::clone(&package.manifest),
        });
        served.collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn package<'a>(
        &'a self,
        service: &'a str,
        bundle: &'a Digest,
        function: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Package>, PackageError>> {
        let found = self
            .functions
            .get(function)
            .cloned()
            .ok_or_else(|| PackageError::NotFound {
                service: service.to_owned(),
                bundle: *bundle,
                function: function.to_owned(),
            });
        Box::pin(std::future::ready(found))
    }
}

/// A function to be played: its manifest without the name, and its files.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) manifest: &'a str,
    pub(crate) files: &'a [(&'a str, &'a str)],
}

pub(crate) struct Stage {
    pub(crate) feed: Arc<StageFeed>,
    pub(crate) handle: Handle,
    pub(crate) tasks: TaskSet,
    pub(crate) artifacts: Artifacts,
    pub(crate) folder: TempDir,
    clock: Clock,
    ids: AtomicU64,
}

/// What is asked of a function.
#[derive(Default)]
pub(crate) struct Ask {
    pub(crate) input: String,
    pub(crate) attempt: u32,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) has_artifacts: bool,
    pub(crate) priority: Priority,
}

impl Ask {
    pub(crate) fn new(input: impl Into<String>) -> Self {
        Self {
            input: input.into(),
            attempt: 1,
            ..Self::default()
        }
    }

    pub(crate) fn within(mut self, timeout_ms: u64) -> Self {
        self.timeout_ms = Some(timeout_ms);
        self
    }
}

impl Stage {
    pub(crate) async fn open(functions: &[Function<'_>]) -> Self {
        Self::with(functions, |_| {}).await
    }

    pub(crate) async fn with(functions: &[Function<'_>], change: impl FnOnce(&mut WorkerConfig)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let packages = packages(folder.path(), functions);
        let clock = Clock::system();
        let tasks = TaskSet::new(Shutdown::new());
        let artifacts = Artifacts::open(&folder.path().join("artifacts"))
            .await
            .expect("artifacts");
        let feed = Arc::new(StageFeed::default());
        let mut config = WorkerConfig::new("stage", folder.path().join("worker"), guard());
        change(&mut config);
        let parts = WorkerParts {
            clock: clock.clone(),
            random: Random::seeded(1),
            tasks: tasks.clone(),
            feed: Arc::clone(&feed) as Arc<dyn Feed>,
            packages,
            artifacts: artifacts.clone(),
        };
        let handle = Worker::new(config, parts).run().expect("a worker");
        Self {
            feed,
            handle,
            tasks,
            artifacts,
            folder,
            clock,
            ids: AtomicU64::new(1),
        }
    }

    /// Puts an invocation into the function's queue.
    pub(crate) fn ask(&self, function: &str, ask: &Ask) -> MessageId {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        let id = MessageId::from_bits(u128::from(number));
        let invocation = Invocation {
            run: RunId::from_bits(7),
            call: CallId {
                seq: number,
                index: 0,
            },
            service: "test",
            function,
            bundle: BUNDLE,
            input: ask.input.as_bytes(),
            has_artifacts: ask.has_artifacts,
            timeout_ms: ask.timeout_ms,
            trace: None,
            fresh: false,
        };
        let queue = QueueName::new(&function_queue("test", function)).expect("a name");
        let now = self.clock.now();
        let leased = Leased {
            id,
            queue: queue.clone(),
            key: None,
            priority: ask.priority,
            payload: invocation.encode().into(),
            attempt: ask.attempt,
            attempts_max: 1_000,
            token: Token::from_bits(number),
            enqueued_at: now,
            leased_until: now.after_millis(30_000),
            metadata: None,
        };
        self.feed
            .state
            .lock()
            .waiting
            .entry(queue)
            .or_default()
            .push_back(leased);
        self.feed.came.notify_waiters();
        id
    }

    /// Waits until the invocation is settled.
    pub(crate) async fn settled(&self, id: MessageId) -> Settled {
        self.until(|state| state.settled.get(&id).cloned()).await
    }

    pub(crate) async fn call(&self, function: &str, input: &str) -> Settled {
        self.settled(self.ask(function, &Ask::new(input))).await
    }

    pub(crate) fn record(&self, id: MessageId) -> Option<AttemptRecord> {
        self.feed.state.lock().records.get(&id).cloned()
    }

    pub(crate) fn settled_count(&self) -> usize {
        self.feed.state.lock().settled.len()
    }

    pub(crate) fn extended(&self) -> usize {
        self.feed.state.lock().extended
    }

    pub(crate) fn lose(&self, id: MessageId) {
        self.feed.state.lock().lost.push(id);
    }

    pub(crate) async fn first_progress(&self) -> Progress {
        self.until(|state| state.progress.first().cloned()).await
    }

    async fn until<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let ended = self.feed.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if let Some(found) = look(&self.feed.state.lock()) {
                    return found;
                }
                ended.await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("it happens in time")
    }

    /// Looks often until `look` finds something.
    pub(crate) async fn eventually<T>(
        &self,
        within: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let until = self.clock.monotonic() + within;
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            if self.clock.monotonic() > until {
                return None;
            }
            self.clock.sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn stop(self) {
        assert!(self.tasks.stop(PATIENCE).await, "everything ends");
    }
}

/// Functions laid out below `folder`.
pub(crate) fn packages(folder: &Path, functions: &[Function<'_>]) -> Arc<dyn Packages> {
    let mut packages = BTreeMap::new();
    for function in functions {
        let place = folder.join("functions").join(function.name);
        std::fs::create_dir_all(&place).expect("a folder");
        let manifest = format!("name = \"{}\"\n{}", function.name, function.manifest);
        std::fs::write(place.join("function.toml"), manifest).expect("a file");
        for (name, text) in function.files {
            std::fs::write(place.join(name), text).expect("a file");
        }
        let manifest = Manifest::load(&place).unwrap_or_else(|errors| panic!("{errors}"));
        let package = Package {
            // One content for all: what tells them apart is their input.
            content: manifest.pure.then(|| Digest::from_bytes([7; 32])),
            manifest: Arc::new(manifest),
            folder: place,
        };
        packages.insert(function.name.into(), Arc::new(package));
    }
    Arc::new(Folder {
        functions: packages,
        changes: watch::Sender::new(0),
    })
}

/// The real guard.
pub(crate) fn guard() -> GuardProgram {
    GuardProgram {
        program: env!("CARGO_BIN_EXE_celesta-guard").into(),
        arguments: Vec::new(),
    }
}

/// The processes whose command line holds `marker`.
pub(crate) fn processes(marker: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line =
            std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        let alive =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        alive && String::from_utf8_lossy(&line).contains(marker)
    })
    .collect()
}
