//! Any text is compiled or refused: as it is, and as parts of rules files that its bytes choose.
#![no_main]

#[path = "../../tests/fuzzing/choices.rs"]
#[expect(dead_code, reason = "not every target needs every choice")]
mod choices;
#[path = "../../tests/fuzzing/parse.rs"]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        parse::check(text);
    }
    parse::check(&parse::text(bytes));
});
