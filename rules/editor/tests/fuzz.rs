//! The formatter on random texts and on damaged files, with fixed bytes: it lays them out once and for all, or refuses.

#[path = "../../engine/tests/fuzzing/choices.rs"]
#[expect(dead_code, reason = "not every test needs every choice")]
mod choices;
#[path = "fuzzing/format.rs"]
mod format;
#[path = "../../engine/tests/fuzzing/parse.rs"]
#[expect(dead_code, reason = "the compiler has tests of its own")]
mod parse;

use choices::{Choices, bytes};

const FILES: [&str; 3] = [
    include_str!("../../../examples/video-encoder/rules/encode.rules"),
    include_str!("../../engine/benches/programs/hanoi.rules"),
    include_str!("../../engine/benches/programs/manners.rules"),
];
const SIGNS: [&str; 12] = [
    "//", "/*", "\n", "\"", "`", "{", "}", "(", ";", " else ", "-", "ä",
];

/// The text with one to three places cut out, doubled or written into.
fn damaged(text: &str, bytes: &[u8]) -> String {
    let mut choices = Choices::new(bytes);
    let mut text = text.to_owned();
    for _ in 0..=choices.below(3) {
        let from = choices.below(256) * 256 + choices.below(256);
        let from = text.floor_char_boundary(from % (text.len() + 1));
        let to = text.floor_char_boundary(from + choices.below(12));
        let put = match choices.below(3) {
            0 => String::new(),
            1 => text[from..to].repeat(2),
            _ => SIGNS[choices.below(SIGNS.len())].to_owned(),
        };
        text.replace_range(from..to, &put);
    }
    text
}

#[test]
fn damaged_files_are_laid_out_once_and_for_all_or_refused() {
    for (file, text) in FILES.iter().enumerate() {
        let laid_out = (0..100)
            .filter(|seed| format::check(&damaged(text, &bytes(*seed, 24))))
            .count();
        assert!((1..100).contains(&laid_out), "file {file}: {laid_out}");
    }
}

#[test]
fn random_texts_are_laid_out_once_and_for_all_or_refused() {
    let laid_out = (0..1_000)
        .filter(|seed| {
            let length = usize::try_from(seed % 60).unwrap_or(0) + 2;
            format::check(&parse::text(&bytes(*seed, length)))
        })
        .count();
    assert!(laid_out > 0);
}
