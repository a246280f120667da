//! `celesta help [COMMAND…|exit-codes]`.

use clap::{Args, CommandFactory as _};

use super::Context;
use crate::args::Arguments;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, table};

/// Options of `help`.
#[derive(Debug, Args)]
pub(crate) struct HelpArgs {
    /// A command, or `exit-codes`
    topic: Vec<String>,
}

/// Prints the help asked for.
pub(crate) fn run(context: &Context, args: &HelpArgs) -> Outcome {
    if args.topic.first().is_some_and(|topic| topic == "exit-codes") {
        return exit_codes(context);
    }
    let mut root = Arguments::command();
    root.build();
    let mut command = &mut root;
    for name in &args.topic {
        command = command.find_subcommand_mut(name).ok_or_else(|| {
            Failure::usage(format!("`{name}` is not a command")).hint("`celesta help` lists the commands")
        })?;
    }
    let help = command.render_long_help();
    Output::raw(help.ansi())?;
    Ok(Exit::Done)
}

fn exit_codes(context: &Context) -> Outcome {
    let out = context.out;
    if out.is_json() {
        let codes: Vec<_> = Exit::ALL
            .iter()
            .map(|exit| serde_json::json!({ "code": exit.code(), "meaning": exit.meaning() }))
            .collect();
        out.json(&codes)?;
    } else {
        let rows: Vec<_> = Exit::ALL
            .iter()
            .map(|exit| vec![exit.code().to_string(), exit.meaning().to_owned()])
            .collect();
        out.line(table(&["code", "meaning"], &rows))?;
    }
    Ok(Exit::Done)
}
