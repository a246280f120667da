//! Names of functions and of the queues between runs and functions.

/// The exclusive queue whose keys are run ids: every message to a run goes there.
pub const RUNS_QUEUE: &str = "runs";

/// The prefix of all function queues.
pub const FUNCTION_QUEUES: &str = "functions/";

/// Characters of a service's or function's name: it becomes a part of paths, queue names and metric labels.
pub const NAME_LENGTH_MAX: usize = 64;

/// The queue of one function's invocations: `functions/<service>/<function>`.
#[must_use]
pub fn function_queue(service: &str, function: &str) -> String {
    format!("{FUNCTION_QUEUES}{service}/{function}")
}

/// Service and function of a function's queue, or `None` when `queue` is of another kind.
#[must_use]
pub fn parse_function_queue(queue: &str) -> Option<(&str, &str)> {
    queue
        .strip_prefix(FUNCTION_QUEUES)?
        .split_once('/')
        .filter(|(service, function)| is_name(service) && is_name(function))
}

/// Whether `text` may name a service or a function: a lowercase letter, then letters, digits, `-` and `_`, in lower
/// case, at most [`NAME_LENGTH_MAX`].
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_LENGTH_MAX
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_queue_reads_back_and_others_do_not() {
        let queue = function_queue("video-encoder", "encode");
        assert_eq!(queue, "functions/video-encoder/encode");
        assert_eq!(parse_function_queue(&queue), Some(("video-encoder", "encode")));
        for other in [
            "runs",
            "functions/",
            "functions/a",
            "functions/a/b/c",
            "functions/A/b",
            "functions//b",
        ] {
            assert_eq!(parse_function_queue(other), None, "{other}");
        }
    }

    #[test]
    fn names_fit_paths_and_labels() {
        assert!(is_name("encode") && is_name("h264-encode_2"));
        for wrong in ["", "2x", "Encode", "a/b", "a.b", "é", &"a".repeat(65)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
