//! The server as a component: bound to an address, spawned into a task set, stopped with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use celesta_artifacts::Artifacts;
use celesta_queue::AnyQueues;
use celesta_runs::{Member, Partitions, Runtime};
use celesta_runtime::{Clock, Fate, Random, Shutdown, TaskSet};
use celesta_store::Store;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::front::Front;
use crate::listen::{Bounded, listen};
use crate::{
    artifacts, guard, health, nodes, openapi, operations, orders, problem, publish, queues, run_events, runs,
    services, shared_facts, steer, submit, sweeps,
};

/// Requests served at once, waiting clients included: each costs a few kilobytes.
const REQUESTS_MAX: usize = 16_384;
/// Event streams open at once: each watches a run and may read its journal.
const STREAMS_MAX: usize = 4_096;
/// How long open connections may go on after shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: String,
    /// What clients must show as `Authorization: Bearer`; needed on any address but loopback.
    pub token: Option<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7070".to_owned(),
            token: None,
        }
    }
}

/// The parts the API stands on.
#[derive(Debug, Clone)]
pub struct Api {
    /// Services and runs.
    pub runtime: Runtime,
    /// The record, for what workers noted of attempts.
    pub store: Store,
    /// The blobs.
    pub artifacts: Artifacts,
    /// The queues, wherever their record is.
    pub queues: AnyQueues,
    /// The time.
    pub clock: Clock,
}

/// What all handlers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) api: Api,
    pub(crate) token: Option<String>,
    pub(crate) loopback: bool,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) shutdown: Shutdown,
    /// Ids of messages whose producer gave none.
    pub(crate) random: Random,
    /// Work that outlives its request.
    pub(crate) tasks: TaskSet,
    /// The partitions of the deployment, when this is a node of one.
    pub(crate) partitions: Option<Partitions>,
}

impl Shared {
    /// The same over one partition.
    pub(crate) fn of(&self, member: &Member) -> Self {
        Self {
            api: Api {
                runtime: member.runtime.clone(),
                store: member.store.clone(),
                ..self.api.clone()
            },
            token: self.token.clone(),
            loopback: self.loopback,
            room: Arc::clone(&self.room),
            streams: Arc::clone(&self.streams),
            shutdown: self.shutdown.clone(),
            random: self.random.clone(),
            tasks: self.tasks.clone(),
            partitions: self.partitions.clone(),
        }
    }
}

