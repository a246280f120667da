//! `celesta new NAME`: a bundle that works, small enough to read at once.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{DIM, GOOD, STRONG};

/// A file of the starter; `@NAME@` becomes the service's name.
struct Starter {
    path: &'static str,
    text: &'static str,
    executable: bool,
}

const FILES: [Starter; 6] = [
    Starter {
        path: "service.toml",
        text: include_str!("../../bundles/new/service.toml"),
        executable: false,
    },
    Starter {
        path: "rules/welcome.rules",
        text: include_str!("../../bundles/new/rules/welcome.rules"),
        executable: false,
    },
    Starter {
        path: "functions/greet/function.toml",
        text: include_str!("../../bundles/new/functions/greet/function.toml"),
        executable: false,
    },
    Starter {
        path: "functions/greet/greet.sh",
        text: include_str!("../../bundles/new/functions/greet/greet.sh"),
        executable: true,
    },
    Starter {
        path: "schemas/welcome.input.json",
        text: include_str!("../../bundles/new/schemas/welcome.input.json"),
        executable: false,
    },
    Starter {
        path: "tests/welcome.toml",
        text: include_str!("../../bundles/new/tests/welcome.toml"),
        executable: false,
    },
];

/// Options of `new`.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The service's name, and its folder's unless --dir is given
    name: String,
    /// The folder to create
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Writes the files.
pub(crate) fn run(context: &Context, args: &NewArgs) -> Outcome {
    if !celesta_functions::names::is_name(&args.name) {
        return Err(Failure::usage(format!("`{}` cannot name a service", args.name))
            .hint("a lowercase letter, then lowercase letters, digits, `-` and `_`, at most 64 characters"));
    }
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if folder
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(Failure::new(
            Exit::Conflict,
            format!("{} exists and is not empty", folder.display()),
        ));
    }
    for file in &FILES {
        write(
            &folder.join(file.path),
            &file.text.replace("@NAME@", &args.name),
            file.executable,
        )?;
    }
    let paths: Vec<&str> = FILES.iter().map(|file| file.path).collect();
    let shown = folder.display();
    context
        .out
        .json(&serde_json::json!({ "folder": folder, "files": paths }))?;
    context
        .out
        .line(format_args!("{GOOD}created{GOOD:#} {STRONG}{shown}{STRONG:#}"))?;
    context
        .out
        .note(format_args!("{DIM}next:{DIM:#} celesta test {shown}"));
    context
        .out
        .note(format_args!("{DIM}then:{DIM:#} celesta dev {shown}"));
    context.out.note(format_args!(
        "{DIM}and :{DIM:#} celesta call {}/welcome --input '{{\"names\":[\"Ada\",\"Grace\"]}}' --wait",
        args.name
    ));
    Ok(Exit::Done)
}

fn write(path: &Path, text: &str, executable: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::file("write", path, &error);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    std::fs::write(path, text).map_err(failed)?;
    if executable {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    }
    Ok(())
}
