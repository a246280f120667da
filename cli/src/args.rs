//! The command line as a whole: global options and the list of commands. Each command's own options stand in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::output::Color;

/// Where a server listens unless told otherwise, and where clients look for it.
pub(crate) const SERVER: &str = "http://127.0.0.1:7070";

/// Rule-driven services whose work is heavy, bursty and long.
#[derive(Debug, Parser)]
#[command(
    name = "celesta",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "Start with `celesta new hello`, then `celesta dev hello`. `celesta help exit-codes` lists the exit codes."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options every command understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Print JSON: one document, or one line for each event
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// The server to talk to
    #[arg(long, global = true, env = "CELESTA_SERVER", default_value = SERVER, value_name = "URL", help_heading = "Global options")]
    pub(crate) server: String,
    /// The token the server asks for
    #[arg(
        long,
        global = true,
        env = "CELESTA_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Global options"
    )]
    pub(crate) token: Option<String>,
    /// Who asks: stands in the histories of what is changed
    #[arg(
        long,
        global = true,
        env = "CELESTA_ACTOR",
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) actor: Option<String>,
    /// When to use color
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "WHEN",
        help_heading = "Global options"
    )]
    pub(crate) color: Color,
    /// Log more: -v for details, -vv for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// Where a node keeps what it knows.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataArgs {
    /// The folder that holds the node's data
    #[arg(
        long = "data",
        env = "CELESTA_DATA",
        default_value = ".celesta",
        value_name = "DIR"
    )]
    pub(crate) folder: PathBuf,
}

/// What `celesta` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process and reload bundles when their files change
    Dev(commands::dev::DevArgs),
    /// Run a node: API, rules, queue and local workers
    Serve(commands::serve::ServeArgs),
    /// Run functions for a server on another machine
    Worker(commands::worker::WorkerArgs),
    /// Create a bundle that works, to start from
    New(commands::new::NewArgs),
    /// Find every mistake in a bundle
    Check(commands::check::CheckArgs),
    /// Lay out rules files
    Fmt(commands::fmt::FmtArgs),
    /// Serve an editor: diagnostics, completion, hover, rename, formatting
    Lsp(commands::lsp::LspArgs),
    /// Run a bundle's scenarios
    Test(commands::test::TestArgs),
    /// Push a bundle to the server
    Push(commands::push::PushArgs),
    /// Request an operation of a service
    Call(commands::call::CallArgs),
    /// Compare rules before they are pushed
    Rules(commands::rules::RulesArgs),
    /// Look at runs and steer them
    Run(commands::run::RunArgs),
    /// Do one thing to many runs, in the background
    Bulk(commands::bulk::BulkArgs),
    /// Publish an event to whoever subscribes to it
    Publish(commands::publish::PublishArgs),
    /// Use queues on their own: send messages, take them, look at them
    Queue(commands::queue::QueueArgs),
    /// Look at the nodes of a deployment, and move partitions between databases
    Node(commands::node::NodeArgs),
    /// Look at services, and at the facts their runs share
    Service(commands::service::ServiceArgs),
    /// Look at sweeps over resting runs and steer them
    Sweep(commands::sweep::SweepArgs),
    /// Store and fetch artifacts
    Artifact(commands::artifact::ArtifactArgs),
    /// Copy a node's data to a folder, also while it runs
    Backup(commands::backup::BackupArgs),
    /// Make a node's data from a backup
    Restore(commands::backup::RestoreArgs),
    /// Check every invariant of a node's data, also while it runs
    Doctor(commands::doctor::DoctorArgs),
    /// Run the platform in a simulation with faults, and look for promises it breaks
    Sim(commands::sim::SimArgs),
    /// Encode a video with the example service, from nothing to files
    Demo(crate::demo::DemoArgs),
    /// Measure this machine
    Bench(crate::bench::BenchArgs),
    /// Print completions for a shell
    Completions(commands::completions::CompletionsArgs),
    /// Print help about a command, or about exit-codes
    Help(commands::help::HelpArgs),
    /// Echoes numbers over the serve protocol (used by the benches)
    #[command(hide = true)]
    BenchFunction,
}
