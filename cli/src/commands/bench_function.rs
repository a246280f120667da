//! The hidden `bench-function`: what the benches call. It speaks the `serve` protocol and returns its input.
//!
//! It takes all lines that are there, answers them in one write, and never parses more than it must: it stands for a
//! function that costs nothing, so that the platform is what is measured.

use std::io::{Read as _, Write as _};

use crate::exit::{Exit, Failure, Outcome};

/// Read at once: some hundreds of requests.
const READ_SIZE: usize = 256 * 1024;
/// A request line longer than this is none of the benches'.
const LINE_MAX: usize = 4 * 1024 * 1024;

/// Echoes until standard input ends.
pub(crate) fn run() -> Outcome {
    let broken = |error: std::io::Error| Failure::internal(format!("cannot speak with the worker: {error}"));
    let (mut stdin, mut stdout) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut waiting: Vec<u8> = Vec::with_capacity(READ_SIZE);
    let mut answers: Vec<u8> = Vec::with_capacity(READ_SIZE);
    let mut chunk = vec![0; READ_SIZE];
    loop {
        let read = stdin.read(&mut chunk).map_err(broken)?;
        if read == 0 {
            return Ok(Exit::Done);
        }
        waiting.extend_from_slice(&chunk[..read]);
        let mut begun = 0;
        while let Some(length) = waiting[begun..].iter().position(|&byte| byte == b'\n') {
            answer(&waiting[begun..begun + length], &mut answers);
            begun += length + 1;
        }
        waiting.drain(..begun);
        if waiting.len() > LINE_MAX {
            return Err(Failure::internal("the worker sent a line without an end"));
        }
        stdout
            .write_all(&answers)
            .and_then(|()| stdout.flush())
            .map_err(broken)?;
        answers.clear();
    }
}

/// The parts of a request an echo needs, as they stand in the text.
#[derive(serde::Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    id: &'a serde_json::value::RawValue,
    #[serde(borrow)]
    input: &'a serde_json::value::RawValue,
}

fn answer(line: &[u8], answers: &mut Vec<u8>) {
    let Ok(request) = serde_json::from_slice::<Request<'_>>(line) else {
        return;
    };
    answers.extend_from_slice(b"{\"id\":");
    answers.extend_from_slice(request.id.get().as_bytes());
    answers.extend_from_slice(b",\"result\":");
    answers.extend_from_slice(request.input.get().as_bytes());
    answers.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn the_input_comes_back_under_its_id() {
        let mut answers = Vec::new();
        answer(br#"{"id":"a","input":{"n":1},"attempt":1}"#, &mut answers);
        answer(b"not json", &mut answers);
        assert_eq!(
            String::from_utf8_lossy(&answers),
            "{\"id\":\"a\",\"result\":{\"n\":1}}\n"
        );
    }
}
