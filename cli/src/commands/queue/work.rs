//! `celesta queue consume`: a command for each message that comes from the broker.
//!
//! The command reads the message from its standard input; how it ends is what becomes of the message. No server is
//! asked: messages come from the broker and reports go back through it.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use celesta_queue::QueueName;
use celesta_rabbitmq::{BrokerUrl, Delivery, Outcome as End, Road, RoadConfig, Settled};
use celesta_runtime::{Clock, Random, Shutdown, TaskSet};
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::child;
use crate::commands::Context;
use crate::commands::call::read_duration;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{self, BAD, GOOD, Output, PENDING, paint};
use crate::signals;

/// The exit code of a command that says: no other try will help (`EX_DATAERR`).
const FOR_GOOD: i32 = 65;
/// Bytes of what a command said last that are kept as the error.
const SAID_BYTES: usize = 2_048;
/// Reports are answered within this time when everything ends.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Options of `queue consume`.
#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// The queue; it is configured with `transport=broker`, and a server runs with --broker
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// The broker, as amqp://user:password@host:port/vhost
    #[arg(long, env = "CELESTA_BROKER", hide_env_values = true, value_name = "URL")]
    broker: BrokerUrl,
    /// How many commands at once
    #[arg(short, long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    parallel: u16,
    /// Stop after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// The time until a message is tried again whose command has failed
    #[arg(long, value_name = "DURATION", value_parser = read_duration, default_value = "1s")]
    delay: Duration,
    /// The name shown to people
    #[arg(long, default_value = "celesta queue consume", value_name = "NAME")]
    consumer: String,
    /// The command; 0 is done, 65 has failed for good, anything else is tried again
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What each message is worked on with.
struct Work {
    road: Road,
    command: Vec<String>,
    delay_ms: i64,
    stopping: watch::Receiver<bool>,
}

/// Consumes until it is told to stop, or has had enough.
pub(crate) async fn consume(context: &Context, args: ConsumeArgs) -> Outcome {
    context.start_logging("warn");
    let queue = QueueName::new(&args.queue).map_err(|error| Failure::usage(error.to_string()))?;
    let (clock, random) = (Clock::system(), Random::system());
    let tasks = TaskSet::new(Shutdown::new());
    let road = Road::start(
        RoadConfig::new(&args.consumer),
        &args.broker,
        &clock,
        &random,
        &tasks,
    );
    let mut intake = road
        .consume(&queue, args.parallel)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let (stop, stopping) = watch::channel(false);
    let work = Arc::new(Work {
        road,
        command: args.command,
        delay_ms: i64::try_from(args.delay.as_millis()).unwrap_or(i64::MAX),
        stopping,
    });
    let mut left = args.max.unwrap_or(u64::MAX);
    let mut working = JoinSet::new();
    let mut exit = Exit::Done;
    while left > 0 || !working.is_empty() {
        let may_take = left > 0 && working.len() < usize::from(args.parallel);
        tokio::select! {
            () = signals::interrupted() => break,
            Some(ended) = working.join_next(), if !working.is_empty() => {
                exit = told(context.out, &clock, ended.map_err(Failure::internal)?, exit)?;
            }
            deliveries = intake.next(1), if may_take => {
                if deliveries.is_empty() {
                    break;
                }
                for delivery in deliveries {
                    left -= 1;
                    let (work, begun) = (Arc::clone(&work), clock.monotonic());
                    working.spawn(async move { (work.on(&delivery).await, delivery, begun) });
                }
            }
        }
    }
    // What is under way is given back; nobody is asked to finish.
    stop.send_replace(true);
    while let Some(ended) = working.join_next().await {
        exit = told(context.out, &clock, ended.map_err(Failure::internal)?, exit)?;
    }
    drop(intake);
    if !tasks.stop(STOP_PATIENCE).await {
        Output::remark("some reports may not have been sent; their messages are delivered again");
    }
    Ok(exit)
}

