//! One file per command, and the way from the command line to the exit code.

pub(crate) mod artifact;
pub(crate) mod backup;
mod bench_function;
pub(crate) mod bulk;
pub(crate) mod call;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod fmt;
mod guard;
pub(crate) mod help;
pub(crate) mod lsp;
pub(crate) mod new;
pub(crate) mod publish;
pub(crate) mod push;
pub(crate) mod queue;
pub(crate) mod rules;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod sim;
pub(crate) mod sweep;
pub(crate) mod test;
pub(crate) mod worker;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use celesta_runtime::{LogFormat, start_logging};
use clap::Parser as _;

use crate::args::{Arguments, Command, Global};
use crate::client::Client;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Output;

/// Threads that drive the async work. Two cores carry a whole node; on larger machines more threads than this wait
/// for the one committer.
const THREADS_MAX: usize = 8;

/// What every command is given.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) out: Output,
}

impl Context {
    /// A client of the server named on the command line.
    ///
    /// # Errors
    /// When the address is not an HTTP URL.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let client = Client::new(&self.global.server, self.global.token.as_deref())?;
        client.with_actor(self.global.actor.as_deref())
    }

    /// Starts logging with `default` as the filter unless `-v` asks for more.
    pub(crate) fn start_logging(&self, default: &str) {
        let filter = match self.global.verbose {
            0 => default,
            1 => "debug,sqlx=info,hyper=info,hyper_util=info,reqwest=info,h2=info,tower_http=info",
            _ => "trace",
        };
        start_logging(
            filter,
            if self.out.is_json() {
                LogFormat::Json
            } else {
                LogFormat::Text
            },
        );
    }
}

/// Reads the command line, does what it says and gives the exit code.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|first| first == guard::SUBCOMMAND) {
        return guard::run(arguments.into_iter().skip(2));
    }
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to the parser too; nobody reading them is no failure.
            error.print().ok();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            }
            .into();
        }
    };
    let out = Output::new(arguments.global.json, arguments.global.color);
    let context = Context {
        global: arguments.global,
        out,
    };
    match dispatch(&context, arguments.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            out.failure(&failure);
            failure.exit.into()
        }
    }
}

fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Dev(args) => node(dev::run(context, args)),
        Command::Serve(args) => node(serve::run(context, args)),
        Command::Worker(args) => worker::run(context, &args),
        Command::New(args) => new::run(context, &args),
        Command::Check(args) => check::run(context, &args),
        Command::Fmt(args) => fmt::run(context, &args),
        Command::Lsp(args) => lsp::run(&args),
        Command::Test(args) => test::run(context, &args),
        Command::Push(args) => client(push::run(context, &args)),
        Command::Call(args) => client(call::run(context, args)),
        Command::Rules(args) => rules::run(context, &args),
        Command::Run(args) => client(run::run(context, args)),
        Command::Bulk(args) => client(bulk::run(context, args)),
        Command::Publish(args) => client(publish::run(context, args)),
        Command::Queue(args) => client(queue::run(context, args)),
        Command::Service(args) => client(service::run(context, args)),
        Command::Sweep(args) => client(sweep::run(context, args)),
        Command::Artifact(args) => client(artifact::run(context, args)),
        Command::Backup(args) => client(backup::run(context, args)),
        Command::Restore(args) => client(backup::restore(context, args)),
        Command::Doctor(args) => client(doctor::run(context, args)),
        Command::Sim(args) => sim::run(context, &args),
        Command::Demo(args) => client(crate::demo::run(context, args)),
        Command::Bench(args) => node(crate::bench::run(context, args)),
        Command::Completions(args) => completions::run(context, &args),
        Command::Help(args) => help::run(context, &args),
        Command::BenchFunction => bench_function::run(),
    }
}

/// Runs `work` on as many threads as the machine has cores.
fn node(work: impl Future<Output = Outcome>) -> Outcome {
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .min(THREADS_MAX);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    drive(builder.worker_threads(threads), work)
}

/// Runs `work` on this thread: a client has little to do.
fn client(work: impl Future<Output = Outcome>) -> Outcome {
    drive(&mut tokio::runtime::Builder::new_current_thread(), work)
}

fn drive(builder: &mut tokio::runtime::Builder, work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(Box::pin(work));
    // Blocking reads (standard input, a watched file) must not hold the process back.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        crate::args::Arguments::command().debug_assert();
    }
}
