//! `celesta serve`: a node.

use std::path::PathBuf;
use std::time::Duration;

use celesta_rabbitmq::BrokerUrl;
use clap::Args;
use serde_json::json;

use super::Context;
use super::call::read_duration;
use crate::args::DataArgs;
use crate::exit::Outcome;
use crate::node::{Node, NodeOptions};
use crate::output::{DIM, STRONG};

/// Where a node listens unless told otherwise: this machine only.
pub(crate) const LISTEN: &str = "127.0.0.1:7070";

/// Options of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The address to listen on; one beyond this machine needs --token
    #[arg(long, env = "CELESTA_LISTEN", default_value = LISTEN, value_name = "ADDRESS:PORT")]
    listen: String,
    /// Keep the queues of /v1/queues in this PostgreSQL database, shared by all nodes that name it; in the data folder unless given
    #[arg(long, env = "CELESTA_QUEUES", hide_env_values = true, value_name = "URL")]
    queues: Option<String>,
    /// Send the messages of queues with `transport=broker` to this RabbitMQ, as amqp://user:password@host:port/vhost
    #[arg(long, env = "CELESTA_BROKER", hide_env_values = true, value_name = "URL")]
    broker: Option<BrokerUrl>,
    /// Processor slots for functions; 0 runs none here. The machine's processors unless given
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Be a node of the deployment in this PostgreSQL database; keep everything in the data folder unless given
    #[arg(long, env = "CELESTA_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// Another database for partitions of the deployment, a name and a PostgreSQL URL; the same at every node. May be repeated;
    /// in the environment separated by spaces
    #[arg(
        long = "database",
        env = "CELESTA_DATABASES",
        hide_env_values = true,
        value_name = "NAME=URL",
        requires = "store"
    )]
    databases: Vec<String>,
    /// The name of this node among others; made once and kept in the data folder unless given
    #[arg(long, env = "CELESTA_NODE", value_name = "NAME", requires = "store")]
    node: Option<String>,
    /// Where the other nodes reach this one; where it listens unless given
    #[arg(long, env = "CELESTA_ADVERTISE", value_name = "HOST:PORT", requires = "store")]
    advertise: Option<String>,
    /// How many partitions a new deployment gets, for as long as it lives; 8 unless given
    #[arg(long, value_name = "N", requires = "store")]
    partitions: Option<u32>,
    /// The folder of artifacts, which the nodes of a deployment share; in the data folder unless given
    #[arg(long, env = "CELESTA_ARTIFACTS", value_name = "DIR")]
    artifacts: Option<PathBuf>,
    /// How long the ids of events are kept, so that one that comes again counts once, for example 12h; 7d unless given
    #[arg(long, env = "CELESTA_EVENTS_KEPT", value_name = "DURATION", value_parser = read_duration)]
    events_kept: Option<Duration>,
}

/// Serves until it is told to stop.
pub(crate) async fn run(context: &Context, args: ServeArgs) -> Outcome {
    context.start_logging("info,sqlx=warn");
    let options = NodeOptions {
        data: args.data.folder.clone(),
        listen: args.listen,
        token: context.global.token.clone(),
        queues: args.queues,
        broker: args.broker,
        workers: args.workers,
        store: args.store,
        databases: args.databases,
        node: args.node,
        advertise: args.advertise,
        partitions: args.partitions,
        artifacts: args.artifacts,
        events_kept: args.events_kept,
    };
    let node = Node::start(options).await?;
    context.out.json(&json!({ "url": node.url, "pid": std::process::id(), "data": args.data.folder, "workers": node.slots }))?;
    context.out.line(format_args!(
        "celesta {} listens on {STRONG}{}{STRONG:#} {DIM}(data in {}, {} slots for functions){DIM:#}",
        env!("CARGO_PKG_VERSION"),
        node.url,
        args.data.folder.display(),
        node.slots
    ))?;
    node.run_to_end().await
}
