//! One process of the simulation: the platform's parts on one record, and an executor of one thread that has nothing to do
//! before something happens.

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use celesta_artifacts::Artifacts;
use celesta_bundle::Files;
use celesta_queue::{Leased, QueueName, Queues};
use celesta_runs::{Parts, Runtime, RuntimeConfig, Share, Turns, Versions};
use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use celesta_store::Migration;
use celesta_store::driven::{Did, Ending, Hand, Record};
use celesta_worker::{Feed as _, Finished, QueueFeed};
use tempfile::TempDir;

use crate::clients::{Answer, Ask};
use crate::workers::Shelf;
use crate::workloads::{FUNCTIONS, MAIN, bundles, next_version};

/// What the simulation itself cannot do. Never a finding about the platform.
#[derive(Debug, thiserror::Error)]
#[error("the simulation cannot {what}: {reason}")]
pub struct SimError {
    what: &'static str,
    reason: String,
}

impl SimError {
    pub(crate) fn of<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self {
            what,
            reason: error.to_string(),
        }
    }
}

/// New runs that follow the next version before it is released.
const TRIED_ON: Share = Share::Percent(30);

/// What seeds on one thread share: a folder for the bundles' files, which every seed pushes alike.
#[derive(Debug)]
pub struct Ground {
    folder: TempDir,
    bundles: Vec<(&'static str, Files)>,
    /// What some new runs of [`MAIN`] follow until it is released.
    next: Files,
    /// Compiled once for all seeds.
    versions: Versions,
    artifacts: OnceLock<Artifacts>,
}

impl Ground {
    /// A new folder.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn new() -> Result<Self, SimError> {
        // In memory where the machine has such a folder: nothing here is to outlive it, and a disk would be waited for.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Ok(Self {
            folder: folder.map_err(SimError::of("make a folder"))?,
            versions: Versions::default(),
            artifacts: OnceLock::new(),
            bundles: bundles(),
            next: next_version(),
        })
    }

    async fn artifacts(&self) -> Result<Artifacts, SimError> {
        if let Some(artifacts) = self.artifacts.get() {
            return Ok(artifacts.clone());
        }
        let opened = Artifacts::open(self.at("artifacts")).await;
        let opened = opened.map_err(SimError::of("open the artifacts"))?;
        Ok(self.artifacts.get_or_init(|| opened).clone())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// All tables of a node, and the simulation's own.
pub(crate) fn migrations() -> Vec<Migration> {
    [
        celesta_queue::MIGRATIONS,
        celesta_runs::MIGRATIONS,
        celesta_worker::MIGRATIONS,
        &[crate::history::MIGRATION],
    ]
    .concat()
}

/// What is waited for without anybody of the platform waiting.
pub(crate) type Waiting<T> = Pin<Box<dyn Future<Output = T>>>;

/// A client that waits for its answer.
pub(crate) struct Client {
    pub(crate) ask: Ask,
    pub(crate) answer: Waiting<Answer>,
}

/// What a process is made of.
pub(crate) struct Setting<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) record: &'a Record,
    pub(crate) clock: &'a Clock,
    pub(crate) random: &'a Random,
    pub(crate) cache_bytes: usize,
}

/// The parts of one process. Dropped, everything it had in memory is gone.
pub(crate) struct Node {
    pub(crate) clients: Vec<Client>,
    evaluating: Vec<Waiting<()>>,
    pub(crate) runtime: Runtime,
    pub(crate) queues: Queues,
    feed: Arc<QueueFeed>,
    pub(crate) hand: Hand,
    tasks: TaskSet,
    executor: tokio::runtime::Runtime,
}

struct Opened {
    runtime: Runtime,
    queues: Queues,
    feed: Arc<QueueFeed>,
}

