//! The node's way to a message broker: queues that are configured with `transport=broker` are sent there.
//!
//! Which queues these are changes while the node runs; it looks a few times a second. The dispatcher takes part under a
//! name of its own that lies in the data folder, so that it reads what consumers reported while it was away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use celesta_queue::{AnyQueues, LeaseRef, Leased, QueueName};
use celesta_rabbitmq::{
    BrokerUrl, Dispatcher, DispatcherConfig, QueueSource, Settlement, Source, SourceError,
};
use celesta_runtime::{Clock, Fate, Random, TaskSet};
use futures_util::future::BoxFuture;

use crate::exit::Failure;

/// The name this node has at the broker, in its data folder.
const NAME_FILE: &str = "broker-name";
/// How often the node looks which queues are to be sent.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Starts sending.
///
/// # Errors
/// When the node's name cannot be kept.
pub(super) fn start(
    broker: &BrokerUrl,
    data: &Path,
    queues: &AnyQueues,
    clock: &Clock,
    random: &Random,
    tasks: &TaskSet,
) -> Result<(), Failure> {
    let name = own_name(data, random)?;
    let source = Opened(QueueSource::new(queues.clone(), &format!("broker of {name}")));
    let config = DispatcherConfig::new(&name);
    let dispatcher = Dispatcher::start(config, broker, Arc::new(source), clock, random, tasks)
        .map_err(|error| Failure::internal(format!("cannot send to the broker: {error}")))?;
    tracing::info!(%broker, node = name, "messages of queues with transport=broker are sent");
    tasks.spawn(
        "broker queues",
        Fate::Expendable,
        follow(dispatcher, queues.clone(), clock.clone(), tasks.clone()),
    );
    Ok(())
}

/// The name that was given at the first start.
fn own_name(data: &Path, random: &Random) -> Result<String, Failure> {
    let path = data.join(NAME_FILE);
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => Ok(name.trim().to_owned()),
        Ok(_) => name_anew(&path, random),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => name_anew(&path, random),
        Err(error) => Err(Failure::file("read", &path, &error)),
    }
}

fn name_anew(path: &Path, random: &Random) -> Result<String, Failure> {
    let name = format!("node-{:016x}", random.next_u64());
    std::fs::write(path, &name).map_err(|error| Failure::file("write", path, &error))?;
    Ok(name)
}

/// Serves the queues that are to be sent, and leaves those that are not any more.
async fn follow(dispatcher: Dispatcher, queues: AnyQueues, clock: Clock, tasks: TaskSet) {
    let mut served: Vec<QueueName> = Vec::new();
    loop {
        let wanted = queues.on_broker();
        for queue in &wanted {
            if served.contains(queue) {
                continue;
            }
            match dispatcher.serve(queue) {
                Ok(()) => tracing::info!(%queue, "sent to the broker from now on"),
                Err(error) => tracing::warn!(%queue, %error, "cannot be sent to the broker"),
            }
        }
        for queue in served.iter().filter(|queue| !wanted.contains(queue)) {
            dispatcher.leave(queue);
            tracing::info!(%queue, "not sent to the broker any more");
        }
        served = wanted;
        tokio::select! {
            () = clock.sleep(LOOK_EVERY) => {}
            () = tasks.shutdown().requested() => return,
        }
    }
}

/// The queues as consumers elsewhere see them: a payload is what its producer sent, without the envelope of the API.
#[derive(Debug)]
struct Opened(QueueSource);

impl Source for Opened {
    fn lease(
        &self,
        queue: QueueName,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> BoxFuture<'_, Result<Vec<Leased>, SourceError>> {
        Box::pin(async move {
            let mut leased = self.0.lease(queue, max, lease, wait).await?;
            for leased in &mut leased {
                let content = celesta_server::content(&leased.payload);
                if content.len() < leased.payload.len() {
                    leased.payload = content.into();
                }
            }
            Ok(leased)
        })
    }

    fn extend(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, Vec<bool>> {
        self.0.extend(leases, lease)
    }

    fn release(&self, leases: Vec<LeaseRef>) -> BoxFuture<'_, ()> {
        self.0.release(leases)
    }

    fn settle(&self, settlements: Vec<Settlement>) -> BoxFuture<'_, Result<Vec<bool>, SourceError>> {
        self.0.settle(settlements)
    }
}