/// Tells what became of a message.
fn told(
    out: Output,
    clock: &Clock,
    (end, delivery, begun): (End, Delivery, Duration),
    exit: Exit,
) -> Result<Exit, Failure> {
    let took = clock.monotonic().saturating_sub(begun);
    let (style, word, error) = match &end {
        End::Completed { .. } => (GOOD, "completed", None),
        End::Failed { retryable, error, .. } => {
            let word = if *retryable { "failed" } else { "failed for good" };
            (BAD, word, Some(error.as_str()))
        }
        End::Released => (PENDING, "released", None),
    };
    let id = delivery.id.to_string();
    out.json(
        &json!({ "id": id, "attempt": delivery.attempt, "outcome": word, "error": error,
        "ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }),
    )?;
    let said = error.map_or_else(String::new, |error| {
        format!("  {}", error.lines().last().unwrap_or_default())
    });
    let (word, time) = (paint(style, word), output::duration(took));
    out.line(format_args!(
        "{id}  {word} after {time} (attempt {} of {}){said}",
        delivery.attempt, delivery.attempts_max
    ))?;
    Ok(if error.is_some() { Exit::Failed } else { exit })
}

impl Work {
    /// Works on a message and reports what became of it.
    async fn on(&self, delivery: &Delivery) -> End {
        let outcome = self.outcome(delivery).await;
        self.road
            .settle(vec![Settled {
                id: delivery.id,
                token: delivery.token,
                outcome: outcome.clone(),
            }])
            .await;
        outcome
    }

    async fn outcome(&self, delivery: &Delivery) -> End {
        let mut canceled = self.road.canceled();
        let over = async {
            loop {
                match canceled.recv().await {
                    Ok(notice) => {
                        let meant = notice.token.is_none_or(|token| token == delivery.token);
                        if notice.id == delivery.id && meant {
                            return;
                        }
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let mut stopping = self.stopping.clone();
        // Dropped, the command is killed.
        tokio::select! {
            ended = self.run(delivery) => ended,
            () = over => End::Released,
            _ = stopping.wait_for(|stopping| *stopping) => End::Released,
        }
    }

    async fn run(&self, delivery: &Delivery) -> End {
        let failed = |retryable: bool, error: String| End::Failed {
            retryable,
            delay_ms: if retryable { self.delay_ms } else { 0 },
            error,
            result: Vec::new(),
        };
        let mut child = match self.start(delivery) {
            Ok(child) => child,
            Err(error) => {
                let program = self.command.first().map_or("", String::as_str);
                return failed(true, format!("cannot run {program}: {error}"));
            }
        };
        match fed_and_heard(&mut child, &delivery.payload).await {
            Err(error) => failed(true, format!("the command cannot be heard: {error}")),
            Ok((status, _)) if status.success() => End::Completed { result: Vec::new() },
            Ok((status, said)) => {
                let said = if said.is_empty() { status.to_string() } else { said };
                failed(status.code() != Some(FOR_GOOD), said)
            }
        }
    }

    fn start(&self, delivery: &Delivery) -> std::io::Result<Child> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or(std::io::ErrorKind::InvalidInput)?;
        child::command(program.as_ref())
            .args(arguments)
            .env_remove("CELESTA_BROKER")
            .env("CELESTA_MESSAGE", delivery.id.to_string())
            .env("CELESTA_QUEUE", delivery.queue.as_str())
            .env("CELESTA_ATTEMPT", delivery.attempt.to_string())
            .env("CELESTA_ATTEMPTS_MAX", delivery.attempts_max.to_string())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
}

/// Writes the message to the command, reads what it says, and waits for its end. Gives the end of what it said.
async fn fed_and_heard(child: &mut Child, payload: &[u8]) -> std::io::Result<(ExitStatus, String)> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let feeding = async move {
        if let Some(mut stdin) = stdin {
            // A command that does not read its message has its reasons.
            stdin.write_all(payload).await.ok();
            stdin.shutdown().await.ok();
        }
    };
    let hearing = async move {
        let mut tail = Vec::new();
        let Some(mut stderr) = stderr else { return tail };
        let (mut own, mut bytes) = (tokio::io::stderr(), [0; 4_096]);
        while let Ok(count @ 1..) = stderr.read(&mut bytes).await {
            own.write_all(&bytes[..count]).await.ok();
            tail.extend_from_slice(&bytes[..count]);
            let over = tail.len().saturating_sub(SAID_BYTES);
            tail.drain(..over);
        }
        tail
    };
    let (status, (), tail) = tokio::join!(child.wait(), feeding, hearing);
    Ok((status?, String::from_utf8_lossy(&tail).trim().to_owned()))
}