impl Node {
    /// Opens everything; `prepare` is told the hand first. With `crash_after`, the process dies after so many of the commits
    /// that opening takes: nothing is given then.
    pub(crate) fn open(
        setting: &Setting<'_>,
        prepare: impl FnOnce(&mut Hand),
        crash_after: Option<usize>,
    ) -> Result<Option<Self>, SimError> {
        let executor = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(SimError::of("start an executor"))?;
        let (store, mut hand) = setting.record.open();
        prepare(&mut hand);
        let tasks = TaskSet::new(Shutdown::new());
        let opening = open_parts(setting, store, tasks.clone());
        let opened = executor.block_on(async {
            let mut opening = Box::pin(opening);
            let mut commits = 0;
            loop {
                let polled = poll_fn(|context| Poll::Ready(opening.as_mut().poll(context))).await;
                if let Poll::Ready(opened) = polled {
                    return opened.map(Some);
                }
                tokio::task::yield_now().await;
                if hand.waiting() > 0 {
                    if crash_after == Some(commits) {
                        hand.commit(usize::MAX, Ending::Unheard);
                        return Ok(None);
                    }
                    hand.commit(usize::MAX, Ending::Durable);
                    commits += 1;
                }
            }
        });
        let Some(Opened {
            runtime,
            queues,
            feed,
        }) = opened?
        else {
            executor.shutdown_background();
            return Ok(None);
        };
        Ok(Some(Self {
            clients: Vec::new(),
            evaluating: Vec::new(),
            runtime,
            queues,
            feed,
            hand,
            tasks,
            executor,
        }))
    }

    /// Lets everything go on by itself until nothing can; gives the answers that clients got.
    pub(crate) fn settle(&mut self) -> Vec<(Ask, Answer)> {
        let mut answers = Vec::new();
        let Self {
            clients,
            evaluating,
            runtime,
            tasks,
            executor,
            ..
        } = self;
        let artifacts = runtime.artifacts();
        executor.block_on(async {
            loop {
                let before = tasks.polls();
                let moved = poll_fn(|context| {
                    let answered = poll_clients(clients, context, &mut answers);
                    let running = evaluating.len();
                    evaluating.retain_mut(|turns| turns.as_mut().poll(context).is_pending());
                    Poll::Ready(answered || evaluating.len() < running)
                })
                .await;
                tokio::task::yield_now().await;
                // What writes to a real disk goes on by itself too.
                if !moved && tasks.polls() == before && artifacts.writing() == 0 {
                    break;
                }
            }
        });
        answers
    }

    /// The committer commits the first units; whoever waits for them is told.
    pub(crate) fn commit(&mut self, units: usize, ending: Ending) -> Did {
        let _within = self.executor.enter();
        self.hand.commit(units, ending)
    }

    /// A client asks.
    pub(crate) fn ask(&mut self, ask: Ask, answer: Waiting<Answer>) {
        self.clients.push(Client { ask, answer });
    }

    /// Whether somebody waits for something that is not settled.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.clients.is_empty() || !self.evaluating.is_empty()
    }

    /// How many evaluators are held up.
    pub(crate) const fn evaluating(&self) -> usize {
        self.evaluating.len()
    }

    /// Turns are evaluated, as far as nothing holds them up.
    pub(crate) fn evaluate(&mut self, turns: Turns) {
        let runtime = self.runtime.clone();
        self.evaluating
            .push(Box::pin(async move { runtime.evaluate(turns).await }));
    }

    /// A worker leases calls of a function.
    pub(crate) fn lease(&self, queue: &QueueName, max: usize, lease_ms: u64) -> Vec<Leased> {
        let lease = std::time::Duration::from_millis(lease_ms);
        let feed = Arc::clone(&self.feed);
        let leasing = async {
            feed.lease(queue.clone(), max, lease, std::time::Duration::ZERO)
                .await
        };
        self.executor.block_on(leasing).unwrap_or_default()
    }

    /// A worker has another while.
    pub(crate) fn extend(&self, leased: &Leased, lease_ms: u64) -> bool {
        let lease = std::time::Duration::from_millis(lease_ms);
        let extended = self
            .executor
            .block_on(async { self.feed.extend(vec![leased.lease()], lease).await });
        extended.first() == Some(&true)
    }

    /// A worker is done with calls.
    pub(crate) fn finish(&self, finished: Vec<Finished>) {
        self.executor.block_on(async { self.feed.settle(finished).await });
    }

    /// Asks the platform something that waits for no commit.
    pub(crate) fn now<T>(&self, asking: impl Future<Output = T>) -> T {
        self.executor.block_on(asking)
    }

    /// The end that is asked for: whoever waits is let go.
    pub(crate) fn request_stop(&self) {
        self.tasks.shutdown().request();
    }

    /// The end, wherever everything stands. Clients that waited do not know what became of their requests.
    pub(crate) fn crash(self) -> Vec<Ask> {
        let Self {
            clients,
            evaluating,
            runtime,
            queues,
            feed,
            hand,
            tasks,
            executor,
        } = self;
        let lost = clients.into_iter().map(|client| client.ask).collect();
        // First the way to the record: what is dropped after it reaches nothing.
        drop(hand);
        let guard = executor.enter();
        drop((evaluating, feed, runtime, queues, tasks));
        drop(guard);
        executor.shutdown_background();
        lost
    }
}

