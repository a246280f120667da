//! One connection to the broker that comes back by itself.
//!
//! Whoever uses a link asks for the present [`Session`], works on it until something fails, and asks again. What was on
//! its way when a connection was lost is the user's to repeat: the link keeps nothing. [`machine`] is its life.

mod machine;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use celesta_runtime::metrics::{IntCounter, IntGauge};
use celesta_runtime::{Clock, Fate, Random, Shutdown, TaskSet};
use futures_util::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::sync::watch;

use crate::broker::BrokerUrl;
use crate::limits::CONNECT_TIME;
use crate::metrics::Metrics;
use machine::{Event, State};

/// How long the broker may take to say good-bye.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// A connection while it lasts.
#[derive(Clone)]
pub(crate) struct Session {
    /// Which connection of the link this is.
    pub(crate) generation: u64,
    connection: Arc<Connection>,
    status: watch::Receiver<Status>,
}

impl Session {
    /// Opens a channel.
    pub(crate) async fn channel(&self) -> Result<Channel, lapin::Error> {
        self.connection.create_channel().await
    }

    /// What `work` gives, or nothing when the connection, or the process, ends before. Calls of the library may wait for
    /// ever for an answer that was due when their connection ended, so every one of them is made through this.
    ///
    /// # Cancel safety
    /// As `work`.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut status = self.status.clone();
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = status.wait_for(|status| status.generation != self.generation || !status.state.is_up()) => None,
        }
    }
}

#[derive(Clone)]
struct Status {
    state: State,
    generation: u64,
    connection: Option<Arc<Connection>>,
}

/// A link. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Link {
    status: watch::Receiver<Status>,
}

impl Link {
    /// Starts a link; `name` is what the broker shows.
    pub(crate) fn start(
        url: &BrokerUrl,
        name: String,
        clock: &Clock,
        random: &Random,
        tasks: &TaskSet,
        metrics: &Metrics,
    ) -> Self {
        let first = Status {
            state: State::Down { refusals: 0 },
            generation: 0,
            connection: None,
        };
        let (sender, status) = watch::channel(first);
        let keeper = Keeper {
            url: url.clone(),
            name,
            clock: clock.clone(),
            random: random.clone(),
            shutdown: tasks.shutdown().clone(),
            status: sender,
            open: metrics.links_open.clone(),
            lost: metrics.links_lost.clone(),
        };
        tasks.spawn("broker link", Fate::Expendable, keeper.run());
        Self { status }
    }

    /// The present session; waits for one. Nothing when the process is stopping.
    ///
    /// # Cancel safety
    /// May be dropped and asked again at any time.
    pub(crate) async fn session(&self) -> Option<Session> {
        self.wait_for(State::is_up).await
    }

    /// The present session once the broker takes messages. Nothing when the process is stopping.
    ///
    /// # Cancel safety
    /// May be dropped and asked again at any time.
    pub(crate) async fn writable(&self) -> Option<Session> {
        self.wait_for(|state| matches!(state, State::Open)).await
    }

    /// Whether messages go through this instant.
    pub(crate) fn is_writable(&self) -> bool {
        self.status.borrow().state == State::Open
    }

    async fn wait_for(&self, wanted: impl Fn(State) -> bool) -> Option<Session> {
        let mut status = self.status.clone();
        let found = status
            .wait_for(|status| wanted(status.state) || status.state == State::Stopped)
            .await
            .ok()?;
        Some(Session {
            generation: found.generation,
            connection: found.connection.clone()?,
            status: self.status.clone(),
        })
    }
}

/// Which connection of the link it is, and itself.
type Present = (u64, Arc<Connection>);

/// Keeps the connection.
struct Keeper {
    url: BrokerUrl,
    name: String,
    clock: Clock,
    random: Random,
    shutdown: Shutdown,
    status: watch::Sender<Status>,
    open: IntGauge,
    lost: IntCounter,
}

impl Keeper {
    async fn run(self) {
        let mut generation = 0;
        let mut state = State::Down { refusals: 0 };
        let mut first = true;
        loop {
            let State::Down { refusals } = state else { return };
            if !std::mem::take(&mut first) {
                let wait = machine::wait(refusals, self.random.fraction());
                tokio::select! {
                    () = self.clock.sleep(wait) => {}
                    () = self.shutdown.requested() => {}
                }
            }
            state = self.set(state.after(self.or_stop(Event::Due)), None);
            let connected = tokio::select! {
                connected = self.connect() => connected,
                () = self.shutdown.requested() => None,
            };
            let Some(connection) = connected else {
                state = self.set(state.after(self.or_stop(Event::Refused)), None);
                continue;
            };
            generation += 1;
            let session = (generation, Arc::new(connection));
            tracing::info!(broker = %self.url, link = self.name, generation, "connected to the broker");
            self.open.inc();
            state = self.set(state.after(Event::Connected), Some(&session));
            state = self.watch(state, &session).await;
            self.open.dec();
            self.lost.inc();
            drop(session);
        }
    }

    fn or_stop(&self, event: Event) -> Event {
        if self.shutdown.is_requested() {
            Event::Stop
        } else {
            event
        }
    }

    async fn connect(&self) -> Option<Connection> {
        let properties = ConnectionProperties::default().with_connection_name(self.name.as_str().into());
        let connecting = Connection::connect_uri((*self.url.uri).clone(), properties);
        let connected = tokio::select! {
            connected = connecting => connected,
            () = self.clock.sleep(CONNECT_TIME) => {
                tracing::warn!(broker = %self.url, link = self.name, "the broker does not answer");
                return None;
            }
        };
        connected
            .inspect_err(|error| {
                tracing::warn!(broker = %self.url, link = self.name, %error, "the broker cannot be reached");
            })
            .ok()
    }

    /// Follows a connection until it is over.
    async fn watch(&self, mut state: State, session: &Present) -> State {
        let (_, connection) = session;
        let mut events = Box::pin(connection.events_listener());
        // An event before the listener was there is not repeated.
        let mut blocked = connection.status().blocked();
        loop {
            if blocked {
                state = self.set(state.after(Event::Blocked), Some(session));
            }
            if !connection.status().connected() {
                return self.set(state.after(Event::Lost), None);
            }
            let event = tokio::select! {
                event = events.next() => event,
                () = self.shutdown.requested() => {
                    tokio::select! {
                        // One that is blocked does not answer.
                        _ = connection.close(200, "stopping".into()) => {}
                        () = self.clock.sleep(CLOSE_TIME) => {}
                    }
                    return self.set(state.after(Event::Stop), None);
                }
            };
            blocked = false;
            match event {
                Some(lapin::Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(
                        link = self.name,
                        reason,
                        "the broker wants nothing published for now"
                    );
                    blocked = true;
                }
                Some(lapin::Event::ConnectionUnblocked) => {
                    tracing::info!(link = self.name, "the broker takes messages again");
                    state = self.set(state.after(Event::Unblocked), Some(session));
                }
                Some(lapin::Event::Error(error)) => {
                    tracing::warn!(broker = %self.url, link = self.name, %error, "an error on the connection");
                }
                Some(_) => {}
                None => return self.set(state.after(Event::Lost), None),
            }
        }
    }

    fn set(&self, state: State, session: Option<&Present>) -> State {
        self.status.send_modify(|status| {
            status.state = state;
            status.connection = session.map(|(_, connection)| Arc::clone(connection));
            if let Some((generation, _)) = session {
                status.generation = *generation;
            }
        });
        state
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("state", &self.status.borrow().state)
            .finish()
    }
}