/// The state handlers are given.
pub(crate) type State = axum::extract::State<Arc<Shared>>;

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is wrong or taken.
    #[error("{source}")]
    Address {
        /// The system's words.
        #[from]
        source: std::io::Error,
    },
    /// Others could reach it and nothing would ask who they are.
    #[error(
        "{address} can be reached from other machines, and no token is set; set one with --token or CELESTA_TOKEN"
    )]
    NeedsToken {
        /// The address.
        address: SocketAddr,
    },
}

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: ServerConfig,
    api: Api,
    partitions: Option<Partitions>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// When the address is wrong or taken, or is not loopback and there is no token.
    pub async fn bind(config: ServerConfig, api: Api) -> Result<Self, BindError> {
        let listener = listen(&config.listen).await?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() && config.token.is_none() {
            return Err(BindError::NeedsToken { address });
        }
        Ok(Self {
            listener,
            address,
            config,
            api,
            partitions: None,
        })
    }

    /// Serves the partitions that are here, and sends requests for the others to their owners.
    #[must_use]
    pub fn over(mut self, partitions: Partitions) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the task set is stopped; then takes nothing new and lets what is open end for a few seconds.
    pub fn spawn(self, tasks: &TaskSet) {
        let shutdown = tasks.shutdown().clone();
        let clock = self.api.clock.clone();
        let shared = Arc::new(Shared {
            api: self.api,
            token: self.config.token,
            loopback: self.address.ip().is_loopback(),
            room: Arc::new(Semaphore::new(REQUESTS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            shutdown: shutdown.clone(),
            random: Random::system(),
            tasks: tasks.clone(),
            partitions: self.partitions,
        });
        // Made once, not for each connection.
        let service = router(shared).into_make_service();
        let listener = self.listener;
        tasks.spawn("server", Fate::Essential, async move {
            let asked = shutdown.clone();
            let serving =
                axum::serve(Bounded::new(listener, clock.clone()), service).with_graceful_shutdown(async move { asked.requested().await });
            let late = async {
                shutdown.requested().await;
                clock.sleep(DRAIN).await;
            };
            tokio::select! {
                outcome = serving => if let Err(error) = outcome { tracing::error!(%error, "the server ended") },
                () = late => tracing::warn!("connections that did not end are dropped"),
            }
        });
    }
}

/// All routes and what stands before them.
fn router(shared: Arc<Shared>) -> Router {
    let inner = match &shared.partitions {
        // Alone, nothing has to be found out about a request.
        Some(partitions) if !partitions.is_alone() => {
            Front::new(Arc::clone(&shared), partitions.clone(), routes).router()
        }
        _ => routes(Arc::clone(&shared)),
    };
    inner.layer(axum::middleware::from_fn_with_state(shared, guard::admit))
}

/// All routes over one runtime.
fn routes(shared: Arc<Shared>) -> Router {
    let artifact_bodies = DefaultBodyLimit::disable();
    Router::new()
        .route("/v1/services", get(services::list))
        .route(
            "/v1/services/{service}",
            get(services::show)
                .put(services::push)
                .layer(DefaultBodyLimit::max(services::PACKED_BYTES_MAX)),
        )
        .route("/v1/services/{service}/{operation}", post(submit::submit))
        .route("/v1/releases/{service}", get(services::releases))
        .route("/v1/releases/{service}/rollback", post(services::roll_back))
        .route("/v1/releases/{service}/promote", post(services::promote))
        .route("/v1/runs", get(runs::list))
        .route("/v1/runs/{run}", get(runs::show))
        .route("/v1/runs/{run}/facts", get(runs::facts).post(steer::write_facts))
        .route("/v1/runs/{run}/history", get(runs::history))
        .route("/v1/runs/{run}/calls", get(runs::calls))
        .route("/v1/runs/{run}/calls/{call}/attempts", get(runs::attempts))
        .route(
            "/v1/runs/{run}/calls/{call}/attempts/{attempt}/{stream}",
            get(runs::attempt_output),
        )
        .route("/v1/runs/{run}/explain", get(runs::explain))
        .route("/v1/runs/{run}/events", get(run_events::events))
        .route("/v1/runs/{run}/cancel", post(steer::cancel))
        .route("/v1/runs/{run}/retry", post(steer::retry))
        .route("/v1/runs/{run}/pause", post(steer::pause))
        .route("/v1/runs/{run}/resume", post(steer::resume))
        .route("/v1/runs/{run}/step", post(steer::step))
        .route("/v1/runs/{run}/prioritize", post(steer::prioritize))
        .route("/v1/runs/{run}/breakpoints", put(steer::set_breakpoints))
        .route("/v1/runs/{run}/clone", post(steer::clone_run))
        .route("/v1/runs/{run}/restart", post(steer::restart))
        .route("/v1/events", post(publish::publish))
        .merge(order_routes())
        .merge(queue_routes())
        .merge(shared_routes())
        .route("/v1/artifacts", post(artifacts::create).layer(artifact_bodies))
        .route(
            "/v1/artifacts/{digest}",
            get(artifacts::read)
                .head(artifacts::head)
                .put(artifacts::write)
                .layer(artifact_bodies),
        )
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/partitions/{partition}/move", post(nodes::relocate))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::serve))
        .route("/errors/{code}", get(problem::page))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(CatchPanicLayer::custom(problem::panicked))
        .with_state(shared)
}

/// The routes of shared facts and sweeps.
fn shared_routes() -> Router<Arc<Shared>> {
    let bodies = DefaultBodyLimit::max(shared_facts::BODY_BYTES_MAX);
    Router::new()
        .route(
            "/v1/services/{service}/facts",
            get(shared_facts::list).post(shared_facts::write).layer(bodies),
        )
        .route("/v1/services/{service}/facts/{fact}", get(shared_facts::show))
        .route("/v1/sweeps", get(sweeps::list))
        .route("/v1/sweeps/{sweep}", get(sweeps::show))
        .route("/v1/sweeps/{sweep}/runs", get(sweeps::runs))
        .route("/v1/sweeps/{sweep}/preview", get(sweeps::preview))
        .route("/v1/sweeps/{sweep}/pause", post(sweeps::pause))
        .route("/v1/sweeps/{sweep}/resume", post(sweeps::resume))
        .route("/v1/sweeps/{sweep}/abort", post(sweeps::abort))
}

/// The routes of what is done to many runs, and of what holds for all runs of a workflow.
fn order_routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/operations", get(operations::list).post(operations::begin))
        .route("/v1/operations/{operation}", get(operations::show))
        .route("/v1/operations/{operation}/{step}", post(operations::change))
        .route("/v1/orders", get(orders::list))
        .route(
            "/v1/pauses/{service}",
            put(orders::pause_service).delete(orders::resume_service),
        )
        .route(
            "/v1/pauses/{service}/{workflow}",
            put(orders::pause_workflow).delete(orders::resume_workflow),
        )
        .route(
            "/v1/breakpoints/{service}/{workflow}",
            put(orders::set_breakpoints),
        )
}

/// The routes of the queue.
fn queue_routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/queues", get(queues::list))
        .route(
            "/v1/queues/{queue}",
            get(queues::show).put(queues::configure).patch(queues::patch),
        )
        .route(
            "/v1/queues/{queue}/messages",
            get(queues::look::list).post(queues::enqueue::enqueue),
        )
        .route("/v1/queues/{queue}/messages/{message}", get(queues::look::show))
        .route(
            "/v1/queues/{queue}/messages/{message}/history",
            get(queues::look::history),
        )
        .route("/v1/queues/{queue}/lease", post(queues::lease::lease))
        .route("/v1/queues/{queue}/complete", post(queues::settle::complete))
        .route("/v1/queues/{queue}/fail", post(queues::settle::fail))
        .route("/v1/queues/{queue}/extend", post(queues::settle::extend))
        .route("/v1/queues/{queue}/release", post(queues::settle::release))
        .route("/v1/queues/{queue}/cancel", post(queues::change::cancel))
        .route("/v1/queues/{queue}/redrive", post(queues::change::redrive))
        .route(
            "/v1/queues/{queue}/reprioritize",
            post(queues::change::reprioritize),
        )
}