fn poll_clients(
    clients: &mut Vec<Client>,
    context: &mut Context<'_>,
    answers: &mut Vec<(Ask, Answer)>,
) -> bool {
    let mut at = 0;
    let before = clients.len();
    while let Some(client) = clients.get_mut(at) {
        match client.answer.as_mut().poll(context) {
            Poll::Pending => at += 1,
            Poll::Ready(answer) => {
                let Client { ask, .. } = clients.remove(at);
                answers.push((ask, answer));
            }
        }
    }
    clients.len() < before
}

async fn open_parts(
    setting: &Setting<'_>,
    store: celesta_store::Store,
    tasks: TaskSet,
) -> Result<Opened, SimError> {
    let clock = setting.clock;
    let queues = Queues::open(&store, clock, &tasks, celesta_queue::Options::default())
        .await
        .map_err(SimError::of("open the queues"))?;
    let artifacts = setting.ground.artifacts().await?;
    let config = RuntimeConfig {
        evaluators: 0,
        cache_bytes: setting.cache_bytes,
        versions: setting.ground.versions.clone(),
        ..RuntimeConfig::new(setting.ground.at("bundles"))
    };
    let parts = Parts {
        store: store.clone(),
        queues: queues.clone(),
        artifacts,
        clock: clock.clone(),
        random: setting.random.clone(),
        tasks: tasks.clone(),
    };
    let runtime = Runtime::open(config, parts)
        .await
        .map_err(SimError::of("open the runtime"))?;
    if runtime.services().len() < setting.ground.bundles.len() {
        for (service, files) in &setting.ground.bundles {
            runtime
                .push(service, files.clone())
                .await
                .map_err(SimError::of("push a bundle"))?;
        }
    }
    let releases = runtime.releases(MAIN).await;
    let (releases, canary) = releases.map_err(SimError::of("read the releases"))?;
    if releases.len() < 2 && canary.is_none() {
        runtime
            .push_for(MAIN, setting.ground.next.clone(), Some(TRIED_ON))
            .await
            .map_err(SimError::of("push the next version"))?;
    }
    let shelf = Arc::new(Shelf {
        runtime: runtime.clone(),
    });
    let feed = QueueFeed::start(
        queues.clone(),
        store,
        clock,
        &tasks,
        "sim",
        shelf,
        Arc::new(|_| {}),
    )
    .map_err(SimError::of("start the feed"))?;
    Ok(Opened {
        runtime,
        queues,
        feed,
    })
}

/// The queues of all functions.
pub(crate) fn function_queues() -> Result<Vec<QueueName>, SimError> {
    let names = FUNCTIONS.iter();
    names
        .map(|(service, function)| {
            QueueName::new(&celesta_functions::names::function_queue(service, function))
                .map_err(SimError::of("name a queue"))
        })
        .collect()
}

/// The platform's own queues: messages of runs, and what their rules emit.
pub(crate) fn own_queues() -> Result<[QueueName; 2], SimError> {
    let named = |name| QueueName::new(name).map_err(SimError::of("name a queue"));
    Ok([
        named(celesta_functions::names::RUNS_QUEUE)?,
        named("celesta/events")?,
    ])
}
