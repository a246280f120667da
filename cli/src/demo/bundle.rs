//! The example service as it stands in this binary, so that the binary alone can show itself.

use celesta_bundle::{FileEntry, Files, pack};

/// The service's name.
pub(super) const SERVICE: &str = "video-encoder";

macro_rules! example {
    ($($path:literal),+ $(,)?) => {
        [$(($path, include_str!(concat!("../../../examples/video-encoder/", $path)))),+]
    };
}

/// The files of `examples/video-encoder`.
const FILES: &[(&str, &str)] = &example![
    "functions/assemble/assemble.py",
    "functions/assemble/function.toml",
    "functions/encode/encode.py",
    "functions/encode/function.toml",
    "functions/inspect/function.toml",
    "functions/inspect/inspect_source.py",
    "functions/quality/function.toml",
    "functions/quality/quality.py",
    "functions/shared/media.py",
    "functions/split/function.toml",
    "functions/split/split.py",
    "rules/encode.rules",
    "schemas/encode.input.json",
    "schemas/encode.output.json",
    "service.toml",
    "tests/encode.toml",
];

/// The bundle, packed.
pub(super) fn packed() -> Vec<u8> {
    pack(&files())
}

fn files() -> Files {
    FILES
        .iter()
        .map(|(path, text)| ((*path).to_owned(), FileEntry::text(text)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_example_is_in_the_binary() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/video-encoder");
        let there = celesta_bundle::read_folder(&folder).expect("the example is readable");
        let paths = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(&files()), paths(&there), "the list of files in this module");
        assert!(files() == there, "no file of the example is executable");
    }
}
